"""An inventory file with mistakes is refused with all of them at once, each with place and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from inventory.checks import warnings
from inventory.document import depth_max, file_bytes_max, nodes_max, parse
from inventory.load import InvalidFile, load_lab, load_yaml, packaged
from inventory.model import Lab
from inventory.schema import lab_schema

LAB = """\
schema: testbed.inventory/1
lab: bench-a
defaults:
  ssh: {user: pi, known_hosts: ./known_hosts, jump: gw}
  net: {mgmt: eth0, data: eth1}
chain: {window: 8}
hosts:
  gw: {addr: 10.0.0.1}
  pi01: {addr: 10.0.0.11, hw_serial: "a1", roles: [replica, gateway, broker], caps: [netem]}
  pi02: {addr: 10.0.0.12, hw_serial: "a2", roles: [replica, environment]}
  pi03: {addr: 10.0.0.13, roles: [replica, mobile], mobiles: 2}
  pi04: {addr: 10.0.0.14, roles: [replica], power: {driver: uhubctl, port: "1-1.2"}}
  pi05: {addr: 10.0.0.15, roles: [replica], state: quarantined, reason: undervoltage}
boards:
  th01: {host: pi02, match: {usb_serial: E660}, firmware: {board: rp2040}}
"""

CHAIN, METRICS = "chain: {window: 8}", "metrics: {port: 9100,"
METER = "roles: [replica, mobile], meter: {driver: shelly, addr:"

# What is changed in LAB, where the loader points and what it says; True if the schema sees it too.
BROKEN: list[tuple[str, str, str, str, bool]] = [
    ("lab: bench-a", "lab: Bench A", "2:6: lab:", "must fit", True),
    ("testbed.inventory/1", "testbed.inventory/9", "1:9: schema:", "did you mean", True),
    ("lab: bench-a\n", "", "1:1: lab:", "is missing; add it", True),
    ("roles: [replica, mobile]", "rols: [replica]", "11:27: hosts.pi03.rols:", "roles?", True),
    ("[replica, mobile]", "[replca, mobile]", "11:35: hosts.pi03.roles[0]:", "replica?", True),
    ("caps: [netem]", "caps: [netm]", "hosts.pi01.caps[0]:", "did you mean netem", True),
    ("mobiles: 2", 'mobiles: "2"', "hosts.pi03.mobiles:", "without quotes", True),
    ("mobiles: 2", "mobiles: 0", "hosts.pi03.mobiles:", "greater than or equal to 1", True),
    ('hw_serial: "a1"', "hw_serial: 12", "hosts.pi01.hw_serial:", '"12"', True),
    (
        "usb_serial: E660",
        "usb_serial: 0012",
        "usb_serial:",
        'is 0012, a number in YAML; write "0012"',
        True,
    ),
    (
        "usb_serial: E660",
        "usb_serial: 1e10",
        "usb_serial:",
        'is 1e10, a number in YAML; write "1e10"',
        True,
    ),
    ("driver: uhubctl", "driver: usbctl", "hosts.pi04.power.driver:", "uhubctl?", True),
    ('port: "1-1.2"', 'prot: "1-1.2"', "hosts.pi04.power.prot:", "did you mean port", True),
    ("{driver: uhubctl, port", "{port", "hosts.pi04.power:", "lacks", True),
    ("board: rp2040", "board: rp2041", "boards.th01.firmware.board:", "rp2040?", True),
    ("pi04:", "Pi_04:", "12:3: hosts.Pi_04:", "not a valid name", True),
    ("chain: {window: 8}", "chain: 8", "chain:", "must be a mapping", True),
    ("roles: [replica, mobile]", "roles: replica", "hosts.pi03.roles:", "must be a list", True),
    ("addr: 10.0.0.14", "addr: 10.0.0.11", "hosts.pi04.addr:", "is pi01's", False),
    ("addr: 10.0.0.14", "addr: 10.0.0.14, data_addr: 10.0.0.11", "data_addr:", "is pi01's", False),
    ("addr: 10.0.0.14", "addr: 10.0.0.14, data_addr: 10.1.0", "data_addr:", "no IP", False),
    ("addr: 10.0.0.14", "addr: 10.0.0.14:22", "12:16: hosts.pi04.addr:", "ssh.port", False),
    ("addr: 10.0.0.14", "addr: 10.0.0.256", "12:16: hosts.pi04.addr:", "no IP address", False),
    ("addr: 10.0.0.14", "addr: 10.0.14", "12:16: hosts.pi04.addr:", "no IP address", False),
    ("addr: 10.0.0.14", "addr: 0.0.0.0", "12:16: hosts.pi04.addr:", "others reach it", False),
    ("addr: 10.0.0.14", 'addr: "fe80::14"', "hosts.pi04.addr:", "is a link-local", False),
    ("addr: 10.0.0.14", 'addr: "::ffff:10.0.0.11"', "hosts.pi04.addr:", "is pi01's", False),
    ("addr: 10.0.0.14", 'addr: "::ffff:0.0.0.0"', "hosts.pi04.addr:", "others reach it", False),
    ("addr: 10.0.0.14", "addr: pi..04", "12:16: hosts.pi04.addr:", "no IP address", False),
    ("addr: 10.0.0.14", "addr: pi 04", "12:16: hosts.pi04.addr:", "the name of a host", True),
    (CHAIN, f"{METRICS} listen: a b}}", "6:31: metrics.listen:", "the name of a host", True),
    (CHAIN, f"{METRICS} listen: 256.1.1.1}}", "6:31: metrics.listen:", "127.0.0.1", False),
    (CHAIN, f"{METRICS} listen: 10.0.0.1:80}}", "6:31: metrics.listen:", "no IP", False),
    (CHAIN, "metrics: {port: 80}", "6:17: metrics.port:", "or equal to 1024", True),
    ("roles: [replica, mobile]", f"{METER} 10.0.0.300}}", "pi03.meter.addr:", "no IP", False),
    ("roles: [replica, mobile]", f"{METER} 10.0.0.31:80}}", "pi03.meter.addr:", "port", False),
    ("addr: 10.0.0.11,", "addr: 10.0.0.11, port: 65534,", "pi01.port:", "ports to 65536", False),
    ("./known_hosts", "~nobody-here/kh", "defaults.ssh.known_hosts:", "no home", False),
    ("10.0.0.14, ", "10.0.0.14, ssh: {key: ~nobody-here/k}, ", "pi04.ssh.key:", "home", False),
    ("{window: 8}", "{factory_roots: [~nobody-here/r.pem]}", "factory_roots[0]:", "home", False),
    ('port: "1-1.2"', 'port: "7"', "hosts.pi04.power.port:", "1-1.2", False),
    ('hw_serial: "a2"', 'hw_serial: "A1"', "hosts.pi02.hw_serial:", "is pi01's", False),
    ("addr: 10.0.0.14, ", "", "12:9: hosts.pi04:", "connection: local", False),
    ("pi04: {addr: 10.0.0.14, roles: [replica]", "pi04: {addr: a", "pi04", "no role", False),
    ("roles: [replica, gateway, broker]", "roles: [gateway, broker]", "hosts:", "3f+1", False),
    ("[replica, gateway, broker]", "[replica, gateway]", "hosts:", "role broker", False),
    ("[replica, mobile]", "[replica, mobile, broker]", "hosts.pi03.roles:", "keep one", False),
    ("chain: {window: 8}", "broker: {kind: mosquito}", "6:16: broker.kind:", "mosquitto?", True),
    ("chain: {window: 8}", "broker: mosquitto", "broker:", "must be a mapping", True),
    ("chain: {window: 8}", "broker: {port: 1883}", "broker.port:", "use one of kind", True),
    ("[replica, mobile]", "[replica, replica, mobile]", "pi03.roles[1]:", "twice", True),
    ("data: eth1", "data: eth0", "hosts.pi01.caps:", "per-peer", False),
    ("jump: gw", "jump: gate", "4:53: defaults.ssh.jump:", "not under hosts", False),
    (", reason: undervoltage", "", "hosts.pi05.state:", "without a reason", False),
    ("state: quarantined, ", "", "hosts.pi05.reason:", "state: quarantined", False),
    ("host: pi02", "host: pi09", "15:16: boards.th01.host:", "not under hosts", False),
    ("host: pi02", "host: pi01", "boards.th01.host:", "role environment", False),
    (", match: {usb_serial: E660}", "", "boards.th01:", "no match", False),
    ("{usb_serial: E660}", "{}", "boards.th01.match:", "matches nothing", False),
    ("usb_serial: E660", "usb_serial: E660, usb_path: 1-1", "th01.match:", "keep one", False),
    ("pi02: {addr: 10.0.0.12", "pi02: {connection: local", "th01.match:", "over SSH", False),
    ("window: 8", "window: 65", "6:17: chain.window:", "checkpoint", False),
    ("window: 8", "group: {m: 5}", "chain.group.m:", "at most 4", False),
    ("window: 8", "group: {m: 2, k: 3}", "chain.group.k:", "at most 2", False),
    ("window: 8", "f: 2", "chain.f:", "= 7 replicas", False),
    ("[replica, mobile]", "[replica], factory: /idevid", "pi03.factory:", "one device", False),
    ("[replica, mobile]", "[mobile], factory: /idevid", "pi03.factory:", "factory_roots", False),
    ("[replica, mobile]", "[mobile], factory: idevid", "pi03.factory:", "", True),
    ("pi04:", "env:", "12:8: hosts.env:", "directory of ours", False),
    ("pi04:", "nul:", "hosts.nul:", "device on Windows", False),
    ("th01:", "lpt9:", "boards.lpt9:", "device on Windows", False),
    ("pi04:", "pi01-replica:", "12:17: hosts.pi01-replica:", "pi01's replica", False),
    ("th01:", "pi01-broker:", "15:16: boards.pi01-broker:", "pi01's broker", False),
    ("pi02:", "pi03:", "11:3: hosts.pi03:", "duplicate key, first on line 10", False),
    ("lab: bench-a", "lab: !!str bench-a", "lab:", "tag", False),
    ("chain: {window: 8}", "<<: {a: 1}", "6:1:", "merge keys", False),
    ("chain: {window: 8}", "chain: {window: 8", "7:6:", "not YAML", False),
    ("chain: {window: 8}", "chain: *nowhere", "6:8:", "undefined alias", False),
    ("chain: {window: 8}", "---", "6:1:", "another document", False),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab") / "lab.yaml"


def mistakes(file: Path, content: str | bytes) -> list[str]:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        load_lab(file)
    except InvalidFile as error:
        return error.lines()
    return []


def test_the_lab_that_the_table_breaks_is_itself_in_order(file: Path) -> None:
    assert mistakes(file, LAB) == []


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case[1])
def test_each_mistake_is_found_where_it_stands(
    file: Path, case: tuple[str, str, str, str, bool]
) -> None:
    old, new, where, says, shape = case
    assert LAB.count(old) >= 1
    found = mistakes(file, LAB.replace(old, new, 1))
    assert any(where in line and says in line for line in found), found
    assert all(line.startswith(f"{file}:") for line in found)
    if shape:
        data = parse(file.read_bytes()).data
        assert not Draft202012Validator(lab_schema()).is_valid(data)


def test_equal_usb_serials_are_distinguished_by_host(file: Path) -> None:
    """CP2102 bridges all come with serial 0001; on one host only the place distinguishes them."""
    text = LAB.replace("[replica, mobile]", "[replica, mobile, environment]")
    two = text + "  th02: {host: pi03, match: {usb_serial: E660}, firmware: {board: esp32}}\n"
    assert mistakes(file, two) == []
    (found,) = mistakes(file, two.replace("th02: {host: pi03", "th02: {host: pi02"))
    assert "boards.th02.match.usb_serial: usb_serial E660 is th01's on this host" in found
    assert "usb_path" in found


def test_two_processes_of_this_machine_cannot_listen_on_one_port(file: Path) -> None:
    """A host's port is its first: a replica beside a broker has the next one too."""
    text = packaged("loopback").read_text().replace("[gateway,", "[replica, gateway,")

    def with_ports(gateway: int, replica: int) -> list[str]:
        ports = text.replace("gw1: {", f"gw1: {{port: {gateway}, ")
        return mistakes(file, ports.replace("r1: {", f"r1: {{port: {replica}, "))

    assert with_ports(7000, 7002) == []
    for taken in (7000, 7001):
        (found,) = with_ports(7000, taken)
        assert f"hosts.gw1.port: port {taken} is r1's too" in found


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "::", "fd00::1", "pi01", "pi01.lan."])
def test_processes_serve_their_metrics_at_an_address_or_a_name(file: Path, listen: str) -> None:
    assert mistakes(file, f'{LAB}metrics: {{port: 9100, listen: "{listen}"}}\n') == []


def test_the_processes_of_a_big_lab_have_ports_for_metrics(file: Path) -> None:
    """Each process has one; Mosquitto has none."""
    big = LAB.replace("mobiles: 2", "mobiles: 250") + "metrics: {port: 60000}\n"
    more = "".join(f"  m{n}: {{addr: m{n}, roles: [mobile], mobiles: 250}}\n" for n in range(21))
    processes = 4 + 1 + 1 + 22 * 250  # replicas, gateway, environment, mobiles
    assert 60_000 + processes - 1 == 65_505
    text = big.replace("boards:", f"{more}boards:")
    assert mistakes(file, text) == []
    thirty_more = text.replace("mobiles: 250", "mobiles: 256", 5)
    assert mistakes(file, thirty_more) == []  # to 65535
    (found,) = mistakes(file, text.replace("mobiles: 250", "mobiles: 256"))
    assert "metrics.port: the processes need ports to 65637, the last is 65535" in found
    assert "begin at 59898 or below" in found


def test_mistakes_of_all_sorts_are_reported_together(file: Path) -> None:
    text = LAB.replace("lab: bench-a", "lab: Bench")
    text = text.replace("10.0.0.14", "10.0.0.11").replace("E660}", "E660}, colour: red")
    text = text.replace("host: pi02", "host: pi09").replace("chain:", "lab: again\nchain:")
    found = "\n".join(mistakes(file, text))
    for part in ("lab: is", "address", "colour", "host pi09", "duplicate key"):
        assert part in found


def test_one_malformed_value_causes_no_false_complaint_about_others(file: Path) -> None:
    """Three sound replicas beside a misspelt one are not 'too few replicas'."""
    found = mistakes(file, LAB.replace("[replica, mobile]", "[replca, mobile]"))
    assert len(found) == 1, found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"# nothing\n", "empty"),
        (b"5", "mapping"),
        (b"a: 1".ljust(file_bytes_max + 1), "bytes"),
        (b"[" * 100_000, f"deeper than {depth_max}"),
        (b"- " * 50_000, f"deeper than {depth_max}"),
        (b"[" + b"a," * (nodes_max + 1) + b"]", f"more than {nodes_max}"),
        (b"a: '" + b"x" * 200_000 + b"'", "longer than"),
        ("a: 1".encode("utf-16"), "UTF-8"),
        (b"a: &a [*a]", f"deeper than {depth_max}"),
        (b'a: "\\ud800"', "surrogate"),
        (b"\x00", "not YAML"),
        (b"\n".join(b"k%d: 1" % i for i in range(3_000)), "more mistakes"),
    ],
)
def test_hostile_files_are_refused_within_bounds(file: Path, content: bytes, says: str) -> None:
    found = mistakes(file, content)
    assert any(says in line for line in found)
    assert len(found) < 1000
    assert sum(map(len, found)) < 200_000


def test_an_alias_bomb_stops_at_the_limit(file: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert f"more than {nodes_max} values once aliases expand" in "\n".join(
        mistakes(file, "\n".join(lines))
    )


def test_aliases_within_the_limits_are_plain_repetition(file: Path) -> None:
    text = LAB.replace("pi01: {addr: 10.0.0.11, hw", "pi01: {ssh: &s {port: 2222}, addr: b, hw")
    file.write_text(text.replace("pi04: {", "pi04: {ssh: *s, "))
    lab = load_lab(file)
    assert lab.ssh("pi01").port == lab.ssh("pi04").port == 2222


def test_manufacturers_roots_are_found_from_the_file_that_names_them(file: Path) -> None:
    file.write_text(LAB.replace("window: 8", "window: 8, factory_roots: [acme.pem, /etc/b.pem]"))
    assert load_lab(file).chain.factory_roots == (str(file.parent / "acme.pem"), "/etc/b.pem")


@pytest.mark.parametrize("path", ["missing.yaml", ".", "a\0b"])
def test_an_unreadable_file_is_an_invalid_file(path: str) -> None:
    with pytest.raises(InvalidFile, match="cannot read"):
        load_lab(Path(path))


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda t: t.encode("utf-8"))))
def test_any_bytes_give_a_lab_or_an_invalid_file(file: Path, content: bytes) -> None:
    mistakes(file, content)


YAML_BITS = st.one_of(
    st.sampled_from(
        ["a", "hosts", ": ", "- ", "\n", "  ", "{", "}", "[", "]", ",", "|", ">", "? "]
    ),
    st.sampled_from(["&a ", "*a", "!!x ", '"', "'", "<<", "---\n", "...\n", "#", "\t", "1e999"]),
    st.sampled_from(["0x1", "~", "@", "%YAML 1.2\n"]),
)


@given(st.lists(YAML_BITS, max_size=40).map("".join))
def test_any_yaml_gives_a_lab_or_an_invalid_file(file: Path, text: str) -> None:
    mistakes(file, text)
    mistakes(file, LAB + text)


def test_paths_of_keys_do_not_depend_on_where_one_stands(file: Path) -> None:
    file.write_text(LAB)
    lab = load_lab(file)
    assert lab.ssh("pi01").known_hosts == str(file.parent / "known_hosts")
    assert lab.ssh("pi01").jump == "gw"
    assert lab.ssh("gw").jump is None


def test_quarantined_hosts_and_their_boards_are_left_out_with_reasons(file: Path) -> None:
    file.write_text(
        LAB.replace(
            "[replica, environment]}", "[environment], state: quarantined, reason: hot}"
        ).replace("chain: {window: 8}", "chain: {f: 0}")
    )
    lab = load_lab(file)
    assert list(lab.replicas()) == ["pi01", "pi03", "pi04"]
    assert lab.boards_in_use() == {}
    assert [(x.name, x.reason) for x in lab.excluded()] == [
        ("pi02", "hot"),
        ("pi05", "undervoltage"),
        ("th01", "its host pi02 is quarantined: hot"),
    ]
    assert sum("left out" in w.message for w in warnings(lab)) == 3


def test_loopback_needs_no_mosquitto_and_a_lab_has_it_unless_it_says_otherwise(file: Path) -> None:
    assert load_lab().broker_kind() == "embedded"
    for text, kind in (
        (LAB, "mosquitto"),
        (f"{LAB}stage: emulated\n", "mosquitto"),
        (f"{LAB}broker: {{kind: embedded}}\n", "embedded"),
    ):
        file.write_text(text)
        assert load_lab(file).broker_kind() == kind


def test_a_kind_of_broker_without_a_broker_is_a_mistake(file: Path) -> None:
    bare = LAB.split("boards:", maxsplit=1)[0].replace("[replica, gateway, broker]", "[replica]")
    bare = bare.replace("[replica, environment]", "[replica]")
    bare = bare.replace("[replica, mobile], mobiles: 2", "[replica]")
    assert mistakes(file, bare) == []
    found = mistakes(file, bare + "broker: {kind: mosquitto}\n")
    assert len(found) == 1
    assert "broker.kind: no active host has role broker" in found[0]


def test_a_lab_with_spare_replicas_is_warned_of(file: Path) -> None:
    file.write_text(LAB.replace(", state: quarantined, reason: undervoltage", ""))
    lab = load_lab(file)
    assert (len(lab.replicas()), lab.f) == (5, 1)
    assert any("add 2 for f = 2 or remove 1" in w.message for w in warnings(lab))


@pytest.mark.parametrize("name", ["loopback", "first-lab"])
def test_sample_labs_load_without_a_warning(name: str) -> None:
    lab = load_lab(packaged(name))
    assert list(warnings(lab)) == []
    assert (len(lab.replicas()), lab.f, len(lab.mobiles()), len(lab.boards_in_use())) == (
        4,
        1,
        3,
        2,
    )


def test_loopback_is_the_default_and_fixes_no_port() -> None:
    lab = load_lab()
    assert lab.stage_name() == "loopback"
    assert [mobile.name for mobile in lab.mobiles()] == ["phones-1", "phones-2", "phones-3"]
    assert all(host.port is None for host in lab.hosts.values())
    assert {lab.address(name) for name in lab.hosts} == {"127.0.0.1"}


def sample(name: str) -> Any:
    return parse(packaged(name).read_bytes()).data


def test_model_dump_of_a_lab_fits_the_published_schema() -> None:
    dumped = load_lab().model_dump(mode="json", by_alias=True)
    Draft202012Validator(lab_schema()).validate(dumped)


@pytest.mark.parametrize("name", ["loopback", "first-lab"])
def test_loader_and_schema_agree_on_samples(name: str) -> None:
    Draft202012Validator.check_schema(lab_schema())
    Draft202012Validator(lab_schema()).validate(sample(name))
    load_yaml(packaged(name), Lab)
