"""The examples of gateway/README.md are what the code does."""

from __future__ import annotations

from pathlib import Path

from chain.keys import node_id
from chain.ledger.operations import Data, encode_operation, read_operation, sign_operation
from tests.chain.world import private_key, signer

README = Path(__file__).parents[2] / "gateway" / "README.md"


def test_the_example_of_a_signed_operation_is_reproduced() -> None:
    words = "".join(README.read_text().split())
    network, device = bytes(range(32)), signer("readme")
    secret = private_key("readme").private_numbers().private_value
    operation = Data(
        network=network,
        node=node_id(device.public),
        counter=1,
        service="telemetry",
        payload=b"21.5",
    )
    cose = sign_operation(operation, device)
    for each in (
        f"{secret:064x}",
        node_id(device.public).hex(),
        cose.hex(),
        encode_operation(operation).hex(),
        read_operation(cose, network).id.hex(),
    ):
        assert each in words
