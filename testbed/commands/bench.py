"""`testbed bench`: measurements that print figures and ratios, never pass or fail."""

from __future__ import annotations

import typer

from testbed.commands import (
    bench_consensus,
    bench_devices,
    bench_peers,
    bench_provision,
    bench_saturation,
)

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Measure speed on this machine.")


app.command()(bench_consensus.consensus)
app.command()(bench_consensus.memory)
app.command()(bench_consensus.traces)
app.command()(bench_consensus.switch)
app.command("catch-up")(bench_consensus.catch_up)
app.command()(bench_devices.serial)
app.command()(bench_devices.admission)
app.command()(bench_devices.revocation)
app.command()(bench_devices.restart)
app.command()(bench_devices.growth)
app.command()(bench_provision.provision)
app.command()(bench_saturation.saturation)
app.command()(bench_peers.views)
app.command()(bench_peers.peers)
app.command()(bench_peers.against)
