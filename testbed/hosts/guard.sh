#!/bin/sh
# Becomes a command, and ends its whole process group when the other end of descriptor GUARD is
# closed; see guard.py.   GUARD COMMAND...
guard=$1
shift
(trap '' TERM INT HUP; read -r _ <"/dev/fd/$guard"; kill -KILL 0) >/dev/null 2>&1 </dev/null &
exec "$@"
