"""`python -m nodes.board`: runs one flashed board behind a PTY until it is stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from nodes.board.pty import BoardProcess, StartError
from nodes.exits import EXIT_BAD_CONFIG, fail
from nodes.process import run


def main() -> None:
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
    board = BoardProcess(options.dir, options.link, heap_kb=options.heap_kb)
    try:
        run(board.run, directory=options.dir, exit_on_stdin_eof=options.exit_on_stdin_eof)
    except (StartError, OSError) as error:
        fail(EXIT_BAD_CONFIG, f"board: {error}")


if __name__ == "__main__":
    main()
