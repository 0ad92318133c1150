"""Practical Byzantine fault tolerance as a pure, synchronous state machine.

The contract between the core and its host (the driver in `nodes/replica/driver.py`, the simulator,
a test) is short:

1. The host verifies bytes (`chain.pbft.verify`) and hands the core one `Input` and the wall time:
   `effects = replica.handle(input, now_us)`.
2. The host carries the effects out **in order**. Everything in a `Persist`, and every block before
   a `Sync`, is durable before any later `Send` or `Broadcast` of the same list leaves: persist,
   then send. A host may handle several inputs before it syncs once, as long as that order holds.
3. `Execute` and `Install` are answered by the inputs `Executed` and `Installed`.
4. After a crash the host builds a new replica from what it persisted and calls `start`.

Sources: Castro & Liskov, "Practical Byzantine Fault Tolerance" (OSDI'99) and "... and Proactive
Recovery" (TOCS'02), and Castro's thesis (MIT-LCS-TR-817); branches cite the section.
"""
