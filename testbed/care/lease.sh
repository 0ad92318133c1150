#!/bin/sh
# Keeps who has this host. Runs there in our directory, under a lock; lease.py explains leases.
#   claim|renew TOKEN SECONDS HOLDER OTHER   OTHER: a token that may be replaced
#   release TOKEN | break | take-over | show
# Exit codes: 44 nobody has it, 55 somebody else has it (printed), 56 it was taken over.
# The file `lease` has five lines: token, end and length in seconds of uptime, holder, boot. After a
# takeover it has a lease that has ended: anybody may take it, but its former owner cannot renew it.

read -r boot </proc/sys/kernel/random/boot_id
read -r now _ </proc/uptime
now=${now%.*}
if [ "$1" != show ]; then # looking needs no lock, because the file is replaced whole
  if ! problem=$( (: >>lease.lock) 2>&1); then
    echo "cannot write in $PWD: ${problem##*: }; is its card read-only or full? replace it, or:" \
      "sudo mount -o remount,rw /" >&2
    exit 1
  fi
  exec 9>>lease.lock
  flock -w 10 9 || { echo "lease.lock is held" >&2; exit 1; }
fi
token=''; until=0; long=0; who=''; was=''
if [ -e lease ]; then
  { read -r token; read -r until; read -r long; read -r who; read -r was; } <lease
fi
[ "$1 $token" != "renew taken-over" ] || exit 56
# After a restart the time counts from the beginning: no clock knows how long the host was off.
[ "$was" = "$boot" ] || until=$long
left=$((until - now))
[ "$left" -gt 0 ] || token=
case $1 in
  claim | renew)
    if [ -n "$token" ] && [ "$token" != "$2" ] && [ "$token" != "$5" ]; then
      printf '%s\n' "$token $left $who"
      exit 55
    fi
    if ! { printf '%s\n' "$2" "$((now + $3))" "$3" "$4" "$boot" >lease.new &&
      mv lease.new lease; }; then
      echo "cannot write in $PWD; is its disk full? $(df -h . | tail -n 1)" >&2
      exit 1
    fi ;;
  release) [ "$token" != "$2" ] || rm -f lease ;;
  break) rm -f lease ;;
  take-over) printf '%s\n' taken-over 0 0 >lease.new && mv lease.new lease ;;
  show)
    [ -n "$token" ] || exit 44
    printf '%s\n' "$token $left $who" ;;
esac
