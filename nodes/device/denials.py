"""Which denials from a gateway a device believes: only proven ones.

`chain.proofs.denial` checks the proofs; `device` decides what happens to the request.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from chain.keys import Es256
from chain.proofs.denial import check_verdicts, ended_by
from chain.proofs.proof import ProofVerifier, decode_proof
from gateway.bridge.edge import Denial

__all__ = ["certificate_end_us", "is_proven"]

# They say that this very request is on the chain, or another one with this key. Then its receipt is
# the answer.
_ON_THE_CHAIN = frozenset({"replay", "known-node"})


def is_proven(denied: Denial, proofs: ProofVerifier, network: bytes, node: bytes) -> bool:
    """Whether the record that ended the key of `node`, or f+1 replicas, say the same as the denial.
    Raises PeerFault for a false proof."""
    if denied.record is not None:
        return ended_by(proofs.verify(decode_proof(denied.record)), node) == denied.reason
    if denied.verdicts is None or denied.reason in _ON_THE_CHAIN:
        return False
    check_verdicts(
        denied.verdicts,
        denied.id,
        proofs.membership,
        network,
        Es256(),
        reason=denied.reason,
    )
    return True


def certificate_end_us(carrier: Path) -> int | None:
    """When the device's own certificate ends; None without one."""
    try:
        end = x509.load_pem_x509_certificate(carrier.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
    return int(end.timestamp()) * 1_000_000
