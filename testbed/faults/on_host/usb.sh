#!/bin/sh
# Unplugs a USB device without touching it, on its host; see serial.py.
#   find PORT        prints the directory of the device that a serial port belongs to
#   set DIR 0|1      0: the kernel releases the device; 1: as if it was plugged in
#   show DIR         prints 0 or 1
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

find_device() {
  name=$(basename "$(readlink -f "$1")")
  place=$(readlink -f "/sys/class/tty/$name/device") || return 1
  while [ -n "$place" ] && [ ! -e "$place/authorized" ]; do place=${place%/*}; done
  [ -n "$place" ] || { echo "$1 belongs to no USB device" >&2; return 1; }
  echo "$place"
}

case $1 in
  find) find_device "$2" ;;
  set) echo "$3" | as_root tee "$2/authorized" >/dev/null ;;
  show) cat "$2/authorized" ;;
esac
