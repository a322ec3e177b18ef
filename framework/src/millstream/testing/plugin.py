"""The pytest plugin: fixtures that come with `pip install millstream`."""
