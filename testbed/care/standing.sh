#!/bin/sh
# Lists what of ours is on a host besides units and undos, one per line; see restore.py.
#   show|remove ROOT COMMENT HANDLE   ROOT: our directory there. `remove` also removes what it lists.
# If something cannot be looked at, a line says "cannot look at ...".
# Ours are: filter tables with the comment COMMENT, root queueing disciplines with the handle
# HANDLE, processes whose program is our environment's interpreter, files of faults in ROOT.
PATH=$PATH:/usr/sbin:/sbin

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

tables() {
  command -v nft >/dev/null || return 0
  if ! list=$(as_root nft list tables 2>&1); then
    # The last line, because sudo may print warnings before the reason.
    echo "cannot look at filter tables: $(printf '%s\n' "$list" | tail -n 1)"
    return
  fi
  printf '%s\n' "$list" | while read -r _ family name; do
    as_root nft list table "$family" "$name" 2>/dev/null </dev/null |
      grep -q "^[[:blank:]]comment \"$2\"\$" || continue
    echo "filter table $family $name"
    [ "$1" != remove ] || as_root nft delete table "$family" "$name" </dev/null
  done
}

disciplines() {
  command -v tc >/dev/null || return 0
  if ! list=$(tc qdisc show 2>&1); then
    echo "cannot look at link rules: $(printf '%s\n' "$list" | head -n 1)"
    return
  fi
  printf '%s\n' "$list" | while read -r _ kind handle _ device rest; do
    case "$handle $rest" in "$2 root"*) ;; *) continue ;; esac
    echo "$kind on $device"
    [ "$1" != remove ] || as_root tc qdisc del dev "$device" root </dev/null
  done
}

processes() {
  for place in /proc/[0-9]*; do
    words=$(tr '\000-\037\177' '[ *]' <"$place/cmdline" 2>/dev/null) || continue
    case $words in "$2/env/bin/"*) ;; *) continue ;; esac
    # Not echo: in some shells it turns backslashes of a program text into line ends.
    printf 'process %s: %s\n' "${place#/proc/}" "$words" | cut -c 1-160
    [ "$1" != remove ] || kill -s KILL "${place#/proc/}"
  done
}

files() {
  for path in "$2"/fault-*; do
    [ -e "$path" ] || continue
    echo "file ${path##*/}"
    [ "$1" != remove ] || rm -rf -- "$path"
  done
}

# Files of a full disk come first, because other steps may need room.
files "$1" "$2"
tables "$1" "$3"
disciplines "$1" "$4"
processes "$1" "$2"
:
