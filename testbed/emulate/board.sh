#!/bin/sh
# Becomes a board whose serial port is a terminal of its host; see machine.py.   PTS COMMAND...
set -e
mount --bind "$1" /dev/pts
mount --bind "$1/ptmx" /dev/ptmx
shift
exec "$@"
