"""Signed operations byte for byte, for whoever writes a device in another language.

`golden/operations.json` holds, in hex, what a device with the given private key signs. Rewrite it
with GOLDEN_REWRITE=1 and review the difference as code: a change breaks every device in the field.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from chain.keys import digest
from chain.ledger.envelope import encode_operation, open_operation, sign_operation, signed_content
from chain.ledger.operations import Data, Enrol, Operation, Token
from chain.ledger.possession import voucher_statement
from tests.chain.world import Device, World, private_key, signer

FILE = Path(__file__).parent / "golden" / "operations.json"
NETWORK = digest(b"golden network")
HEAD = digest(b"golden head")


def operations() -> dict[str, Operation]:
    alice, voucher = Device("alice"), signer("voucher")
    statement = voucher_statement(NETWORK, alice.signer.public, HEAD)
    return {
        "enrol": Enrol(
            network=NETWORK,
            key=alice.signer.public,
            kind="mobile",
            service="telemetry",
            privilege=1,
            validity_s=604_800,
            head=HEAD,
            nonce=bytes(range(16)),
            voucher=Token(key=voucher.public, signature=voucher.sign(statement)),
        ),
        "data": Data(
            network=NETWORK,
            node=alice.node,
            counter=1,
            service="telemetry",
            payload=b"21.5 C",
            time_us=1_700_000_000_000_000,
            clock="ntp",
        ),
    }


def vectors() -> dict[str, dict[str, str]]:
    secret = private_key("alice").private_numbers().private_value
    vectors_by_name = {}
    for name, operation in operations().items():
        cose = sign_operation(operation, signer("alice"))
        content, signature = signed_content(cose)
        vectors_by_name[name] = {
            "private_key": f"{secret:064x}",
            "payload": encode_operation(operation).hex(),
            "sig_structure": content.hex(),
            "request_id": digest(content).hex(),
            "signature": signature.hex(),
            "cose_sign1": cose.hex(),
        }
    return vectors_by_name


def test_what_devices_sign_does_not_change() -> None:
    if os.environ.get("GOLDEN_REWRITE"):
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(vectors(), indent=1) + "\n")
    assert vectors() == json.loads(FILE.read_text())


def test_the_golden_operations_open() -> None:
    for name, vector in json.loads(FILE.read_text()).items():
        opened = open_operation(bytes.fromhex(vector["cose_sign1"]), NETWORK, World().scheme)
        assert opened.operation == operations()[name]
        assert opened.id.hex() == vector["request_id"]
