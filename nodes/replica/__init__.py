"""The replica process: the one interpreter of the core's effects, its stores, clock and timers."""
