#!/bin/sh
# Prints the first Python that the pinned versions support and that can make a virtual environment.
# PYTHON=/path/to/python makes the choice by hand.
works() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}
for python in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
    if works "$python"; then
        command -v "$python"
        exit 0
    fi
done
echo "elastic-agent needs Python 3.11, 3.12 or 3.13 with its venv module, and found none${PYTHON:+ in PYTHON=$PYTHON}:" \
    "install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3" >&2
exit 1
