"""An operator's day at a running lab, by the commands and as a script would call them.

Each step is a function named after what the operator does; all on one lab, as a lab takes
seconds to come up.
"""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chain.keys import node_id, pem_of
from testbed.errors import RefusedError
from testbed.standing.newcomer import run_until_admitted
from tests.chain.world import signer
from tests.testbed.factory import Manufacturer
from tests.testbed.operator_support import Operator

DATA_S_MAX = 60.0
LAB = """
schema: testbed.inventory/1
lab: day
chain: {{factory_roots: [{root}]}}
hosts:
  r1: {{connection: local, roles: [replica]}}
  r2: {{connection: local, roles: [replica]}}
  r3: {{connection: local, roles: [replica]}}
  r4: {{connection: local, roles: [replica]}}
  gw1: {{connection: local, roles: [gateway, broker]}}
  env1: {{connection: local, roles: [environment]}}
  phones: {{connection: local, roles: [mobile], mobiles: 3}}
  meter: {{connection: local, roles: [mobile], factory: {identity}}}
"""


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("openssl") is None, reason="the manufacturer needs openssl")
def test_an_operator_s_day(tmp_path: Path) -> None:
    operator, acme = Operator(tmp_path), Manufacturer(tmp_path / "acme")
    inventory = tmp_path / "day.yaml"
    inventory.write_text(LAB.format(root=acme.root, identity=acme.make("meter-identity")))
    finds_no_lab(operator)
    with operator.lab(inventory) as up:
        assert up["admitted"] == ["env1", "meter", "phones-1", "phones-2", "phones-3"]
        assert up["missing"] == []
        looks_around(operator)
        grants(operator)
        renews(operator)
        revokes(operator)
        admits_one_more(operator, tmp_path)
        hands_out_what_a_device_of_another_make_needs(operator, tmp_path)
        admits_by_factory_certificate(operator, acme, tmp_path)
        takes_back_what_it_handed_out(operator, acme, tmp_path)
        takes_no_device_for_its_namesake(operator, tmp_path)
        changes_administrators(operator, tmp_path)
        changes_roots(operator, acme, tmp_path)
        ends_it(operator, up)


def finds_no_lab(operator: Operator) -> None:
    assert "start one with `testbed up`" in operator.fails(2, "device", "revoke", "x")
    plain = operator.program("device", "list")
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.startswith("testbed: no lab is up")
    missing = operator.fails(2, "device", "list", "-i", "/nowhere/lab.yaml")
    assert "/nowhere/lab.yaml" in missing
    assert operator.does("down") == {"ended": None}


def looks_around(operator: Operator) -> None:
    listed = {each["name"]: each for each in operator.does("device", "list")}
    assert {each["state"] for each in listed.values()} == {"admitted"}
    assert listed["env1"]["kind"] == "environment"
    table = operator.run("device", "list").stdout.splitlines()
    assert len(table) == 1 + len(listed)
    shown = operator.does("device", "show", listed["phones-1"]["node"][:12])
    assert shown["name"] == "phones-1"
    assert [each["op"] for each in shown["records"]][:2] == ["enrol", "open"]
    assert "did you mean phones-" in operator.fails(2, "device", "show", "phone-1")
    assert "there are env1, meter," in operator.fails(2, "device", "show", "zebra")


def grants(operator: Operator) -> None:
    assert operator.does("device", "grant", "phones-1", "--privilege", "2")["privilege"] == 2
    again = operator.does("device", "grant", "phones-1", "--privilege", "2")
    assert again["changed"] is False


def renews(operator: Operator) -> None:
    before = operator.does("device", "show", "phones-1")
    renewed = operator.does("device", "renew", "phones-1")
    assert renewed["node"] == before["node"]
    assert renewed["not_after"] > before["not_after"]
    rolled = operator.does("device", "renew", "phones-1", "--rollover")
    assert rolled["node"] != before["node"]
    states = {e["node"]: e["state"] for e in operator.does("device", "list")}
    assert states[before["node"]] == "renewed"
    assert states[rolled["node"]] == "admitted"
    deadline_s = time.monotonic() + DATA_S_MAX
    while operator.does("device", "show", rolled["node"])["data_records"] == 0:
        assert time.monotonic() < deadline_s, "no data under the new key"


def revokes(operator: Operator) -> None:
    gone = operator.does("device", "revoke", "phones-2", "--reason", "lost")
    assert (gone["state"], gone["changed"]) == ("revoked", True)
    again = operator.does("device", "revoke", "phones-2")
    assert (again["state"], again["changed"]) == ("revoked", False)
    own = operator.does("device", "revoke", "phones-3", "--by-device")
    assert (own["state"], own["changed"]) == ("revoked", True)
    assert "phones-2 is revoked" in operator.fails(2, "device", "renew", "phones-2")


def admits_one_more(operator: Operator, tmp_path: Path) -> None:
    lamp = tmp_path / "lamp"
    admitted = operator.does("device", "admit", "lamp", "--dir", str(lamp), "--privilege", "2")
    assert (admitted["state"], admitted["privilege"]) == ("admitted", 2)
    assert admitted["ledger_height"] > 0
    assert Path(admitted["config"]).exists()
    assert (lamp / "state" / "key.pem").stat().st_mode & 0o077 == 0
    for wrong in (lamp, "/proc/nowhere"):
        message = operator.fails(2, "device", "admit", "lamp2", "--dir", str(wrong))
        assert "choose another" in message
    assert "is no name" in operator.fails(2, "device", "admit", "", "--dir", str(tmp_path / "x"))
    assert "no process of this lab" in operator.fails(2, "device", "renew", "lamp")


def hands_out_what_a_device_of_another_make_needs(operator: Operator, tmp_path: Path) -> None:
    """Nothing is started; whatever program reads these files can ask for access. And two commands
    at once forget nothing of each other."""
    other = tmp_path / "other"
    made = ["--dir", str(other), "--no-start"]
    with ThreadPoolExecutor() as threads:
        lamp3 = ["device", "admit", "lamp3", "--dir", str(tmp_path / "lamp3"), "--no-start"]
        meanwhile = threads.submit(operator.program, *lamp3)
        handed = operator.does("device", "admit", "other", *made)
        assert meanwhile.result().returncode == 0, meanwhile.result().stderr
    assert set(json.loads(Path(handed["config"]).read_bytes())["broker"]) >= {"host", "port"}
    assert (other / "genesis.json").exists()
    assert (other / "voucher.pem").stat().st_mode & 0o077 == 0
    assert not (other / "state").exists()
    assert "other" not in {each["name"] for each in operator.does("device", "list")}
    for name in ("other", "lamp3"):
        assert run_until_admitted(name, tmp_path / name) > 0, "the voucher is good"
    assert {each["name"] for each in operator.does("device", "list")} >= {"other", "lamp3"}


def admits_by_factory_certificate(operator: Operator, acme: Manufacturer, tmp_path: Path) -> None:
    """IEEE 802.1AR: the manufacturer's word instead of a token; a refusal says why, and where to
    look. (All that is refused is in `test_factory`, `test_vouchers` and `testbed refusals`.)"""

    def words(name: str, identity: Path) -> list[str]:
        made = ["device", "admit", name, "--dir", str(tmp_path / f"of-{name}")]
        return [*made, "--factory", str(identity)]

    identity = acme.make("lock-identity")
    assert operator.does(*words("lock", identity))["state"] == "admitted"
    assert "lock's" in operator.fails(2, *words("second-lock", identity))

    other = Manufacturer(tmp_path / "no-name").make("fake")
    refused = operator.run(*words("fake", other))
    assert refused.returncode == 1
    assert "factory-chain" in refused.stderr
    assert "chain.factory_roots" in refused.stderr, "it says where to look"
    (other / "key.pem").write_bytes((identity / "key.pem").read_bytes())
    assert "not of the key" in operator.fails(2, *words("mixed", other))


def takes_back_what_it_handed_out(operator: Operator, acme: Manufacturer, tmp_path: Path) -> None:
    """A voucher that was lost, and a factory identity that was stolen, admit nobody."""
    operator.does("device", "admit", "lost", "--dir", str(tmp_path / "lost"), "--no-start")
    assert operator.does("device", "withdraw", "lost")["vouchers"] == 1
    with pytest.raises(RefusedError, match="its voucher was withdrawn"):
        run_until_admitted("lost", tmp_path / "lost")
    assert operator.run("device", "withdraw", "lost").returncode == 1
    assert "no voucher" in operator.fails(2, "device", "withdraw", "nobody")
    late = ["--dir", str(tmp_path / "late"), "--no-start", "--good-for", "500ms"]
    operator.does("device", "admit", "late", *late)
    with pytest.raises(RefusedError, match="expired"):
        run_until_admitted("late", tmp_path / "late")
    soon = ["--dir", str(tmp_path / "soon"), "--good-for", "soon"]
    assert operator.run("device", "admit", "soon", *soon).returncode == 2
    stolen = acme.make("stolen-identity")
    operator.does("device", "bar", str(stolen))
    thief = ["device", "admit", "thief", "--dir", str(tmp_path / "thief")]
    refused = operator.run(*thief, "--factory", str(stolen))
    assert (refused.returncode, "factory-barred" in refused.stderr) == (1, True)


def takes_no_device_for_its_namesake(operator: Operator, tmp_path: Path) -> None:
    """Two vouchers may be handed out under one name before either device comes."""
    for place in ("twin-a", "twin-b"):
        made = ["--dir", str(tmp_path / place), "--no-start"]
        operator.does("device", "admit", "twin", *made)
    for place in ("twin-a", "twin-b"):
        assert run_until_admitted("twin", tmp_path / place) > 0
    nodes = [e["node"] for e in operator.does("device", "list") if e["name"] == "twin"]
    message = operator.fails(2, "device", "revoke", "twin")
    assert all(node[:16] in message for node in nodes)
    assert operator.does("device", "revoke", nodes[0][:16])["node"] == nodes[0]
    assert operator.does("device", "show", "twin")["node"] == nodes[1]


def changes_administrators(operator: Operator, tmp_path: Path) -> None:
    """The last one stays: the operator, whose key stands in the genesis."""
    key = tmp_path / "second-admin.pem"
    public = signer("second admin").public
    key.write_bytes(pem_of(public))

    def listed() -> set[str]:
        found = operator.does("admin", "list")
        return {each["id"] for each in found if each["what"] == "administrator"}

    first = listed()
    assert len(first) == 1
    added = operator.does("admin", "add", str(key))
    assert (added["id"], added["changed"]) == (node_id(public).hex(), True)
    assert listed() == {*first, added["id"]}
    assert operator.does("admin", "add", str(key))["changed"] is False
    assert operator.does("admin", "revoke", str(key), "--reason", "left")["changed"] is True
    assert operator.does("admin", "revoke", str(key))["changed"] is False
    assert listed() == first
    assert operator.run("admin", "add", str(key)).returncode == 1, "a revoked key never comes back"
    assert "no public key" in operator.fails(2, "admin", "add", str(tmp_path / "day.yaml"))


def changes_roots(operator: Operator, acme: Manufacturer, tmp_path: Path) -> None:
    """Devices of a manufacturer come in while its root counts, and stay."""
    other = Manufacturer(tmp_path / "other-maker")

    def words(name: str) -> list[str]:
        made = ["device", "admit", name, "--dir", str(tmp_path / f"made-{name}")]
        return [*made, "--factory", str(other.make(f"{name}-identity"))]

    added = operator.does("admin", "add-root", str(other.root), "--privilege", "2")
    assert added["changed"] is True
    assert operator.does("admin", "add-root", str(other.root))["changed"] is False
    assert operator.does(*words("pump"))["state"] == "admitted"
    assert operator.does("admin", "withdraw-root", str(other.root))["changed"] is True
    assert operator.does("admin", "withdraw-root", str(other.root))["changed"] is False
    refused = operator.run(*words("late-pump"))
    assert (refused.returncode, "factory-chain" in refused.stderr) == (1, True)
    assert operator.does("device", "show", "pump")["state"] == "admitted"
    no_root = acme.make("no-root") / "chain.pem"
    assert "not a root" in operator.fails(2, "admin", "add-root", str(no_root))


def ends_it(operator: Operator, up: dict[str, Any]) -> None:
    assert operator.does("down")["ended"]["pid"] == up["pid"]
    assert not Path(up["home"]).exists()
    assert operator.does("down", "-i", up["inventory"]) == {"ended": None}
    assert operator.does("down") == {"ended": None}
