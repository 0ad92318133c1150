"""The output of `up`, `run` and `resume` with `--check`: what each host would run, or why it
cannot."""

from __future__ import annotations

import time
from collections.abc import Sequence

from inventory.model import Lab
from testbed.campaign.between import assert_clean
from testbed.care.lease import require_free
from testbed.commands.fleet import LEASES_SHOWN, lease_exit_code, show
from testbed.errors import ConfigurationError
from testbed.fleet import HostOutcome, Step, for_each
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host
from testbed.provision.layout import layout
from testbed.provision.probe import probe
from testbed.provision.ready import staleness
from testbed.wheelhouse import Wheelhouse

__all__ = ["look_before"]


def look_before(command: Sequence[str], lab: Lab, *, as_json: bool) -> int:
    """Print what each host would run. Starts nothing and takes no lease. Returns the exit code."""
    began_s = time.monotonic()
    wheelhouse = Wheelhouse()
    names = {host: [n.name for n in layout(lab) if n.host == host] for host in lab.active}
    would = {host: f"would run {', '.join(of_it) or 'nothing'}" for host, of_it in names.items()}

    def work(host: Host, step: Step) -> str:
        step("looking")
        require_free(host)
        if lack := staleness(probe(host), wheelhouse):
            fix = f"testbed provision -i FILE --limit {host.name}"
            raise ConfigurationError(f"{host.name}: {lack}\n  fix: {fix}")
        assert_clean({host.name: host})
        return would[host.name]

    remote = limited(lab, None)
    here = [HostOutcome(n, would[n], None, 0.0, ()) for n in lab.active if n not in remote]
    with ssh_hosts(lab, remote) as hosts:
        outcomes = [*here, *for_each(hosts, work)]
    took_s = time.monotonic() - began_s
    show(outcomes, took_s, LEASES_SHOWN, [*command, "--check"], as_json=as_json, together=True)
    return lease_exit_code(outcomes)
