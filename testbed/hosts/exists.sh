#!/bin/sh
# Whether a file is there, or comes while it is looked for again each tenth of a second.   PATH LOOKS
looks=$2
until [ -e "$1" ]; do
  [ "$looks" -gt 0 ] || exit 1
  looks=$((looks - 1))
  sleep 0.1
done
