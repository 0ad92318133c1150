"""Talks with a child process until its output ends: feeds its input, keeps bounded output.

`subprocess.communicate` keeps any amount of output; this function stops at a limit.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from contextlib import suppress
from typing import IO

__all__ = ["DeadlinePassed", "OutputTooLong", "exchange"]

_PIECE_BYTES = 64 * 1024


class DeadlinePassed(Exception):
    """The child was still talking at the deadline."""


class OutputTooLong(Exception):
    """The child printed more than the limit on one stream."""


def exchange(
    process: subprocess.Popen[bytes], given: bytes, deadline_s: float, bytes_max: int
) -> tuple[bytes, bytes]:
    """Standard output and standard error, complete. `deadline_s` is on the monotonic clock."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    kept: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    rest = memoryview(given)
    with selectors.DefaultSelector() as waiting:
        for stream in kept:
            waiting.register(stream, selectors.EVENT_READ)
        if rest:
            os.set_blocking(process.stdin.fileno(), False)
            waiting.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        while waiting.get_map():
            ready = waiting.select(max(0.0, deadline_s - time.monotonic()))
            if not ready:
                raise DeadlinePassed
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    rest = _feed(process.stdin, rest)
                    if not rest:
                        waiting.unregister(process.stdin)
                        with suppress(BrokenPipeError):
                            process.stdin.close()
                    continue
                piece = os.read(key.fd, _PIECE_BYTES)
                stream = process.stdout if key.fileobj is process.stdout else process.stderr
                kept[stream] += piece
                if len(kept[stream]) > bytes_max:
                    raise OutputTooLong
                if not piece:
                    waiting.unregister(stream)
    return bytes(kept[process.stdout]), bytes(kept[process.stderr])


def _feed(stream: IO[bytes], rest: memoryview) -> memoryview:
    """Writes the input. Stops if the reader has closed its end."""
    try:
        return rest[os.write(stream.fileno(), rest[:_PIECE_BYTES]) :]
    except BlockingIOError:
        return rest
    except BrokenPipeError:
        return rest[:0]
