"""The inventory of an emulated lab. With this file the lab is used like any other lab."""

from __future__ import annotations

import io
import json
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from inventory.model import Lab
from testbed.emulate.plan import LabPlan

__all__ = ["FILES", "inventory_text", "planned_lab"]

FILES = {"inventory": "inventory.yaml", "key": "id_ed25519", "known_hosts": "known_hosts"}


def inventory_text(plan: LabPlan) -> str:
    """YAML that `inventory.load` accepts; paths are relative to the file."""
    planned_lab(plan)  # it is valid
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 100
    text = io.StringIO()
    text.write("# Made by `testbed emulate up`, removed by `testbed emulate down`.\n")
    yaml.dump(_document(plan), text)
    return text.getvalue()


def planned_lab(plan: LabPlan) -> Lab:
    """The lab that this text describes."""
    return Lab.model_validate_json(json.dumps(_document(plan)))


def _document(plan: LabPlan) -> dict[str, Any]:
    hosts: dict[str, Any] = {}
    for machine in plan.machines:
        hosts[machine.name] = {
            "addr": machine.addr,
            "data_addr": machine.data_addr,
            "hw_serial": DoubleQuotedScalarString(machine.hw_serial),
            "roles": list(machine.roles),
            "caps": [plan.shaping, "nft", "power"],
            "power": {"driver": "emulated"},
        }
        if "mobile" in machine.roles:
            hosts[machine.name]["mobiles"] = 3
    replicas = sum("replica" in machine.roles for machine in plan.machines)
    return {
        "schema": "testbed.inventory/1",
        "lab": f"emulated-{plan.lab_id}",
        "stage": "emulated",
        "defaults": {
            "ssh": {
                "user": plan.options.login,
                "key": f"./{FILES['key']}",
                "known_hosts": f"./{FILES['known_hosts']}",
                "connect_timeout": "5s",
            },
            "net": {"mgmt": "eth0", "data": "eth1"},
            "clock": {"max_error": "5ms"},  # one clock for all; SSH measures it no better
        },
        **({"chain": {"f": 0}} if replicas < 4 else {}),
        "hosts": hosts,
        **(
            {
                "boards": {
                    board.name: {
                        "host": board.host,
                        "match": {"usb_serial": DoubleQuotedScalarString(board.usb_serial)},
                        "firmware": {"board": "unix"},
                    }
                    for board in plan.boards
                }
            }
            if plan.boards
            else {}
        ),
    }
