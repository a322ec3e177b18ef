#!/bin/sh
# Prints the Python to build the environment with: $PYTHON, else the distribution's 3.11, else the first on the PATH that is
# 3.11 or newer and can make virtual environments. Without one it says what is missing and how to get it, and fails.
# The distribution's comes first because it is built with profile-guided optimisation, which interpreters that somebody
# compiled by hand often lack: the same events took 1.3 times the time there.

fits='import sys; sys.exit(sys.version_info < (3, 11))'
old=''
bare=''

for candidate in ${PYTHON:-/usr/bin/python3.11 python3.11 python3 python3.12 python3.13 python3.14}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c '' >/dev/null 2>&1 || continue
    if ! "$candidate" -c "$fits" >/dev/null 2>&1; then
        old="$candidate is $("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null)"
        continue
    fi
    # Debian packs venv and ensurepip apart from Python.
    if ! "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        bare=$candidate
        continue
    fi
    echo "$candidate"
    exit 0
done

if [ -n "$bare" ]; then
    echo "Millstream: $bare cannot make virtual environments, its venv module is missing." >&2
    echo "Fix, on Debian or Ubuntu: sudo apt-get install python3-venv" >&2
else
    echo "Millstream needs Python 3.11 or newer${PYTHON:+, and PYTHON=$PYTHON is not}${old:+; $old}." >&2
    echo "Fix, on Debian 12 or Ubuntu 24.04: sudo apt-get install python3 python3-venv" >&2
    echo "Elsewhere: install Python 3.11, then run make PYTHON=/path/to/python3.11 TARGET" >&2
fi
exit 1
