"""The examples of gateway/README.md are what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from chain.keys import node_id
from chain.ledger.envelope import encode_operation, read_operation, sign_operation
from chain.ledger.operations import Data
from tests.chain.world import private_key, signer

ROOT = Path(__file__).parents[2]
README = ROOT / "gateway" / "README.md"


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


def test_each_claim_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", README.read_text())
    assert len(named) > 30
    top = README.parents[1]
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in _text(top / file)]
    assert missing == []


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_every_test_that_a_readme_names_exists() -> None:
    """A claim whose test was renamed or removed is a claim without a test."""
    tests = {path: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    missing = []
    for readme in ROOT.glob("**/README.md"):
        if ".venv" in readme.parts:
            continue
        for path, name in re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", readme.read_text()):
            places = [tests.get(ROOT / path, "")] if path else tests.values()
            module = any(each.stem == name for each in tests)
            if not module and not any(f"def {name}(" in place for place in places):
                missing.append(f"{readme.relative_to(ROOT)}: {path} {name}")
    assert missing == []
