"""How exact the clock of this machine is, as far as its kernel knows."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

__all__ = ["Quality", "wall_clock_quality"]

_TIME_ERROR = 5  # ntp_gettime(3): the clock is not synchronised


class _NtpTime(ctypes.Structure):
    """struct ntptimeval of glibc."""

    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("error_us_max", ctypes.c_long),
        ("error_us_estimated", ctypes.c_long),
        ("tai", ctypes.c_long),
        ("reserved", ctypes.c_long * 4),
    )


@dataclass(frozen=True, slots=True)
class Quality:
    """`clock` is "ntp" if the kernel's clock is synchronised, with an error of at most
    `error_ms_max`; else "none", with an unknown error."""

    clock: Literal["ntp", "none"]
    error_ms_max: int | None


def wall_clock_quality() -> Quality:
    """Asks the kernel. Without an answer the error is unknown."""
    now = _NtpTime()
    try:
        state = ctypes.CDLL(None).ntp_gettime(ctypes.byref(now))
    except (AttributeError, OSError):
        return Quality("none", None)
    if state < 0 or state == _TIME_ERROR:
        return Quality("none", None)
    return Quality("ntp", now.error_us_max // 1000 + 1)
