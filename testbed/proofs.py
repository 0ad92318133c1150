"""Collects from stored ledgers the proof of a device's certificate for a stranger.

Each replica's database has that replica's own signature over each head. The proof needs f+1 of
them, so it needs the databases of f+1 replicas. A checkpoint's stored votes cannot be used, because
they sign a CHECKPOINT message and not the head. Every signature is verified before it goes into a
proof, so a file that lies does no harm. `chain.proofs.export` makes the files of a proof,
`nodes.replica.ledger_file` reads databases, `commands/ledger_proof` writes and prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography import x509

from chain.block import Block, Head, genesis_head
from chain.errors import PeerFault
from chain.genesis import Genesis, Membership
from chain.keys import CERTIFICATE_FAULTS, Es256, digest
from chain.ledger.statement import OK, Statement, decode_leaf, encode_leaf
from chain.proofs.certificate import proof_of, verify_carrier
from chain.proofs.export import export_proof
from chain.proofs.proof import (
    EPOCHS_MAX,
    HeadSeal,
    Inclusion,
    Proof,
    ProofVerifier,
    make_inclusion,
)
from nodes.replica.ledger_file import Damaged, LedgerFile, open_readonly
from testbed.errors import ConfigurationError, TestbedError

__all__ = ["PREFIX_DIGITS_MIN", "Ledgers", "NotProvable", "Proven", "open_ledgers"]

PREFIX_DIGITS_MIN = 8
_ID_DIGITS = 64
_LISTED_MAX = 20
# Only leaves with one of these matter here. The many others are not decoded.
_MARKS = (b"not_after_us", b"-replica", b"revoke")


class NotProvable(TestbedError):
    """These files do not prove it; the message says what is missing."""

    exit_code = 1


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """`files` by name, as `chain.proofs.export` makes them; `signers` are replica ids; `needed` of
    them are enough. `ended_height`: the certificate was revoked or renewed at this height."""

    statement: Statement
    height: int
    signers: tuple[int, ...]
    needed: int
    ended_height: int | None
    files: dict[str, bytes]


class _Place(msgspec.Struct, frozen=True):
    """A record and its place."""

    height: int
    index: int
    statement: Statement


class _Contents(NamedTuple):
    """The certificates (issued, ended) and the membership changes in one file."""

    issued: list[_Place]
    ended: list[_Place]
    changes: list[_Place]


class Ledgers:
    """Databases of one network, the longest first. `left_out` says which could not be used."""

    def __init__(self, genesis: Genesis, files: Sequence[LedgerFile], left_out: list[str]) -> None:
        self.genesis = genesis
        self.left_out = left_out
        self._files = sorted(files, key=lambda file: -file.height)
        self._scheme = Es256()
        self._contents = cache(_contents)

    def find(self, device: str) -> bytes:
        """The node id that `device` names: 64 hex digits, or a unique beginning of at least 8.

        Raises ConfigurationError if it names none, or several.
        """
        text = device.lower()
        if set(text) - set("0123456789abcdef") or len(text) > _ID_DIGITS:
            raise ConfigurationError(f"--device {device}: not a node id in hex; {self._known()}")
        if len(text) == _ID_DIGITS:
            return bytes.fromhex(text)
        if len(text) < PREFIX_DIGITS_MIN:
            raise ConfigurationError(
                f"--device {device}: too short; give at least {PREFIX_DIGITS_MIN} hex digits"
            )
        found = [node for node in self._nodes() if node.hex().startswith(text)]
        if not found:
            raise ConfigurationError(f"--device {device}: no such device here; {self._known()}")
        if len(found) > 1:
            names = ", ".join(node.hex() for node in found)
            raise ConfigurationError(f"--device {device}: several begin so: {names}")
        return found[0]

    def prove(self, node: bytes, carrier: bytes | None = None) -> Proven:
        """The proof of the newest certificate of `node`. `carrier` is its X.509 certificate (PEM),
        if there is one; it shows possession if the record is not signed with the certificate's own
        key.

        Raises NotProvable.
        """
        refusals: list[NotProvable] = []
        for file in self._files:
            try:
                return self._prove(node, carrier, self._contents(file), file)
            except NotProvable as refusal:
                refusals.append(refusal)
        raise refusals[0]

    def _prove(
        self, node: bytes, carrier: bytes | None, contents: _Contents, file: LedgerFile
    ) -> Proven:
        places = [place for place in contents.issued if place.statement.node == node]
        if not places:
            raise NotProvable(f"no certificate was issued to {node.hex()}; {self._known()}")
        place = places[-1]
        verifier = ProofVerifier(self.genesis)
        carried = None if carrier is None else self._carried(carrier, node, file, contents)
        if carried is not None:
            leaf = carried.record.leaf
            place = next((each for each in places if encode_leaf(each.statement) == leaf), place)
        elif place.statement.by is not None:
            raise NotProvable(
                f"the certificate of block {place.height} ({place.statement.op}) was not asked for "
                "with its own key, so nothing here shows possession: give the device's X.509 "
                "certificate with --carrier"
            )
        try:
            proof = self._proof(place, file, contents) if carried is None else carried
            item = _block(file, place.height).records[place.index].item
            parent = self._parent(file, place.height)
            files = export_proof(self.genesis, proof, parent, item, carrier)
            verifier.verify(proof)
            membership = verifier.members_of(Head.decode(proof.record.head))
        except PeerFault as fault:
            raise NotProvable(f"{file.path.name}: what it holds proves nothing: {fault}") from fault
        after = (each.height for each in contents.ended if _ends(each, place))
        return Proven(
            statement=place.statement,
            height=place.height,
            signers=tuple(seal.replica for seal in proof.record.seals),
            needed=membership.quorum.weak,
            ended_height=next(after, None),
            files=files,
        )

    def _proof(self, place: _Place, file: LedgerFile, contents: _Contents) -> Proof:
        """The proof, with a step for each membership change before."""
        epoch = Head.decode(_block(file, place.height).head).epoch
        verifier = self._steps(epoch, file, contents)
        record = self._inclusion(place, file, verifier.membership)
        return Proof(record=record, epochs=tuple(verifier.steps))

    def _steps(self, epoch: int, file: LedgerFile, contents: _Contents) -> ProofVerifier:
        """A verifier that knows the membership changes up to this epoch."""
        verifier = ProofVerifier(self.genesis)
        for change in contents.changes[:epoch]:
            verifier.follow(self._inclusion(change, file, verifier.membership))
        return verifier

    def _inclusion(self, place: _Place, file: LedgerFile, membership: Membership) -> Inclusion:
        """The inclusion proof, with every valid signature in these files. Raises NotProvable."""
        block = _block(file, place.height)
        seals: dict[int, HeadSeal] = {}
        missing = []
        for each in self._files:
            seal = self._seal(each, place.height, block.head, membership)
            if isinstance(seal, str):
                missing.append(f"{each.path.name}: {seal}")
            else:
                seals[seal.replica] = seal
        needed = membership.quorum.weak
        if len(seals) < needed:
            have = ", ".join(map(str, sorted(seals))) or "none"
            raise NotProvable(
                f"block {place.height}: {len(seals)} of {needed} signatures over its head "
                f"(replicas: {have}); give the databases of {needed - len(seals)} more of the "
                "replicas, or the whole bundle (checkpoint votes do not sign heads)"
                + "".join(f"\n  {reason}" for reason in [*missing, *self.left_out])
            )
        return make_inclusion(block, place.index, tuple(seals.values()))

    def _seal(
        self, file: LedgerFile, height: int, head: bytes, membership: Membership
    ) -> HeadSeal | str:
        """This replica's signature over the head, or why there is none."""
        spki = membership.spki(file.replica)
        if spki is None:
            return f"replica {file.replica} was no member when the block was decided"
        try:
            stored = next(file.blocks(height), None)
        except Damaged as damage:
            return str(damage)
        if stored is None:
            return f"ends at height {file.height}"
        if stored.block.head != head:
            return "has another block of this height"
        if not self._scheme.verify(spki, head, stored.signature):
            return "its signature is not valid"
        return HeadSeal(file.replica, stored.signature)

    def _carried(self, carrier: bytes, node: bytes, file: LedgerFile, contents: _Contents) -> Proof:
        """The proof in the device's X.509 certificate. It lacks the steps of many membership
        changes (`ProofVerifier.complete`), so they are taken from the ledger."""
        try:
            held = proof_of(x509.load_pem_x509_certificate(carrier))
            epoch = Head.decode(held.record.head).epoch
            left_out = epoch > EPOCHS_MAX
            verifier = self._steps(epoch if left_out else 0, file, contents)
            certified = verify_carrier(carrier, verifier)
            if certified.node == node:
                return Proof(record=held.record, epochs=tuple(verifier.steps))
        except (PeerFault, *CERTIFICATE_FAULTS) as fault:
            raise ConfigurationError(f"--carrier: {fault}") from fault
        raise ConfigurationError(f"--carrier: is of another device, {certified.node.hex()}")

    def _parent(self, file: LedgerFile, height: int) -> bytes:
        if height == 1:
            return genesis_head(self.genesis.network, self.genesis.time_us)
        parent = _block(file, height - 1).head
        if digest(parent) != Head.decode(_block(file, height).head).parent:
            raise NotProvable(f"{file.path.name}: block {height} does not follow {height - 1}")
        return parent

    def _nodes(self) -> list[bytes]:
        """Every device with a certificate, from all files."""
        issued = (place for file in self._files for place in self._contents(file).issued)
        return list(dict.fromkeys(place.statement.node for place in issued))

    def _known(self) -> str:
        nodes = [node.hex()[:16] for node in self._nodes()]
        if not nodes:
            return "no device has a certificate in these files"
        more = "" if len(nodes) <= _LISTED_MAX else f" and {len(nodes) - _LISTED_MAX} more"
        return f"devices with a certificate here: {', '.join(nodes[:_LISTED_MAX])}{more}"


@contextmanager
def open_ledgers(paths: Sequence[Path], genesis: Genesis | None = None) -> Iterator[Ledgers]:
    """Opens databases for reading. Without a pinned `genesis` the first file's genesis is taken.

    Files that cannot be read, or are of another network, are left out and listed. Raises
    ConfigurationError if none is left.
    """
    left_out: list[str] = []
    files: list[LedgerFile] = []
    with ExitStack() as stack:
        for path in paths:
            try:
                file = stack.enter_context(open_readonly(path))
                genesis = genesis or Genesis.decode(file.genesis)
                if file.genesis != genesis.encode():
                    raise Damaged("is of another network")
            except (Damaged, PeerFault, OSError) as error:
                left_out.append(f"{path.name}: {error}")
            else:
                files.append(file)
        if genesis is None or not files:
            reasons = "".join(f"\n  {reason}" for reason in left_out)
            raise ConfigurationError(f"no ledger can be read:{reasons}")
        yield Ledgers(genesis, files, left_out)


def _contents(file: LedgerFile) -> _Contents:
    """Reads up to the first damage, because nothing above it is reliable."""
    found = _Contents([], [], [])
    try:
        for height, stored in enumerate(file.blocks(), start=1):
            for index, record in enumerate(stored.block.records):
                if any(mark in record.leaf for mark in _MARKS):
                    _sort_in(_Place(height, index, decode_leaf(record.leaf)), found)
    except (Damaged, PeerFault):
        pass  # `ledger verify` names it; the parts of the proof are verified separately
    return found


def _sort_in(place: _Place, found: _Contents) -> None:
    statement = place.statement
    if statement.status != OK:
        return
    if statement.issues_certificate:
        found.issued.append(place)
    if statement.issues_certificate or statement.op == "revoke":
        found.ended.append(place)
    if statement.epoch is not None:
        found.changes.append(place)


def _ends(later: _Place, issued: _Place) -> bool:
    """Whether `later` revokes or replaces the certificate of `issued`."""
    if (later.height, later.index) <= (issued.height, issued.index):
        return False
    if later.statement.op == "revoke":
        return later.statement.node == issued.statement.node
    return later.statement.prior == issued.statement.certificate


def _block(file: LedgerFile, height: int) -> Block:
    try:
        return next(file.blocks(height)).block
    except (Damaged, StopIteration) as error:
        raise NotProvable(f"{file.path.name}: block {height} cannot be read: {error}") from error
