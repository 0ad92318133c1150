#!/bin/sh
# Keeps undos that wait on a host. Runs there in our directory; dead_man.py explains undos.
#   arm NAME SECONDS    the command is in undo/.new-NAME already
#   wake                start sleepers for undos of an earlier boot; prints NAME SECONDS of each
#   boot                the same, and wait for them
#   disarm NAME TENTHS  wait so long for an undo that has begun
#   fire NAME           run it now
#   list                prints NAME SECONDS of each that waits

boot=$(cat /proc/sys/kernel/random/boot_id)

# Kill the sleeper of a directory. Not if its process id is of an earlier boot: another program may
# have the id by now. dash takes no `--` after `kill -KILL`, only after `kill -s KILL`.
kill_sleeper() {
  [ "$(cat "$1/boot" 2>/dev/null)" = "$boot" ] || return 0
  pid=$(cat "$1/pid" 2>/dev/null) && kill -s KILL -- "-$pid" 2>/dev/null
  return 0
}

# begin_sleep NAME SECONDS once|again. `again`: the undo had begun when power was cut.
# The sleeper has a session of its own and none of our streams, so neither a hang-up nor the end of
# the connection ends it.
begin_sleep() {
  # shellcheck disable=SC2016
  setsid sh -c '
    sleep "$2"
    mv "undo/$1" "undo/.fired-$1" 2>/dev/null || [ "$3" = again ] || exit 0
    sh "undo/.fired-$1/run" <"undo/.fired-$1/input" >"log/undo-$1.log" 2>&1 || exit 1
    rm -rf "undo/.fired-$1"
  ' undo "$1" "$2" "$3" </dev/null >/dev/null 2>&1 &
  # Until it leads its own session, it may end with us.
  n=0
  until [ "$(cut -d " " -f 6 "/proc/$!/stat")" = "$!" ]; do
    n=$((n + 1))
    [ "$n" -le 250 ] || return 1
    sleep 0.02
  done
}

arm() {
  # Remove an older undo of this name, even one that has begun and failed: the new one needs its
  # place.
  kill_sleeper "undo/$1"
  kill_sleeper "undo/.fired-$1"
  set -e
  rm -rf "undo/$1" "undo/.fired-$1"
  echo "$2" >"undo/.new-$1/for"
  echo "$(( $(date +%s) + $2 ))" >"undo/.new-$1/due"
  echo "$boot" >"undo/.new-$1/boot"
  mv "undo/.new-$1" "undo/$1"
  sync "undo/$1/for" "undo/$1/due" "undo/$1/boot" "undo/$1" undo
  begin_sleep "$1" "$2" once
  # On a slow machine its time may be over already, so its directory may be gone.
  echo $! >"undo/$1/pid" || [ ! -e "undo/$1" ]
}

# Two callers may wake the same undo: the first that renames its directory runs it.
wake() {
  for place in undo/* undo/.fired-*; do
    [ -e "$place/run" ] || continue
    # If an undo is just ending, its files may disappear meanwhile.
    if ! was=$(cat "$place/boot" 2>/dev/null) || [ "$was" = "$boot" ]; then continue; fi
    due=$(cat "$place/due" 2>/dev/null) || continue
    long=$(cat "$place/for" 2>/dev/null) || continue
    name=${place#undo/}; name=${name#.fired-}
    left=$((due - $(date +%s)))
    [ "$left" -ge 0 ] || left=0
    [ "$left" -le "$long" ] || left=$long
    echo "$boot" >"$place/boot"
    begun=again; [ ! -e "undo/$name" ] || begun=once
    begin_sleep "$name" "$left" "$begun"
    echo $! >"$place/pid"
    echo "$name $left"
  done
}

# Wait for an undo that has begun, so that it cannot change anything after disarming.
disarm() {
  rm -rf "undo/.off-$1" # of one that was cut off: `mv` would move into it
  if mv "undo/$1" "undo/.off-$1" 2>/dev/null; then
    kill_sleeper "undo/.off-$1"
    rm -rf "undo/.off-$1"
  fi
  n=0
  while [ -e "undo/.fired-$1" ] && [ "$n" -lt "$2" ]; do sleep 0.1; n=$((n + 1)); done
  [ ! -e "undo/.fired-$1" ]
}

fire() {
  if mv "undo/$1" "undo/.fired-$1" 2>/dev/null; then
    kill_sleeper "undo/.fired-$1"
  fi
  [ -e "undo/.fired-$1" ] || exit 0
  sh "undo/.fired-$1/run" <"undo/.fired-$1/input" && rm -rf "undo/.fired-$1"
}

list() {
  now=$(date +%s)
  for place in undo/* undo/.fired-*; do
    [ -e "$place/run" ] || continue
    due=$(cat "$place/due" 2>/dev/null) || continue
    name=${place#undo/}; name=${name#.fired-}
    echo "$name $((due - now))"
  done
}

verb=$1
shift
case $verb in
  arm | disarm | fire | list | wake) "$verb" "$@" ;;
  boot) wake; wait ;;
esac
