"""Sensor drivers: `read` returns a tuple of integers. For another sensor, add a class."""


def open_sensor(config):
    """`{"kind": "simulated", "seed"}` or `{"kind": "adc", "pin"}`."""
    if config["kind"] == "adc":
        return AdcSensor(config["pin"])
    return SimulatedSensor(config["seed"])


class SimulatedSensor:
    """Temperature in m°C and relative humidity in per mille of a room: a seeded random walk."""

    def __init__(self, seed):
        self._state = seed & 0x7FFFFFFF
        self._temperature = 21000
        self._humidity = 450

    def _step(self, width):
        self._state = (self._state * 1103515245 + 12345) & 0x7FFFFFFF
        return (self._state >> 8) % (2 * width + 1) - width

    def read(self):
        self._temperature = max(-40000, min(85000, self._temperature + self._step(50)))
        self._humidity = max(0, min(1000, self._humidity + self._step(3)))
        return (self._temperature, self._humidity)


class AdcSensor:
    """One analogue pin: (0 .. 65535,)."""

    def __init__(self, pin):
        from machine import ADC, Pin

        self._adc = ADC(Pin(pin))

    def read(self):
        return (self._adc.read_u16(),)
