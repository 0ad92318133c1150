#!/bin/sh
# Runs a program with the newest Python of a host; see probe.py.   PROGRAM
for python in python3 python3.14 python3.13 python3.12 python3.11; do
  if "$python" -I -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    exec "$python" -I -c "$1" probe
  fi
done
echo "no Python 3.11 or newer: $(python3 --version 2>&1 | head -n 1)" >&2
exit 9
