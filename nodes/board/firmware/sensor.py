"""Sensor drivers: `read` returns a tuple of integers. For another sensor, add a class."""


def open_sensor(config):
    """`{"kind": "simulated", "seed"}` or `{"kind": "adc", "pin"}`."""
    if config["kind"] == "adc":
        return AdcSensor(config["pin"])
    return SimulatedSensor(config["seed"])


class SimulatedSensor:
    """Temperature in m°C and relative humidity in per mille of a room, which all sensors share,
    each with its own seeded error: an offset that stays, and noise that wanders and returns. A
    mobile device's sensor works the same way (`nodes/device/sensor.py`)."""

    def __init__(self, seed):
        self._state = seed & 0x7FFFFFFF
        self._centre = (21000 + self._step(100), 450 + self._step(5))
        self._noise = [0, 0]

    def _step(self, width):
        self._state = (self._state * 1103515245 + 12345) & 0x7FFFFFFF
        return (self._state >> 8) % (2 * width + 1) - width

    def read(self):
        for place, step in enumerate((50, 3)):
            noise = self._noise[place]
            self._noise[place] += self._step(step) - (noise + 8) // 16
        return (self._centre[0] + self._noise[0], self._centre[1] + self._noise[1])


class AdcSensor:
    """One analogue pin: (0 .. 65535,)."""

    def __init__(self, pin):
        from machine import ADC, Pin

        self._adc = ADC(Pin(pin))

    def read(self):
        return (self._adc.read_u16(),)
