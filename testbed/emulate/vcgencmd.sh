#!/bin/sh
# Simulates a Raspberry Pi's firmware for `testbed emulate throttle`. Silent without an order.
[ "$1" = get_throttled ] && [ -s /run/firmware/throttled ] || exit 1
echo "throttled=$(cat /run/firmware/throttled)"
