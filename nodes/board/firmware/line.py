"""Lines that a board can talk on. For another kind, add a class here and a kind in `config`."""

import select
import sys
import time

read_bytes_max = 256
ctrl_c = 3
burst_gap_ms = 20
burst_bytes_max = 6


def is_typed(burst):
    """Whether these bytes are a Ctrl-C that somebody typed, and not part of a frame."""
    return ctrl_c in burst and all(byte in b"\r\n\x03" for byte in burst)


def open_line(config):
    """`{"kind": "stdio"}` (USB serial, or a PTY) or `{"kind": "uart", "id", "baud", "tx", "rx"}`."""
    if config["kind"] == "uart":
        return UartLine(config)
    return StdioLine()


class StdioLine:
    """Standard input and output: the USB port of a real board, or the PTY."""

    def __init__(self):
        self._in = sys.stdin.buffer
        self._out = sys.stdout.buffer
        self._poll = select.poll()
        self._poll.register(sys.stdin, select.POLLIN)

    def wait_for_interrupt(self, window_ms):
        """Raises KeyboardInterrupt if somebody types Ctrl-C.

        A host that waits for this board sends frames meanwhile, and frames contain the byte 0x03
        too. So only a burst of nothing but Ctrl-C and Return counts, as a person, mpremote and our
        flashing send it.
        """
        import micropython

        end_ms = time.ticks_add(time.ticks_ms(), window_ms)
        burst = b""
        while (left_ms := time.ticks_diff(end_ms, time.ticks_ms())) > 0:
            if not self._poll.poll(min(left_ms, burst_gap_ms) if burst else left_ms):
                if is_typed(burst):
                    micropython.kbd_intr(3)
                    raise KeyboardInterrupt
                burst = b""
                continue
            byte = self._in.read(1)
            if not byte:
                raise EOFError
            burst = (burst + byte)[:burst_bytes_max]
            if len(burst) == burst_bytes_max and is_typed(burst):
                micropython.kbd_intr(3)
                raise KeyboardInterrupt

    def take_control_characters(self):
        """Makes Ctrl-C an ordinary byte from now on."""
        import micropython

        micropython.kbd_intr(-1)

    def read(self, wait_ms):
        """The bytes that arrive within `wait_ms`; b"" if none do."""
        data = bytearray()
        while len(data) < read_bytes_max and self._poll.poll(0 if data else wait_ms):
            # `read(n)` waits for all n bytes, so take one at a time.
            byte = self._in.read(1)
            if not byte:
                raise EOFError
            data.extend(byte)
        return bytes(data)

    def write(self, data):
        self._out.write(data)


class UartLine:
    """A hardware UART on pins, for boards whose USB port is only a console."""

    def __init__(self, config):
        from machine import UART, Pin

        self._uart = UART(
            config["id"],
            baudrate=config["baud"],
            tx=Pin(config["tx"]),
            rx=Pin(config["rx"]),
            rxbuf=1024,
        )
        self._poll = select.poll()
        self._poll.register(self._uart, select.POLLIN)

    def wait_for_interrupt(self, window_ms):
        time.sleep_ms(window_ms)  # the console is another port

    def take_control_characters(self):
        pass

    def read(self, wait_ms):
        if not self._poll.poll(wait_ms):
            return b""
        return self._uart.read(read_bytes_max) or b""

    def write(self, data):
        self._uart.write(data)
