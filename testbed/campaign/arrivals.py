"""When each device sends. The intended times are drawn before the run and do not depend on what the
system does. The load is open-loop: a slow answer delays no later send, and latency counts from the
intended time. Every device has its own random stream, so one more device changes no other device's
times.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from inventory.model import Lab
from testbed.campaign.file import Workload
from testbed.campaign.schedule import Device, DeviceRole
from testbed.errors import ConfigurationError

__all__ = ["Span", "devices", "devices_of", "stream"]

Span = tuple[str, int, int]  # phase name, start_ms, end_ms


def stream(seed: int, trial: int, label: str) -> Random:
    """An independent random stream; the same in every process and on every machine."""
    return Random(f"{seed}/{trial}/{label}")  # noqa: S311 - repeatable, not secret


def devices_of(lab: Lab) -> dict[DeviceRole, list[tuple[str, str]]]:
    """(name, host) of each device by role, in inventory order."""
    return {
        "environment": [(lab.process(h, "environment"), h) for h in lab.with_role("environment")],
        "mobile": [(mobile.name, mobile.host) for mobile in lab.mobiles()],
        "board": [(name, board.host) for name, board in lab.boards_in_use().items()],
    }


def devices(
    workload: Workload, lab: Lab, phases: tuple[Span, ...], seed: int, trial: int
) -> tuple[Device, ...]:
    """Devices of a trial: mobiles, environment hosts, boards, each in inventory order.

    Devices with keys of their own are admitted in the first half of the first phase, at equal
    distances. Data is sent after that. Raises ConfigurationError if nothing could send.
    """
    places = devices_of(lab)
    environments, mobiles, boards = places.values()
    senders = len(mobiles) + (len(boards) if workload.kind == "enrol+data" else 0)
    if senders == 0:
        raise ConfigurationError(
            f"workload: lab {lab.lab} has no device that could send; add a host with role mobile"
        )
    name, start_ms, end_ms = phases[0]
    half_ms = start_ms + (end_ms - start_ms) // 2
    sending = ((name, half_ms, end_ms), *phases[1:])
    per_ms = workload.rate.per_s / senders / 1000
    admitted = len(mobiles) + len(environments)

    def sends(device: str) -> dict[str, tuple[int, ...]]:
        rng = stream(seed, trial, f"device/{device}")
        return {
            name: _arrivals(rng, workload.arrivals, per_ms, start_ms, end_ms)
            for name, start_ms, end_ms in sending
        }

    out: list[Device] = []
    for role, members in places.items():
        for device, host in members:
            silent = role == "environment" or (role == "board" and workload.kind == "enrol")
            enrol_at_ms = start_ms + (half_ms - start_ms) * len(out) // max(1, admitted)
            out.append(
                Device(
                    name=device,
                    role=role,
                    host=host,
                    enrol_at_ms=None if role == "board" else enrol_at_ms,
                    sends_ms={} if silent else sends(device),
                )
            )
    return tuple(out)


def _arrivals(
    rng: Random, how: Literal["poisson", "uniform"], per_ms: float, start_ms: int, end_ms: int
) -> tuple[int, ...]:
    """Times in [start, end): exponential gaps, or equal gaps from a random first one."""
    times: list[int] = []
    at_ms = start_ms + (rng.expovariate(per_ms) if how == "poisson" else rng.random() / per_ms)
    while at_ms < end_ms:
        times.append(int(at_ms))
        at_ms += rng.expovariate(per_ms) if how == "poisson" else 1 / per_ms
    return tuple(times)
