#!/bin/sh
# Leaves only keys in the directories of these processes, and no log of theirs; see clean.py. NAME...
for name; do
  rm -f -- "log/m2m-$name.log" "log/m2m-$name.log.1"
  [ ! -d "$name" ] || find "./$name" -mindepth 1 -maxdepth 1 ! -name keys \
    ! -name host.key ! -name flashed.json -exec rm -rf -- {} +
done
