#!/bin/sh
# A Raspberry Pi's firmware, as far as `testbed emulate throttle` plays it: silent unless told.
[ "$1" = get_throttled ] && [ -s /run/firmware/throttled ] || exit 1
echo "throttled=$(cat /run/firmware/throttled)"
