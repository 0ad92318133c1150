"""Whatever size is asked for, the plan is a lab that the inventory's own checks accept."""

from __future__ import annotations

import tempfile
from inspect import signature
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from inventory.checks import errors
from inventory.load import load_lab
from inventory.model import Lab
from testbed.emulate.inventory_file import inventory_text
from testbed.emulate.plan import (
    BOARDS_MAX,
    HOSTS_MAX,
    EmulationOptions,
    LabPlan,
    Login,
    Shaping,
    make_plan,
)
from tests.testbed.emulate_support import emulated

lab_ids = st.integers(0, 0xFFFF).map(lambda n: f"{n:04x}")


@st.composite
def plans(draw: st.DrawFn) -> LabPlan:
    options = EmulationOptions(
        hosts=draw(st.integers(1, HOSTS_MAX)),
        boards=draw(st.integers(0, BOARDS_MAX)),
        login=draw(st.sampled_from(get_args(Login))),
        systemd=draw(st.booleans()),
    )
    number = draw(st.integers(0, 254))
    networks = [IPv4Network(f"10.213.{one}.0/24") for one in (number, number + 1)]
    shaping: Shaping = draw(st.sampled_from(get_args(Shaping)))
    return make_plan(draw(lab_ids), options, networks[0], networks[1], shaping)


@settings(max_examples=15)
@given(plan=plans())
def test_every_plan_is_a_valid_inventory(plan: LabPlan) -> None:
    """Also serials that YAML would read as numbers: 1e40001."""
    lab = _loaded(plan)
    assert list(errors(lab)) == []
    assert list(lab.hosts) == [machine.name for machine in plan.machines]
    for machine in plan.machines:
        assert lab.hosts[machine.name].hw_serial == machine.hw_serial
        assert lab.login_address(machine.name) == machine.addr
        assert lab.address(machine.name) == machine.data_addr
    assert len(lab.boards) == plan.options.boards
    others = [name for name in lab.hosts if name not in lab.replicas()]
    assert list(lab.with_role("spare")) == others[-1:], "on no replica's host"


def test_hosts_are_by_default_as_in_the_field() -> None:
    """Tests make their labs with `emulated`, which has no option for the login or the init."""
    assert (EmulationOptions(hosts=1).login, EmulationOptions(hosts=1).systemd) == ("pi", True)
    assert {"login", "systemd"}.isdisjoint(signature(emulated).parameters)


@settings(max_examples=40)
@given(plan=plans())
def test_every_name_and_address_is_unique_and_fits(plan: LabPlan) -> None:
    management = {machine.addr for machine in plan.machines} | {plan.own_addr}
    data = {machine.data_addr for machine in plan.machines} | {plan.own_data_addr}
    macs = {mac for machine in plan.machines for mac in (machine.mgmt_mac, machine.data_mac)}
    assert len(management | data) == 2 * (len(plan.machines) + 1)
    assert len(macs | {plan.own_data_mac}) == 2 * len(plan.machines) + 1
    for network, addresses in ((plan.network, management), (plan.data_network, data)):
        assert {ip_address(one) for one in addresses} < set(IPv4Network(network).hosts())
    interfaces = [
        plan.uplink,
        plan.data_uplink,
        *(f"m-{machine.name}" for machine in plan.machines),
    ]
    assert all(len(name) <= 15 for name in interfaces), "the kernel's limit"


def test_six_hosts_are_four_replicas_and_two_that_carry_the_rest() -> None:
    networks = IPv4Network("10.213.0.0/24"), IPv4Network("10.213.1.0/24")
    plan = make_plan("00ff", EmulationOptions(hosts=6, boards=2), *networks, "switch")
    assert {machine.name: machine.roles for machine in plan.machines} == {
        **{f"pi{n:02}": ("replica",) for n in (1, 2, 3, 4)},
        "pi05": ("gateway", "broker", "environment"),
        "pi06": ("environment", "mobile", "spare"),
    }
    assert {board.name: board.host for board in plan.boards} == {"th01": "pi05", "th02": "pi06"}


def _loaded(plan: LabPlan) -> Lab:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "inventory.yaml"
        path.write_text(inventory_text(plan))
        return load_lab(path)
