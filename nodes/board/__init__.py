"""Sensor boards: the firmware, what flashing writes, and the PTY that stands in for hardware."""
