#!/bin/sh
# Link rules of ours on a host; see on_host.py. Runs there as the login, with sudo where it must.
#   set DEVICE HANDLE TABLE COMMENT   stdin: an nft script, a line "--", a tc batch. Replaces all rules.
#   show DEVICE HANDLE TABLE COMMENT  prints two lines of JSON: nft's and tc's
#   clear DEVICE HANDLE TABLE COMMENT repeatable
# DEVICE "-": the host's device is not known, so it gets no queueing discipline.
# A table without COMMENT, or a discipline without HANDLE, is somebody else's: it is never changed.
PATH=$PATH:/usr/sbin:/sbin

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# The handle of a device's root discipline: "0:" is the kernel's own.
root_handle() {
  disciplines=$(tc qdisc show dev "$1" root) || return 1
  printf '%s\n' "$disciplines" | head -n 1 | cut -d " " -f 3
}

# Whose a table is: "ours", "foreign" or "none".
owner() {
  command -v nft >/dev/null || { echo none; return 0; }
  tables=$(as_root nft list tables) || return 1
  printf '%s\n' "$tables" | grep -qx "table inet $1" || { echo none; return 0; }
  table=$(as_root nft list table inet "$1") || return 1
  # One blank: a chain or set in the table may have a comment too.
  if printf '%s\n' "$table" | grep -q "^[[:blank:]]comment \"$2\"\$"; then
    echo ours
  else
    echo foreign
  fi
}

refuse_table() {
  echo "the filter table inet $1 is of somebody else: rename or delete it" >&2
  return 1
}

unqueue() {
  [ "$1" != - ] && [ -e "/sys/class/net/$1" ] && command -v tc >/dev/null || return 0
  handle=$(root_handle "$1") || return 1
  [ "$handle" = "$2" ] || return 0
  as_root tc qdisc del dev "$1" root
}

unfilter() {
  whose=$(owner "$1" "$2") || return 1
  [ "$whose" = ours ] || return 0
  # In one transaction, without an error if the table is gone by now.
  printf 'table inet %s {}\ndelete table inet %s\n' "$1" "$1" | as_root nft -f -
}

set_rules() {
  given=$(cat)
  filter=$(printf '%s\n' "$given" | sed '/^--$/,$d')
  queue=$(printf '%s\n' "$given" | sed '1,/^--$/d')
  if [ -n "$filter" ]; then
    whose=$(owner "$3" "$4") || return 1
    [ "$whose" != foreign ] || refuse_table "$3" || return 1
  fi
  unqueue "$1" "$2" || return 1
  if [ -n "$queue" ]; then
    handle=$(root_handle "$1") || return 1
    case $handle in
      0: | '') ;;
      *) echo "$1 has a queueing discipline of somebody else" >&2; return 1 ;;
    esac
    printf '%s\n' "$queue" | as_root tc -batch - || return 1
  fi
  if [ -n "$filter" ]; then
    # One transaction removes the old table and adds the new one.
    printf 'table inet %s {}\ndelete table inet %s\n%s\n' "$3" "$3" "$filter" | as_root nft -f -
  else
    unfilter "$3" "$4"
  fi
}

# Tries both, because what one cannot do must not keep the other.
clear_rules() {
  code=0
  unqueue "$1" "$2" || code=1
  unfilter "$3" "$4" || code=1
  return "$code"
}

show() {
  whose=$(owner "$3" "$4") || return 1
  case $whose in
    none) echo '{}' ;;
    ours) as_root nft -j list table inet "$3" || return 1 ;;
    foreign) refuse_table "$3" || return 1 ;;
  esac
  handle=''
  if [ "$1" != - ] && command -v tc >/dev/null; then
    handle=$(root_handle "$1") || return 1
  fi
  if [ "$handle" = "$2" ]; then
    disciplines=$(tc -j -s qdisc show dev "$1") || return 1
    # tc prints one line in this way, whatever its version.
    printf '%s' "$disciplines" | tr -d '\n'
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
  clear) clear_rules "$@" ;;
esac
