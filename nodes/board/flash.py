"""What flashing writes: the firmware's files, a config and a key. Also the two values that the
chain records of a board.

This module flashes a directory, for the interpreter behind a PTY. Flashing a real board copies the
same files. The gateway's serial modules are part of the firmware: both ends have one source.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import sys
from pathlib import Path
from typing import Any, TypedDict
from zlib import crc32

import gateway.serial.seal
from chain.errors import Misuse
from gateway.serial.seal import key_bytes, key_check_value
from gateway.serial.session import name_chars_max
from nodes.disk import write_atomically

__all__ = ["Flashed", "firmware_files", "firmware_hash", "new_key", "prepare"]

shared_modules = ("board_session", "frames", "seal", "session", "tinycbor")


class Flashed(TypedDict):
    """The two values that the chain records of a flashed board, as hexadecimal digits."""

    firmware_sha256: str
    key_check_value: str


def firmware_files() -> dict[str, bytes]:
    """Path on the board -> content, the same for every board."""
    own = Path(__file__).parent / "firmware"
    shared = Path(gateway.serial.seal.__file__).parent
    files = {path.name: path.read_bytes() for path in sorted(own.glob("*.py"))}
    for name in shared_modules:
        files[f"gateway/serial/{name}.py"] = (shared / f"{name}.py").read_bytes()
    return files


def firmware_hash() -> str:
    """SHA-256 over one line per file, `sha256 path`, sorted: the format of `sha256sum`."""
    lines = [
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in sorted(firmware_files().items())
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def new_key() -> bytes:
    """32 random bytes, made where the board is plugged in."""
    return secrets.token_bytes(key_bytes)


def prepare(
    directory: Path,
    board_id: str,
    key: bytes,
    *,
    key_version: int = 1,
    period_ms: int = 1_000,
    seed: int | None = None,
    journal: bool = True,
    repl_window_ms: int = 0,
) -> Flashed:
    """Write firmware, config and key to `directory`, as flashing writes them to a board.

    The boot counter and held readings of an earlier flashing stay. `seed` is the simulated
    sensor's; without one each board id has its own. `repl_window_ms`: how long after power-on Ctrl-C still reaches the REPL.
    """
    if len(key) != key_bytes:
        raise Misuse(f"a board key has {key_bytes} bytes, not {len(key)}")
    if not 0 < len(board_id) <= name_chars_max or not board_id.isascii():
        raise Misuse(f"board id {board_id!r}: 1 to {name_chars_max} ASCII characters")
    if period_ms < 1:
        raise Misuse(f"period of {period_ms} ms: at least 1")
    firmware_sha256 = firmware_hash()
    config: dict[str, Any] = {
        "board_id": board_id,
        "key_version": key_version,
        "firmware": firmware_sha256,
        "period_ms": period_ms,
        "sensor": {"kind": "simulated", "seed": crc32(board_id.encode()) if seed is None else seed},
        "line": {"kind": "stdio"},
        "journal": journal,
        "repl_window_ms": repl_window_ms,
    }
    (directory / "gateway/serial").mkdir(parents=True, exist_ok=True)
    for name, content in firmware_files().items():
        (directory / name).write_bytes(content)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_atomically(directory / "key.bin", key, mode=0o600)
    return Flashed(firmware_sha256=firmware_sha256, key_check_value=key_check_value(key).hex())


def main() -> int:
    """`python -m nodes.board.flash --dir DIR --id NAME --key FILE`: makes the key on this machine,
    which the sponsor owns, unless FILE exists. Prints what the chain records, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m nodes.board.flash", description=main.__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="the board's file tree")
    parser.add_argument("--id", required=True, help="the board's name on its line")
    parser.add_argument("--key", type=Path, required=True, help="the host's copy of the key (0600)")
    parser.add_argument("--key-version", type=int, default=1)
    parser.add_argument("--period-ms", type=int, default=1_000)
    parser.add_argument("--seed", type=int, help="of the simulated sensor (by default, of the id)")
    parser.add_argument("--repl-window-ms", type=int, default=0, help="for flashing it again")
    options = parser.parse_args()
    try:
        if not options.key.exists():
            options.key.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(options.key, new_key(), mode=0o600)
        flashed = prepare(
            options.dir,
            options.id,
            options.key.read_bytes(),
            key_version=options.key_version,
            period_ms=options.period_ms,
            seed=options.seed,
            repl_window_ms=options.repl_window_ms,
        )
    except (Misuse, OSError) as error:
        print(f"flash: {error}", file=sys.stderr)
        return 2
    print(json.dumps(flashed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
