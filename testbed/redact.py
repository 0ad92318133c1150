"""Takes secrets out of the inventory and the command line that a bundle holds: others will read it.

It removes everything that a stranger could misuse: logins, key and known_hosts paths, SSH ports,
addresses of meters and of hosts that are reached over SSH, and the commands that switch power (they
may hold tokens). Other paths lose their folders, and YAML comments go. It keeps everything that
reproduces a run: roles, capabilities, boards and their identities, interfaces, options of the
chain. The result is a valid inventory with the same schedule. The processes' own logs are not
changed; they may name addresses of the data network.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from inventory.entries import CommandPower, ShellyMeter
from inventory.model import Lab

__all__ = ["redacted_argv", "redacted_inventory"]

_KEPT_OF_SSH = ("jump", "connect_timeout")
_REDACTED = "redacted"


def redacted_inventory(lab: Lab) -> bytes:
    """The inventory as YAML, without what could be misused. Equal labs give equal bytes."""
    plain: dict[str, Any] = lab.model_dump(
        mode="json", by_alias=True, exclude_unset=True, exclude_none=True
    )
    _without_login(plain.get("defaults", {}))
    for name, host in plain["hosts"].items():
        _without_login(host)
        if lab.hosts[name].connection == "ssh":
            host["addr"] = f"address-of-{name}"
            if "data_addr" in host:
                host["data_addr"] = f"data-address-of-{name}"
        if isinstance(lab.hosts[name].meter, ShellyMeter):
            host["meter"] |= {"addr": f"meter-of-{name}"}
        if isinstance(lab.hosts[name].power, CommandPower):
            host["power"] |= {"off": [_REDACTED], "on": [_REDACTED]}
    plain = _tidy(plain)
    text = io.StringIO("# Logins, addresses, paths and power commands were taken out.\n")
    text.seek(0, io.SEEK_END)
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 100
    yaml.dump(plain, text)
    return text.getvalue().encode()


def redacted_argv(argv: Sequence[str]) -> tuple[str, ...]:
    """A command line as it was typed, the home directory (and so the user's name) as `~`."""
    home = str(Path.home())
    return tuple(word.replace(home, "~") if len(home) > 1 else word for word in argv)


def _tidy(value: Any) -> Any:
    """Removes what is empty, and the folders of files."""
    if isinstance(value, dict):
        tidied = {key: _tidy(each) for key, each in value.items()}
        return {key: each for key, each in tidied.items() if each not in ({}, [])}
    if isinstance(value, list):
        return [_tidy(each) for each in value]
    if isinstance(value, str) and value.startswith("/") and not value.startswith("/dev/"):
        return Path(value).name
    return value


def _without_login(owner: dict[str, Any]) -> None:
    if "ssh" in owner:
        owner["ssh"] = {k: v for k, v in owner["ssh"].items() if k in _KEPT_OF_SSH}
