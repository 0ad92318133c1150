"""Faults inside our own processes, switched on and off by order files; campaigns start these."""
