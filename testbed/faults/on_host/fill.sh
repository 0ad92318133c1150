#!/bin/sh
# Takes all free space of the disk with our directory on a host.   FILE
# First in one piece, then the rest, until nothing more can be written.
free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
fallocate -l "${free_kb}K" "$1" 2>/dev/null ||
  dd if=/dev/zero of="$1" bs=1M count="$((free_kb / 1024))" 2>/dev/null
dd if=/dev/zero of="$1.rest" bs=4k 2>/dev/null
:
