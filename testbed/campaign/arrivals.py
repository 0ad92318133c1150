"""Which device sends when: the workload of a campaign, shared among the devices of a lab.

The times come from `nodes.device.sends`. The load is open-loop: a slow answer delays no later send,
and latency counts from the intended time. Every device has its own random stream, so one more
device changes no other device's times.
"""

from __future__ import annotations

from random import Random

from inventory.model import Lab
from nodes.device.sends import Draw, Profile, Segment
from testbed.campaign.file import Workload
from testbed.campaign.schedule import DeviceRole, ScheduledDevice
from testbed.errors import ConfigurationError
from testbed.profile import Span, constant
from testbed.provision.layout import layout

__all__ = ["devices", "profile_of", "stream"]

_ORDER: tuple[DeviceRole, ...] = ("environment", "mobile", "board")


def stream(seed: int, trial: int, label: str) -> Random:
    """An independent random stream; the same in every process and on every machine."""
    return Random(stream_name(seed, trial, label))  # noqa: S311 - repeatable, not secret


def stream_name(seed: int, trial: int, label: str) -> str:
    return f"{seed}/{trial}/{label}"


def devices(
    workload: Workload, lab: Lab, phases: tuple[Span, ...], seed: int, trial: int
) -> tuple[ScheduledDevice, ...]:
    """Devices of a trial: environment hosts, mobiles, boards, each in inventory order.

    Devices with keys of their own are admitted in the first half of the first phase, at equal
    intervals. Data is sent after that. Raises ConfigurationError if nothing could send.
    """
    nodes = layout(lab)
    by_role = {role: [node for node in nodes if node.role == role] for role in _ORDER}
    sends: tuple[DeviceRole, ...] = ("mobile",)
    if workload.kind == "enrol+data":
        sends = ("mobile", "board")
    senders = sum(len(by_role[role]) for role in sends)
    if senders == 0:
        raise ConfigurationError(
            f"workload: lab {lab.lab} has no device that could send; add a host with role mobile"
        )
    name, start_ms, end_ms = phases[0]
    half_ms = start_ms + (end_ms - start_ms) // 2
    sending = ((name, half_ms, end_ms), *phases[1:])
    profile = profile_of(workload, sending).share(senders)
    admitted = len(by_role["mobile"]) + len(by_role["environment"])
    out: list[ScheduledDevice] = []
    for role, members in by_role.items():
        for node in members:
            name_of_stream = stream_name(seed, trial, f"device/{node.name}")
            enrol_at_ms = start_ms + (half_ms - start_ms) * len(out) // max(1, admitted)
            out.append(
                ScheduledDevice(
                    name=node.name,
                    role=role,
                    host=node.host,
                    enrol_at_ms=None if role == "board" else enrol_at_ms,
                    draws=(Draw.of(profile, name_of_stream),) if role in sends else (),
                )
            )
    return tuple(out)


def profile_of(workload: Workload, sending: tuple[Span, ...]) -> Profile:
    """The profile of all devices together. Phases with a shape follow it, the others have the
    workload's rate."""
    segments: list[Segment] = []
    shape = workload.shape
    for span in sending:
        if shape is None or span[0] != shape.phase:
            segments += constant(span, workload.rate.per_s)
        else:
            segments += shape.segments(span, workload.rate.per_s)
    return Profile(gaps=workload.arrivals, segments=tuple(segments))
