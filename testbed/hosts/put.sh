#!/bin/sh
# Writes standard input to a file, whole or not at all; see ssh.py.   PATH MODE SHA256
set -e
mkdir -p -- "$(dirname -- "$1")"
umask 077
trap '' PIPE # the clean-up runs also when nobody is left to hear about the failure
trap 'exit 1' TERM HUP
new=$(mktemp -- "$1.part.XXXXXX")
trap 'rm -f -- "$new"' EXIT
cat >"$new"
[ "$(sha256sum <"$new")" = "$3  -" ] || { echo "it arrived damaged" >&2; exit 1; }
chmod "$2" "$new"
sync "$new"
mv -fT -- "$new" "$1"
