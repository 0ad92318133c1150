"""The broker process: `python -m nodes.gateway.broker --config FILE [--exit-on-stdin-eof]`.

`--about KIND` starts nothing: it prints one JSON line with kind and version, or why it cannot run.

The file is a `gateway.broker.port.BrokerConfig`. Logs are single JSON lines on stdout. Ends within
two seconds on SIGTERM, SIGINT or (with the flag) when stdin closes. Exit codes: 0 ended as asked, 2
configuration, 3 port taken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from gateway.broker import door
from gateway.broker import mosquitto as broker_mosquitto
from gateway.broker.port import (
    BrokerConfig,
    BrokerConfigError,
    BrokerEndedError,
    BrokerKind,
    Counts,
    PortTakenError,
    read_config,
)
from gateway.broker.store import SecurityFileError
from gateway.limits import LogLimit
from nodes.config import Address
from nodes.exits import EXIT_BAD_CONFIG, Trouble, fail
from nodes.metrics import Metric, serving_metrics
from nodes.process import run, write_ready

__all__ = ["main"]

log = logging.getLogger("broker")
WARNINGS_PER_S, WARNINGS_BURST = 1.0, 500.0  # some 15 MB a day, whatever strangers do
_serve = {BrokerKind.EMBEDDED: door.serve, BrokerKind.MOSQUITTO: broker_mosquitto.serve}
_version = {
    BrokerKind.EMBEDDED: lambda: version("amqtt"),
    BrokerKind.MOSQUITTO: broker_mosquitto.version,
}


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "t_s": round(record.created, 6),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        for name in ("counts", "address", "left_out"):
            if getattr(record, name, None):
                line[name] = getattr(record, name)
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _set_up_logging() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonLines())
    handler.addFilter(LogLimit(WARNINGS_PER_S, WARNINGS_BURST, time.monotonic))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # amqtt logs each connection and each packet.
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    logging.getLogger("transitions").setLevel(logging.WARNING)


async def _broker(config: BrokerConfig, folder: Path, stopping: asyncio.Event) -> None:
    ready = folder / config.ready_file
    ready.unlink(missing_ok=True)

    metrics = contextlib.ExitStack()

    def on_ready(host: str, ports: Mapping[str, int], counts: Counts) -> None:
        listen = config.metrics
        at = None if listen is None else Address(listen.host, listen.port)
        metrics.enter_context(serving_metrics(at, config.name, lambda: _metrics(counts())))
        write_ready(str(ready), dict(ports))
        log.info("ready", extra={"address": f"{host}:{ports['mqtt']}"})

    try:
        with metrics:
            await _serve[config.kind](config, folder, on_ready, stopping)
    except PortTakenError as error:
        raise Trouble(f"port taken: {error}; choose another listen.port (0: any)") from error
    except BrokerEndedError as error:
        raise Trouble(str(error)) from error
    finally:
        ready.unlink(missing_ok=True)
    log.info("ended")


def _metrics(counts: Mapping[str, int]) -> Iterator[Metric]:
    values = {event: float(count) for event, count in counts.items()}
    about = "Logins, and what was refused, slowed down or dropped."
    yield Metric("broker_events", "counter", about, values, "event")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nodes.gateway.broker", description="MQTT broker"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, help="JSON, see gateway/README.md")
    what.add_argument("--about", type=BrokerKind, help="embedded or mosquitto: its version here")
    parser.add_argument("--exit-on-stdin-eof", action="store_true")
    args = parser.parse_args(argv)
    try:
        if args.about is not None:
            print(json.dumps({"kind": args.about, "version": _version[args.about]()}))  # noqa: T201
            return
        _set_up_logging()
        config = read_config(args.config)
        folder = args.config.resolve().parent
        run(
            lambda stopping: _broker(config, folder, stopping),
            directory=folder,
            exit_on_stdin_eof=args.exit_on_stdin_eof,
        )
    except (BrokerConfigError, SecurityFileError) as error:
        fail(EXIT_BAD_CONFIG, str(error))


if __name__ == "__main__":
    main()
