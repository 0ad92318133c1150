"""The broker process: `python -m nodes.broker --config FILE [--exit-on-stdin-eof]`.

The file is a `gateway.broker.BrokerConfig`. Logs are single JSON lines on stdout. Ends within two
seconds on SIGTERM, SIGINT or (with the flag) when stdin closes. Exit codes: 0 ended as told,
2 configuration, 3 port taken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import uvloop

from gateway import broker_embedded, broker_mosquitto
from gateway.broker import BrokerConfig, BrokerConfigError, Kind, PortTakenError, read_config
from gateway.broker_security import SecurityFileError

__all__ = ["main"]

log = logging.getLogger("broker")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "t_s": round(record.created, 6),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        for name in ("counts", "address"):
            if hasattr(record, name):
                line[name] = getattr(record, name)
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _set_up_logging() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # amqtt tells of each connection and of each packet.
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    logging.getLogger("transitions").setLevel(logging.WARNING)


def _write_ready(path: Path, host: str, port: int) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps({"host": host, "port": port, "pid": os.getpid()}))
    fresh.replace(path)


async def _run(config: BrokerConfig, folder: Path, exit_on_stdin_eof: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if exit_on_stdin_eof:
        _watch_stdin(stop)
    ready = folder / config.ready_file
    ready.unlink(missing_ok=True)

    def on_ready(host: str, port: int) -> None:
        _write_ready(ready, host, port)
        log.info("ready", extra={"address": f"{host}:{port}"})

    serve = {Kind.EMBEDDED: broker_embedded.serve, Kind.MOSQUITTO: broker_mosquitto.serve}
    try:
        await serve[config.kind](config, folder, on_ready, stop)
    finally:
        ready.unlink(missing_ok=True)


def _watch_stdin(stop: asyncio.Event) -> None:
    def on_readable() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            stop.set()

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), on_readable)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nodes.broker", description="MQTT broker")
    parser.add_argument("--config", type=Path, required=True, help="JSON, see gateway/README.md")
    parser.add_argument("--exit-on-stdin-eof", action="store_true")
    args = parser.parse_args(argv)
    _set_up_logging()
    started_s = time.monotonic()
    try:
        config = read_config(args.config)
        folder = args.config.resolve().parent
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(config, folder, args.exit_on_stdin_eof))
    except (BrokerConfigError, SecurityFileError) as error:
        log.error("%s", error)
        return 2
    except PortTakenError as error:
        log.error("port taken: %s; choose another listen.port (0: any free one)", error)
        return 3
    log.info("ended after %.1f s", time.monotonic() - started_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
