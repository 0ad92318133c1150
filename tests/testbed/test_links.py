"""Links are shaped, read back and cleared, by every backend alike; management is never touched."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from gateway.shaping import CUT, NO_SHAPE, Shape
from inventory.load import load_lab
from testbed.campaign.event import ScheduledEvent
from testbed.campaign.injection import Scene
from testbed.campaign.kinds import kinds
from testbed.campaign.reach import Reach
from testbed.campaign.watch import Watch
from testbed.care.dead_man import armed
from testbed.care.restore import QDISC_HANDLE, TABLE_COMMENT, leftover, restore
from testbed.emulate.preflight import kernel_has_netem
from testbed.errors import LabFault
from testbed.hosts.ssh import SshHost
from testbed.links.emulated import EmulatedLinks
from testbed.links.host_rules import (
    TABLE,
    HostNet,
    filter_script,
    queue_script,
    read_filter,
    read_queue,
)
from testbed.links.on_host import HostLinks
from testbed.links.port import Links, Way
from testbed.programs import shell
from testbed.provision.deployment import Deployment
from tests.testbed.emulate_support import emulated, host, sudo
from tests.testbed.hosts_support import eventually
from tests.testbed.network_support import AS_NOBODY, NEEDS_ROOT, in_a_network

APART = HostNet("eth1", by_interface=True, ssh_port=22)
SHARED = HostNet("eth0", by_interface=False, ssh_port=2222)
# The other end's SSH server, reached over the data network: it answers or it does not.
CALL = """
import socket, sys, time
began = time.monotonic()
try:
    with socket.create_connection((sys.argv[1], 22), timeout=0.4) as peer:
        print(round((time.monotonic() - began) * 1000) if peer.recv(4) else -1)
except OSError:
    print(-1)
"""


# --- what is written for nft and tc -------------------------------------------------------------


def test_nft_drops_on_the_data_interface_only() -> None:
    script = filter_script(APART, {"10.0.0.1": 1.0, "10.0.0.2": 0.25})
    assert 'comment "m2m-testbed"' in script
    drops = [line.strip() for line in script.splitlines() if line.endswith("drop")]
    assert drops == [
        'iifname "eth1" ip saddr 10.0.0.1 counter drop',
        'iifname "eth1" ip saddr 10.0.0.2 numgen random mod 10000 < 2500 counter drop',
    ]
    assert filter_script(APART, {}) == ""


def test_on_a_shared_interface_ssh_is_exempt_and_only_peers_are_shaped() -> None:
    script = filter_script(SHARED, {"10.0.0.1": 1.0})
    first, second, drop = [line.strip() for line in script.splitlines()[4:7]]
    assert (first, second) == ("tcp dport 2222 accept", "tcp sport 2222 accept")
    assert drop == "ip saddr 10.0.0.1 counter drop"
    queue = queue_script(SHARED, {"10.0.0.1": Shape(delay_ms=5)}).splitlines()
    ssh = [line for line in queue if "2222" in line]
    assert len(ssh) == 2
    assert all("prio 1 " in line and line.endswith("flowid 7bed:1") for line in ssh)


def test_what_is_not_shaped_keeps_the_first_band() -> None:
    shapes = {"10.0.0.1": Shape(delay_ms=20, jitter_ms=5), "fd00::1": Shape(rate_kbit=512)}
    lines = queue_script(APART, shapes).splitlines()
    assert lines[0].endswith("prio bands 3 priomap 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0")
    assert "parent 7bed:2 netem delay 20ms 5ms" in lines[1]
    assert "match ip dst 10.0.0.1/32 flowid 7bed:2" in lines[3]
    assert "protocol ipv6 prio 3 u32 match ip6 dst fd00::1/128 flowid 7bed:3" in lines[4]


def test_a_host_cannot_have_more_shapes_than_bands() -> None:
    shapes = {f"10.0.0.{n}": Shape(delay_ms=n) for n in range(1, 17)}
    with pytest.raises(LabFault, match="16 different shapes"):
        queue_script(APART, shapes)


def test_what_tc_says_of_netem_is_read_as_a_shape() -> None:
    """The form is iproute2's: seconds, shares of one, bytes per second."""
    shape = Shape(
        delay_ms=20, jitter_ms=5, reorder=0.1, duplicate=0.01, corrupt=0.02, rate_kbit=512
    )
    options = {
        "delay": {"delay": 0.02, "jitter": 0.005, "correlation": 0},
        "reorder": {"reorder": 0.1, "correlation": 0},
        "duplicate": {"duplicate": 0.01, "correlation": 0},
        "corrupt": {"corrupt": 0.02, "correlation": 0},
        "rate": {"rate": 64000, "packetoverhead": 0},
    }
    said = [
        {"kind": "prio", "handle": "7bed:", "root": True},
        {"kind": "netem", "parent": "7bed:2", "options": options, "packets": 7},
    ]
    assert read_queue(json.dumps(said), {"10.0.0.1": shape}) == {"10.0.0.1": (shape, 7)}
    assert read_queue("[]", {"10.0.0.1": shape}) == {}
    assert read_filter("{}") == {}


# --- the program for hosts ----------------------------------------------------------------------

FOREIGN_TABLES = {
    "without a comment": ["nft add table inet testbed_links"],
    "with another comment": [
        f"nft 'add table inet testbed_links {{ comment \"not {TABLE_COMMENT}\"; }}'"
    ],
    "with our comment on its chain": [
        "nft add table inet testbed_links",
        f"nft 'add chain inet testbed_links c {{ comment \"{TABLE_COMMENT}\"; }}'",
    ],
}


def rules(verb: str, device: str = "-") -> str:
    """The program for hosts as a line of shell."""
    words = (verb, device, QDISC_HANDLE, TABLE, TABLE_COMMENT)
    return shlex.join(shell("links/rules.sh", *words))


@NEEDS_ROOT
@pytest.mark.lab
@pytest.mark.parametrize("verb", ["set", "set nothing", "show", "clear"])
@pytest.mark.parametrize("foreign", FOREIGN_TABLES.values(), ids=FOREIGN_TABLES)
def test_a_table_of_our_name_without_our_comment_is_never_changed(
    foreign: list[str], verb: str
) -> None:
    """What would have to change it is refused. What has nothing of ours to remove ends well."""
    script = filter_script(APART, {"10.0.0.1": 1.0}) if verb == "set" else ""
    code, said, before, after = in_a_network(
        *foreign,
        "before=$(nft list ruleset); code=0",
        f"said=$({rules(verb.split(maxsplit=1)[0])} 2>&1 <<end\n{script}\n--\nend\n) || code=$?",
        r'printf "%s\0" "$code" "$said" "$before" "$(nft list ruleset)"',
    ).split("\0")[:4]
    assert after == before
    assert (code, said) == (
        ("0", "")
        if verb in ("set nothing", "clear")
        else ("1", "the filter table inet testbed_links is of somebody else: rename or delete it")
    )


@NEEDS_ROOT
@pytest.mark.lab
def test_our_own_table_is_set_shown_replaced_and_cleared() -> None:
    lines = []
    for address in ("10.0.0.1", "10.0.0.2"):
        script = filter_script(APART, {address: 1.0})
        lines += [f"{rules('set')} <<end\n{script}\n--\nend", rules("show")]
    said = in_a_network(*lines, rules("clear"), rules("clear"), rules("show")).splitlines()
    assert [list(read_filter(line)) for line in said[::2]] == [["10.0.0.1"], ["10.0.0.2"], []]
    assert said[1::2] == ["[]"] * 3


@NEEDS_ROOT
@pytest.mark.lab
def test_a_table_is_cleared_even_if_tc_fails_and_the_failure_is_told(tmp_path: Path) -> None:
    """A host that undoes a cut by itself must not keep it, whatever else is broken there."""
    broken = tmp_path / "tc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    script = filter_script(APART, {"10.0.0.1": 1.0})
    said = in_a_network(
        f"{rules('set')} <<end\n{script}\n--\nend",
        f"PATH={tmp_path}:$PATH {rules('clear', 'lo')} || echo told",
        "nft list tables",
    )
    assert said == "told\n"


@NEEDS_ROOT
@pytest.mark.lab
@pytest.mark.parametrize(
    ("look", "why"),
    [
        (shlex.join(AS_NOBODY) + " " + rules("show"), "sudo: "),
        (rules("show", "eth9"), 'Cannot find device "eth9"'),
    ],
    ids=["tables", "disciplines"],
)
def test_what_cannot_be_looked_at_does_not_read_as_nothing(look: str, why: str) -> None:
    said = in_a_network(f"cd /; if said=$({look} 2>&1); then echo went well; fi; echo $said")
    assert why in said
    assert "went well" not in said


# --- on machines --------------------------------------------------------------------------------


class TwoHosts:
    """pi01 and pi02 of an emulated lab, as links see them."""

    def __init__(self, hosts: dict[str, SshHost], deployment: Deployment) -> None:
        self.hosts = hosts
        self.deployment = deployment
        first = {node.host: node for node in reversed(deployment.nodes)}
        self.one, self.two = first["pi01"], first["pi02"]

    def call(self, source: str, target: str) -> int:
        """Milliseconds until the other end answers over the data network; -1: not in 400 ms."""
        address = self.deployment.lab.address(target)
        return int(self.hosts[source].run(["python3", "-c", CALL, address]).stdout)

    def managed(self) -> bool:
        return all(each.run(["true"]).exit_code == 0 for each in self.hosts.values())


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    with ExitStack() as stack:
        running = stack.enter_context(emulated(tmp_path_factory.mktemp("lab") / "out", hosts=2))
        hosts = {name: stack.enter_context(host(running, name)) for name in ("pi01", "pi02")}
        lab = load_lab(running.inventory)
        yield TwoHosts(hosts, Deployment(lab, hosts, {}, lambda _: None))


@pytest.fixture(params=[HostLinks, EmulatedLinks])
def links(request: pytest.FixtureRequest, two: TwoHosts) -> Links:
    if request.param is EmulatedLinks and kernel_has_netem():
        pytest.skip("this kernel has netem: the emulated lab has no switch of its own")
    made: Links = request.param(two.deployment)
    return made


@pytest.mark.lab
def test_links_are_cut_one_way_read_back_and_cleared(two: TwoHosts, links: Links) -> None:
    (there,) = links.ways([(two.one, two.two)])
    (back,) = links.ways([(two.two, two.one)])
    assert links.read_back([there, back]) == {
        there: (nothing := links.read_back([there])[there]),
        back: nothing,
    }
    assert nothing.shape == NO_SHAPE
    try:
        for owner in ("a", "b"):
            links.arm(owner, [two.one, two.two], after_s=60)
        links.shape("a", {there: CUT})
        assert two.call("pi01", "pi02") == -1
        read = links.read_back([there, back])
        assert read[there].shape.is_cut
        assert read[there].touched > 0
        assert read[back].shape == NO_SHAPE
        assert two.managed(), "the way of the orchestrator is never cut"
        links.shape("b", {there: CUT, back: CUT})
        links.clear("a")
        links.clear("a")
        assert {each.shape for each in links.read_back([there, back]).values()} == {CUT}
    finally:
        links.clear("a")
        links.clear("b")
    assert two.call("pi01", "pi02") >= 0
    assert {each.shape for each in links.read_back([there, back]).values()} == {NO_SHAPE}
    assert not any(armed(each) for each in two.hosts.values())


@pytest.mark.lab
def test_links_are_delayed(two: TwoHosts, links: Links) -> None:
    if isinstance(links, HostLinks) and not kernel_has_netem():
        pytest.skip("this kernel has no netem: modprobe sch_netem")
    (there,) = links.ways([(two.one, two.two)])
    shape = Shape(delay_ms=60, jitter_ms=10)
    try:
        links.arm("slow", [two.one, two.two], after_s=60)
        links.shape("slow", {there: shape})
        assert two.call("pi01", "pi02") >= 50
        read = links.read_back([there])[there]
        assert read.shape == shape
        assert read.touched > 0
    finally:
        links.clear("slow")
    assert links.read_back([there])[there].shape == NO_SHAPE


@pytest.mark.lab
def test_a_host_clears_its_link_rules_by_itself_and_restore_does(two: TwoHosts) -> None:
    links = HostLinks(two.deployment)
    ways = links.ways([(two.one, two.two)])
    pi02 = two.hosts["pi02"]
    try:
        links.arm("forgotten", [two.one, two.two], after_s=60)
        links.shape("forgotten", dict.fromkeys(ways, CUT))
        assert any("testbed_links" in line for line in leftover(pi02).others)
        with pytest.raises(LabFault, match="some are there already"):
            HostLinks(two.deployment).arm("other", [two.two], after_s=60)
        assert any("testbed_links" in line for line in restore(pi02, lambda _: None))
        assert two.call("pi01", "pi02") >= 0
        links.shape("forgotten", {})
        links.arm("forgotten", [two.one, two.two], after_s=60)
        links.shape("forgotten", dict.fromkeys(ways, CUT))
        assert two.call("pi01", "pi02") == -1
        # The time is over, and nobody here clears it.
        links.arm("forgotten", [two.one, two.two], after_s=1)
        eventually(lambda: two.call("pi01", "pi02") >= 0)
        assert leftover(pi02).lines == []
    finally:
        links.clear("forgotten")


@pytest.mark.lab
def test_links_are_not_armed_where_a_table_of_our_name_is_somebody_elses(two: TwoHosts) -> None:
    pi02 = two.hosts["pi02"]
    sudo(pi02, "nft add table inet testbed_links")
    try:
        with pytest.raises(
            LabFault,
            match=r"^pi02: link rules: the filter table inet testbed_links is of somebody else",
        ):
            HostLinks(two.deployment).arm("cut", [two.two], after_s=60)
        assert armed(pi02) == []
        assert leftover(pi02).lines == []
    finally:
        sudo(pi02, "nft delete table inet testbed_links")


@pytest.mark.lab
def test_a_partition_of_a_campaign_is_armed_cut_seen_and_healed_on_hosts(
    two: TwoHosts, tmp_path: Path
) -> None:
    """The kind by its mechanism `nft`: from the event to the hosts and back."""
    gateway, replica = (two.deployment.with_role(role)[0] for role in ("gateway", "replica"))
    assert gateway.host != replica.host
    cut = ScheduledEvent(
        id="cut",
        fault="cut",
        kind="net.partition",
        category="fault",
        layer="network",
        phase="fault",
        params={"shape": "one-way"},
        at_ms=0,
        for_ms=1_000,
        targets={"from": (gateway.name,), "to": (replica.name,)},
    )
    mechanism = kinds()["net.partition"].mechanism("nft")
    assert mechanism is not None
    assert mechanism.available(two.deployment.lab, (gateway.host, replica.host)) is None
    scene = Scene(
        event=cut,
        deployment=two.deployment,
        watch=Watch(two.deployment, Reach(lambda _: None, lambda *_, **__: None)),
        primary=lambda: replica,
        rng=Random(7),
        captures=tmp_path,
    )
    injection = mechanism.make(scene)
    try:
        injection.arm()
        assert all(armed(each) for each in two.hosts.values())
        injection.apply()
        assert injection.observe(0.0) is None, "nothing has met the rule yet"
        assert two.call(gateway.host, replica.host) == -1
        seen = injection.observe(5.0)
        assert seen is not None
        (read,) = seen.read_back.values()
        assert isinstance(read, dict)
        assert read["loss"] == 1.0
        assert read["touched"] > 0
    finally:
        injection.heal()
    assert injection.verify(5.0)
    assert two.call(gateway.host, replica.host) >= 0
    assert all(leftover(each).lines == [] for each in two.hosts.values())


def test_a_way_within_a_host_is_no_link(two: TwoHosts) -> None:
    links = HostLinks(two.deployment)
    assert links.ways([(two.one, two.one), (two.one, two.two)]) == (Way("pi01", "pi02"),)
    with pytest.raises(LabFault, match="on one host"):
        links.ways([(two.one, two.one)])
