#!/bin/sh
# Runs one command on a host in our directory; see ssh.py.   VERB ROOT LIMIT_S COMMAND...
#   run: no input.   feed: our input.   talk: our input, no time limit, errors dropped.
# The login's output comes before the mark. Its variables, like PYTHONPATH, are not passed on.
printf '\002m2m\003\n'
verb=$1 root=$2 limit=$3
shift 3
# shellcheck disable=SC2174 # the directories above it keep their modes
cd -- "$root" 2>/dev/null || { mkdir -p -m 700 -- "$root" && cd -- "$root"; } || exit 1
set -- env -i PATH="$PATH" HOME="$HOME" USER="$USER" LOGNAME="$LOGNAME" SHELL="$SHELL" \
  LC_ALL=C.UTF-8 ${TZ+"TZ=$TZ"} ${TMPDIR+"TMPDIR=$TMPDIR"} "$@"
# OpenSSH ends the whole connection, also for other users of it, if anything arrives for a closed
# channel, and Paramiko may send that (its issues 1115 and 1705). So a command without input reads
# nothing, not even the end of our input. A command with input waits until our input ends, even if
# the program has ended before.
# `exit` keeps the shell, which turns the end by signal n into 128 + n.
case $verb in
  run) timeout -k 1 "$limit" "$@" </dev/null; exit $? ;;
  feed) timeout -k 1 "$limit" "$@" ;;
  talk) "$@" 2>/dev/null ;;
esac
code=$?
exec >&- 2>&-
cat >/dev/null
exit $code
