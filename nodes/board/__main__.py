"""`python -m nodes.board`: run one flashed board behind a PTY until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from nodes.board.pty import BoardProcess, StartError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m nodes.board", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="a directory that was flashed")
    parser.add_argument("--link", type=Path, required=True, help="the port's name, a link to make")
    parser.add_argument(
        "--heap-kb", type=int, default=512, help="memory of the board (%(default)s)"
    )
    parser.add_argument(
        "--exit-on-stdin-eof", action="store_true", help="end when standard input does"
    )
    options = parser.parse_args()
    try:
        asyncio.run(_run(options))
    except (StartError, OSError) as error:
        print(f"board: {error}", file=sys.stderr)
        return 2
    return 0


async def _run(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if options.exit_on_stdin_eof:
        loop.add_reader(0, _end_with_input, stop)
    await BoardProcess(options.dir, options.link, heap_kb=options.heap_kb).run(stop)


def _end_with_input(stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        asyncio.get_running_loop().remove_reader(0)
        stop.set()


if __name__ == "__main__":
    sys.exit(main())
