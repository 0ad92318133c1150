#!/bin/sh
# Takes all that is left of the disk of our directory on a host.   FILE
# First in one piece, then what that leaves, until nothing more can be written.
free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
fallocate -l "${free_kb}K" "$1" 2>/dev/null ||
  dd if=/dev/zero of="$1" bs=1M count="$((free_kb / 1024))" 2>/dev/null
dd if=/dev/zero of="$1.rest" bs=4k 2>/dev/null
:
