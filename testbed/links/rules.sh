#!/bin/sh
# Link rules of ours on a host; see on_host.py. Runs there as the login, with sudo where it must.
#   set DEVICE HANDLE TABLE   stdin: an nft script, a line "--", a tc batch. Replaces all rules.
#   show DEVICE HANDLE TABLE  prints two lines of JSON: nft's and tc's
#   clear DEVICE HANDLE TABLE repeatable
# DEVICE "-": the host's device is not known, so it gets no queueing discipline.
PATH=$PATH:/usr/sbin:/sbin

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# The handle of a device's root discipline: "0:" is the kernel's own.
root_handle() {
  tc qdisc show dev "$1" root | head -n 1 | cut -d " " -f 3
}

unqueue() {
  [ "$1" != - ] && [ -e "/sys/class/net/$1" ] && command -v tc >/dev/null || return 0
  [ "$(root_handle "$1")" = "$2" ] || return 0
  as_root tc qdisc del dev "$1" root
}

unfilter() {
  command -v nft >/dev/null || return 0
  # In one transaction, without an error if the table is not there.
  printf 'table inet %s {}\ndelete table inet %s\n' "$1" "$1" | as_root nft -f -
}

set_rules() {
  given=$(cat)
  filter=$(printf '%s\n' "$given" | sed '/^--$/,$d')
  queue=$(printf '%s\n' "$given" | sed '1,/^--$/d')
  unqueue "$1" "$2" || return 1
  if [ -n "$queue" ]; then
    case $(root_handle "$1") in
      0: | '') ;;
      *) echo "$1 has a queueing discipline of somebody else" >&2; return 1 ;;
    esac
    printf '%s\n' "$queue" | as_root tc -batch - || return 1
  fi
  if [ -n "$filter" ]; then
    # One transaction removes the old table and adds the new one.
    printf 'table inet %s {}\ndelete table inet %s\n%s\n' "$3" "$3" "$filter" | as_root nft -f -
  else
    unfilter "$3"
  fi
}

show() {
  as_root nft -j list table inet "$3" 2>/dev/null || echo '{}'
  # tc prints one line in this way, whatever its version.
  if [ "$1" != - ] && [ "$(root_handle "$1")" = "$2" ]; then
    tc -j -s qdisc show dev "$1" | tr -d '\n'
  else
    printf '[]'
  fi
  echo
}

verb=$1
shift
case $verb in
  set) set_rules "$@" ;;
  show) show "$@" ;;
  clear) unqueue "$1" "$2" && unfilter "$3" ;;
esac
