"""Practical Byzantine fault tolerance as a pure, synchronous state machine.

`replica.Replica` is the core. Its host is the driver in `nodes/replica/driver.py`, or a test. The
contract between the two:

1. The host verifies bytes with `verify.Verifier`, and the core trusts a `Received` to be verified.
   `message_filter` finds messages that need no verification. The signature of a COMMIT that came
   over its sender's own link is not checked yet: the core checks it before it shows the COMMIT to
   others.
2. For each `Input` the host calls `effects = replica.handle(input, now_us)`, one at a time.
   `now_us` is the wall time. The core reads no clock, file, socket or random number.
3. The host carries the effects out **in order**. Facts (`Persist`) and blocks before a `Sync` are
   durable before any later `Send` or `Broadcast` leaves. After a crash, any prefix of the effects
   after the last `Sync` may be on disk. A host may handle several inputs before it syncs once, as
   long as that order holds.
4. The host answers `Execute` with the input `Executed`, and `Install` with `Installed` or
   `InstallFailed`. A timer that fires becomes `TimerFired`.
5. After a crash the host builds a new replica from the persisted facts, and calls `start`.

Inside the core, `replica` finds the handler of a message. Handlers count votes, keep messages that
have to wait, and answer. `Replica._proceed` then takes every step that has become possible: it
accepts, executes, proposes, leaves a view or fetches blocks.

Sources: Castro & Liskov, "Practical Byzantine Fault Tolerance" (OSDI'99) and "... and Proactive
Recovery" (TOCS'02), and Castro's thesis (MIT-LCS-TR-817). Branches cite the section.
"""
