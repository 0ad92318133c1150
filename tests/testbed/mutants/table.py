"""The mutants: one wrong line each, and what must notice it.

A property must break on one of the first `budget` seeds of a mutant's profile, and nothing on the
same seeds without the mutant. `known` is the first of them: the tests run it alone.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant", "Result"]


class Mutant(NamedTuple):
    name: str
    module: str
    old: str
    new: str
    faults: str = "all"
    byzantine: tuple[tuple[str, int], ...] = ()
    strategy: str = "random"
    replicas: int = 4
    budget: int = 200
    known: int = 0


class Result(NamedTuple):
    """`seed` is None if the mutant survived; `seeds` counts those that were run."""

    mutant: str
    seed: int | None
    seeds: int
    property: str
    message: str
    elapsed_s: float


MUTANTS: tuple[Mutant, ...] = (
    # --- quorums and votes -----------------------------------------------------------------------
    Mutant(
        "quorum-2f",
        "chain.quorum",
        "strong=-(-(n + f + 1) // 2)",
        "strong=2 * f",
        faults="network",
        known=7,
    ),
    Mutant(
        "commit-with-one-vote-less",  # harmful only where a voter denies its vote: twins
        "chain.pbft.log",
        "if count >= self.strong and slot.committed is None:",
        "if count >= self.strong - 1 and slot.committed is None:",
        faults="network",
        byzantine=(("twins", 1),),
        budget=1000,
        known=452,
    ),
    Mutant(
        "commit-after-leaving-the-view",
        "chain.pbft.normal",
        "if s.view.active and s.voting and certificate.view == s.view.number:",
        "if s.voting:",
        faults="network",
        budget=1000,
        known=44,
    ),
    Mutant(
        "digest-unchecked",
        "chain.pbft.verify",
        "if Proposal.digest_of(signed.attachment) != message.digest:",
        "if False:",
        byzantine=(("bad-batch", 1),),
        faults="none",
        known=28,
    ),
    Mutant(
        "number-unbound",
        "chain.pbft.verify",
        "if proposal.seq != message.seq or proposal.view > message.view:",
        "if False:",
        byzantine=(("bad-batch", 1),),
        faults="none",
        known=3,
    ),
    Mutant(
        "view-unchecked",
        "chain.pbft.view_change",
        "if _is_old(s, message.view) or not s.voting:",
        "if not s.voting:",
        faults="network",
        budget=1000,
        known=6,
    ),
    Mutant(
        "watermark-unchecked",
        "chain.pbft.log",
        "return self.kept_above < seq <= self.low + self.window",
        "return self.kept_above < seq",
        byzantine=(("spam-votes", 1),),
        faults="none",
        budget=500,
        known=142,
    ),
    # --- durability ------------------------------------------------------------------------------
    Mutant(
        "prepare-not-persisted",
        "chain.pbft.normal",
        's.persist("proposal", entry.view, slot.seq, encode(signed))',
        "pass",
        faults="none",
    ),
    Mutant(
        "commit-not-persisted",
        "chain.pbft.normal",
        's.persist("prepared", certificate.view, slot.seq, encode(proof))',
        "pass",
        faults="none",
    ),
    Mutant(
        "persisted-after-send",
        "nodes.replica.driver",
        "            self._store.commit()\n            self._must_sync = False",
        "            self._must_sync = False  # until `idle`",
        faults="none",
    ),
    Mutant(
        "counts-a-vote-as-durable-that-is-not",
        "chain.pbft.normal",
        "        s.out.append(Sync())\n        vote = Commit(",
        "        vote = Commit(",
        faults="none",
    ),
    Mutant(
        "votes-in-a-view-that-is-not-durable",
        "chain.pbft.state",
        'self.persist("view", 0, 0, encode(fact))\n        self.out.append(Sync())',
        'self.persist("view", 0, 0, encode(fact))',
        faults="none",
    ),
    Mutant(
        "votes-again-after-a-restart",
        "chain.pbft.recovery",
        "elif s.may_have_voted and s.voting:",
        "elif False:",
        faults="crash",
        known=11,
    ),
    Mutant(
        "asks-for-no-view-after-a-restart",
        "chain.pbft.recovery",
        "view_change.start(s, s.view.number + 1)",
        "s.enter_view(s.view.number + 1, active=False)",
        faults="crash",
        known=2,
    ),
    Mutant(
        "orders-batches-that-nobody-has",
        "chain.pbft.view_change",
        "        if not lacking:\n            break",
        "        if True:\n            break",
        faults="power",
        budget=400,
        known=93,
    ),
    Mutant(
        "restart-forgets-its-certificates",
        "chain.pbft.recovery",
        "if message.epoch == s.epoch and s.log.admits(message.seq):\n        slot =",
        "if False:\n        slot =",
        faults="disk",
        budget=500,
        known=1,
    ),
    Mutant(
        "restart-forgets-its-view",
        "chain.pbft.recovery",
        "s.enter_view(fact.view, active=fact.active)",
        "s.enter_view(0, active=True)",
        faults="crash",
        budget=1000,
        known=2,
    ),
    Mutant(
        "sends-on-a-full-disk",
        "nodes.replica.driver",
        "            self._store.commit()\n            self._must_sync = False",
        "            self._must_sync = False\n"
        "            try:\n                self._store.commit()\n"
        "            except Exception:\n                pass",
        faults="disk",
        known=1,
    ),
    Mutant(
        "abstention-skipped",
        "nodes.replica.abstention",
        "return self.until is not None and stable >= self.until",
        "return True",
        faults="disk",
        known=35,
    ),
    Mutant(
        "hands-on-what-it-did-not-check",
        "chain.pbft.status",
        "votes = tuple(filter(s.holds, commits))[",
        "votes = tuple(commits)[",
        faults="network",
        byzantine=(("bad-signature", 1),),
    ),
    # --- epochs ----------------------------------------------------------------------------------
    Mutant(
        "epoch-one-checkpoint-early",
        "chain.pbft.state",
        "return -(-seq // interval) * interval",
        "return seq // interval * interval",
        faults="membership",
    ),
    Mutant(
        "epoch-before-its-checkpoint-is-stable",
        "chain.pbft.membership",
        "s.executed == s.boundary <= s.stable.seq and not s.halted:",
        "s.executed == s.boundary and not s.halted:",
        faults="membership",
    ),
    Mutant(
        "votes-of-any-epoch-count",
        "chain.pbft.replica",
        "if item.message.epoch == self._s.epoch:",
        "if True:",
        faults="membership",
        known=1,
    ),
    Mutant(
        "restart-forgets-its-epoch",
        "chain.pbft.recovery",
        "        membership.switch(s, s.pending)",
        "        pass",
        faults="membership",
    ),
    # --- checkpoints and state transfer ----------------------------------------------------------
    Mutant(
        "checkpoint-before-its-block-is-durable",
        "chain.pbft.checkpoint",
        "    s.out.append(Sync())\n",
        "",
    ),
    Mutant(
        "checkpoint-with-one-vote",
        "chain.pbft.checkpoint",
        "elif count >= s.quorum.strong:",
        "elif count >= 1:",
        byzantine=(("forge-checkpoint", 1),),
        faults="none",
        known=1,
    ),
    Mutant(
        "checkpoint-proof-unchecked",
        "chain.pbft.verify",
        "if not votes or (votes[0].seq, votes[0].head) != claim:",
        "if False:",
        byzantine=(("forge-view-change", 1),),
        faults="network",
        budget=1000,
        known=12,
    ),
    Mutant(
        "lying-heads-believed",
        "chain.pbft.transfer",
        "if digest(encoded) != following:",
        "if False:",
        byzantine=(("lying-transfer", 1),),
        faults="crash",
        budget=500,
        known=2,
    ),
    Mutant(
        "lying-bodies-believed",
        "chain.ledger.ledger",
        "if fault is not None:",
        "if False:",
        byzantine=(("lying-transfer", 1),),
        faults="crash",
        budget=500,
        known=16,
    ),
    # --- view changes ----------------------------------------------------------------------------
    Mutant(
        "certificates-left-out-of-view-change",
        "chain.pbft.view_change",
        "if slot.prepared is not None and slot.prepared_proof is not None:",
        "if False:",
        faults="network",
        budget=1000,
        known=1,
    ),
    Mutant(
        "certificates-of-one-view-change-only",
        "chain.pbft.new_view",
        "    for received in view_changes:\n",
        "    for received in view_changes[:1]:\n",
        faults="network",
        budget=1500,
        known=115,
    ),
    Mutant(
        "certificate-of-the-lowest-view",
        "chain.pbft.new_view",
        "chosen[certificate.seq] = max(candidate",
        "chosen[certificate.seq] = min(candidate",
        faults="views",
        budget=400,
        known=299,
    ),
    Mutant(
        "new-view-not-recomputed",
        "chain.pbft.view_change",
        "if not new_view.matches(received, decision):",
        "if False:",
        byzantine=(("forge-new-view", 1),),
        faults="network",
        budget=400,
        known=3,
    ),
    Mutant(
        "new-view-omissions-accepted",
        "chain.pbft.new_view",
        "if len(given) != len(decision.ordered):",
        "if len(given) > len(decision.ordered):",
        byzantine=(("forge-new-view", 1),),
        faults="network",
        budget=400,
        known=8,
    ),
    Mutant(
        "view-change-never-sent-again",
        "chain.pbft.status",
        "s.relay(status.sender, received.signed)",
        "pass",
        faults="network",
        budget=400,
        known=6,
    ),
    Mutant(
        "no-joining-of-f+1",
        "chain.pbft.view_change",
        "if len(higher) >= s.quorum.weak and s.voting:",
        "if False:",
        faults="network",
        budget=400,
        known=15,
    ),
    Mutant(
        "timer-never-doubled",
        "chain.pbft.view_timeout",
        "return min(doubled, self._consensus.view_timeout_us_max)",
        "return self._consensus.view_timeout_us",
        faults="network",
        known=36,
    ),
    Mutant(
        "flood-takes-the-turn",
        "nodes.wire.inbox",
        "PEER_FRAMES_MAX = 16",
        "PEER_FRAMES_MAX = 1024",
        faults="cpu",
        byzantine=(("flood", 1),),
    ),
    # --- clients, time, identities ---------------------------------------------------------------
    Mutant(
        "client-accepts-one-reply",
        "chain.proofs.client",
        "if len(good) >= self.membership.quorum.weak:",
        "if len(good) >= 1:",
        byzantine=(("false-seal", 1),),
        faults="none",
    ),
    Mutant(
        "proposal-time-unchecked",
        "chain.pbft.proposal_check",
        "if time_us > max(s.now_us + consensus.precision_us, last_time_us + 1):",
        "if False:",
        byzantine=(("bad-batch", 1),),
        faults="none",
        known=39,
    ),
    Mutant(
        "request-twice-in-a-batch",
        "chain.pbft.proposal_check",
        "if request.id in proposed or request.id in seen:",
        "if False:",
        byzantine=(("bad-batch", 1),),
        faults="none",
        known=27,
    ),
    Mutant(
        "counter-unchecked",
        "chain.ledger.registry",
        "if counter <= identity.counter:",
        "if False:",
        faults="none",
        known=1,
    ),
    Mutant(
        "revocation-ignored",
        "chain.ledger.registry",
        "if identity.ended is not None and height > identity.ended_height:",
        "if False:",
        faults="none",
        known=2,
    ),
    Mutant(
        "device-signature-unchecked",
        "chain.ledger.envelope",
        '[SignatureClaim(spki, _SIG_STRUCTURE + header, signature, "bad-signature", text)]',
        "[]",
        faults="none",
    ),
    Mutant(
        "endorsements-unchecked",
        "chain.ledger.admission",
        "return request.epoch == membership.epoch and accepted_by(",
        "return True or accepted_by(",
        byzantine=(("bad-batch", 1),),
        faults="none",
        known=22,
    ),
    # --- attacks of a strategist: found by the one that it was made for --------------------------
    Mutant(
        "any-batch-restarts-the-timer",
        "chain.pbft.checkpoint",
        "if len(batch.requests) >= full[0] or len(batch.raw) >= full[1]:",
        "if True:",
        faults="none",
        strategy="slow-primary",
    ),
    Mutant(
        "dribbling-goes-on",
        "chain.pbft.transfer",
        "return bool(answer.blocks) and answer.size + following.body_bytes <= BODIES_BYTES_MAX",
        "return False",
        faults="none",
        strategy="dribble",
    ),
    Mutant(
        "revocation-of-a-key",
        "chain.ledger.administration",
        "identity = tables.newest_of(operation.target)\n    if identity is not None:\n        if",
        "identity = tables.identities.get(operation.target)\n"
        "    if identity is not None:\n        if",
        faults="none",
        strategy="outrun",
    ),
    Mutant(
        "an-epoch-keeps-the-log",
        "chain.pbft.state",
        "        self.log = Log(self.quorum.strong, self.consensus.log_window)\n",
        "        if not hasattr(self, 'log'):\n"
        "            self.log = Log(self.quorum.strong, self.consensus.log_window)\n",
        faults="none",
        strategy="late-equivocation",
    ),
)
