"""`python -m millstream` is the command `millstream`."""

from .cli import main

if __name__ == "__main__":
    main()
