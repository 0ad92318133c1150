#!/bin/sh
# Leaves only keys in the directories of these processes, and no log of theirs; see deployment.py. NAME...
for name; do
  # Files that a killed broker left in memory (gateway/broker/plugin_document.py).
  memory=$(cat "$name/security.json.memory" 2>/dev/null)
  case $memory in /dev/shm/m2m-*) rm -rf -- "$memory" ;; esac
  rm -f -- "log/m2m-$name.log" "log/m2m-$name.log.1"
  [ ! -d "$name" ] || find "./$name" -mindepth 1 -maxdepth 1 ! -name keys \
    ! -name host.key ! -name flashed.json -exec rm -rf -- {} +
done
