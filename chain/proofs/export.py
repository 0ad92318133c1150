"""Exports a certificate's proof as plain files that anybody can check with the openssl program.

    genesis.json              its SHA-256 is the network id
    head.bin, parent.bin      the block's head and the one before (layout: `block`)
    leaf.cbor, index, path.bin  the statement, its place, the sibling hashes up to the root
    seal-<id>.der             a replica's signature over head.bin
    replica-<id>.pem          its public key
    epoch-<e>.*               the same for each membership change before (epoch 0 has none)
    device-key.pem            the certified key
    request.tbs, request.der  what the device signed when it asked, and its signature
    dev.pem                   the X.509 carrier
    verify.sh, SHA256SUMS     the check: exit 0 if everything holds, else 1

The caller writes the files.
"""

from __future__ import annotations

from importlib import resources

from cryptography import x509

from chain.errors import Misuse
from chain.genesis import Genesis, Membership
from chain.keys import der_of, digest, pem_of
from chain.ledger.envelope import signed_content
from chain.ledger.item import cose_of
from chain.proofs.certificate import proof_of, verify_carrier
from chain.proofs.proof import Inclusion, Proof, ProofVerifier

__all__ = ["export_proof"]


def export_proof(
    genesis: Genesis,
    proof: Proof,
    parent: bytes,
    item: bytes | None = None,
    carrier: bytes | None = None,
) -> dict[str, bytes]:
    """Files by name. `proof` has all membership changes since genesis. `parent` is the head before
    the record's. `item` is the record's batch item, `carrier` a PEM certificate that holds this
    very proof (`ProofVerifier.complete`). One of the two must show possession of the key. `item`
    shows it only for an enrolment and for a renewal that keeps the key.

    Raises Misuse for a record that issues no certificate, PeerFault for a proof that fails.
    """
    verifier = ProofVerifier(genesis)
    memberships = [genesis.membership, *map(verifier.follow, proof.epochs)]
    statement = verifier.included(proof.record)
    if not statement.issues_certificate or statement.key is None:
        raise Misuse("the record issues no certificate")
    files = {
        "genesis.json": genesis.encode(),
        "parent.bin": parent,
        "device-key.pem": pem_of(statement.key),
        "verify.sh": resources.files("chain.proofs").joinpath("verify.sh").read_bytes(),
    }
    if item is not None and statement.by is None:  # the certified key itself asked for it
        content, signature = signed_content(cose_of(item))
        files |= {"request.tbs": content, "request.der": der_of(signature)}
    if carrier is not None:
        verify_carrier(carrier, verifier)
        held = proof_of(x509.load_pem_x509_certificate(carrier))
        if held != verifier.complete(proof.record):
            raise Misuse("the carrier holds another proof")
        files["dev.pem"] = carrier
    if not files.keys() & {"request.tbs", "dev.pem"}:
        raise Misuse("give the item or the carrier: something must show possession of the key")
    for epoch, (step, members) in enumerate(zip(proof.epochs, memberships, strict=False), start=1):
        files |= _inclusion(f"epoch-{epoch}.", step, members)
    files |= _inclusion("", proof.record, memberships[-1])
    # Sorted by bytes, as the shell's glob in the C locale sorts.
    sums = (f"{digest(files[name]).hex()}  {name}\n" for name in sorted(files))
    return files | {"SHA256SUMS": "".join(sums).encode()}


def _inclusion(prefix: str, inclusion: Inclusion, members: Membership) -> dict[str, bytes]:
    files = {
        f"{prefix}head.bin": inclusion.head,
        f"{prefix}leaf.cbor": inclusion.leaf,
        f"{prefix}index": f"{inclusion.index}\n".encode(),
        f"{prefix}path.bin": b"".join(inclusion.path),
    }
    for seal in inclusion.seals:
        files[f"{prefix}seal-{seal.replica}.der"] = der_of(seal.signature)
        spki = members.spki(seal.replica)
        assert spki is not None
        files[f"replica-{seal.replica}.pem"] = pem_of(spki)
    return files
