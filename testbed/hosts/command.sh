#!/bin/sh
# Runs one command on a host in our directory; see ssh.py.   VERB ROOT LIMIT_S COMMAND...
#   run: without input.   feed: with ours.   talk: with ours, without a limit, errors dropped.
# Whatever a login prints comes before the mark. Whatever it exports, as PYTHONPATH, stays out.
printf '\002m2m\003\n'
verb=$1 root=$2 limit=$3
shift 3
# shellcheck disable=SC2174 # the directories above it are not ours to close
cd -- "$root" 2>/dev/null || { mkdir -p -m 700 -- "$root" && cd -- "$root"; } || exit 1
set -- env -i PATH="$PATH" HOME="$HOME" USER="$USER" LOGNAME="$LOGNAME" SHELL="$SHELL" \
  LC_ALL=C.UTF-8 ${TZ+"TZ=$TZ"} ${TMPDIR+"TMPDIR=$TMPDIR"} "$@"
# OpenSSH ends the whole connection, with all that others do over it, when anything comes for a
# channel that is closed, and Paramiko may send just that (its issues 1115 and 1705). So a command
# that is given nothing reads nothing, not even our end; and one that is given something stays,
# whatever became of the program, until we have said that nothing more comes.
# `exit` keeps the shell, which turns a death by signal into 128 + n.
case $verb in
  run) timeout -k 1 "$limit" "$@" </dev/null; exit $? ;;
  feed) timeout -k 1 "$limit" "$@" ;;
  talk) "$@" 2>/dev/null ;;
esac
code=$?
exec >&- 2>&-
cat >/dev/null
exit $code
