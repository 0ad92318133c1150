#!/bin/sh
# Joins control groups, then becomes a command; see machine.py.   GROUP_FILE... -- COMMAND...
while [ "$1" != -- ]; do
  echo $$ >"$1"
  shift
done
shift
exec "$@"
