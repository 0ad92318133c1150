"""The sensor of a mobile device: temperature in m°C and relative humidity in per mille of a room.

All sensors of a network are in one room, so they are redundant. Each has its own error, drawn from
its seed: a constant offset (its calibration) and noise that wanders and returns. The simulated
sensor of a board is the same (`nodes.board.firmware.sensor`); MicroPython has no `Random`.
"""

from __future__ import annotations

from random import Random

__all__ = ["ROOM", "RoomSensor"]

ROOM = (21_000, 450)
_OFFSET = (100, 5)  # at most
_STEP = (50, 3)  # of the noise, at most, from one reading to the next
_RETURN = 16  # after so many readings the noise of before is forgotten


class RoomSensor:
    """Equal seeds and names give equal readings."""

    def __init__(self, seed: int, name: str) -> None:
        self._random = Random(f"{seed}/sensor/{name}")  # noqa: S311 - repeatable, not secret
        self._centre = [
            true + self._random.randint(-most, most)
            for true, most in zip(ROOM, _OFFSET, strict=True)
        ]
        self._noise = [0.0, 0.0]

    def read(self) -> tuple[int, ...]:
        for place, step in enumerate(_STEP):
            self._noise[place] += self._random.uniform(-step, step) - self._noise[place] / _RETURN
        return tuple(
            round(centre + noise) for centre, noise in zip(self._centre, self._noise, strict=True)
        )
