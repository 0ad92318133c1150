"""The ledger and its consensus as pure functions of messages.

Nothing in this folder opens a socket or a file, reads a clock, draws randomness or starts a
thread: the processes in `nodes/` do that, and the simulator in `testbed/simulate/` drives the
very same code under a virtual clock.
"""
