"""Mosquitto as the broker: its configuration file and its process, from the same `BrokerConfig`.

Its dynamic-security plugin reads and writes the same security document as the embedded broker.
`carriers` writes the carrier certificates of the document into a directory for OpenSSL.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import resource
import shutil
import socket
import subprocess
import time
from pathlib import Path

from gateway.broker.carriers import spread
from gateway.broker.mosquitto_log import MosquittoLog
from gateway.broker.plugin_document import PluginDocument
from gateway.broker.port import (
    BrokerConfig,
    BrokerConfigError,
    BrokerEndedError,
    Listen,
    OnReady,
    PortTakenError,
    report,
)
from gateway.broker.store import SecurityFileError, SecurityStore
from gateway.broker.strangers import Strangers, shut_down
from gateway.limits import TokenBucket
from gateway.tasks import Tasks, first_of

__all__ = ["missing", "serve", "version"]

log = logging.getLogger(__name__)

start_deadline_s = 30.0  # a host that was just switched on is busy
_stop_deadline_s = 1.5
_poll_s = 0.02
_port_wait_s = 1.0  # a process that was just killed may still hold the port
_document_poll_s = 0.1
_strangers_poll_s = 0.1
_carriers_directory = "carriers"
# A restart disconnects everybody for a moment. A device could cause one with each renewal.
_restarts_burst = 3
_restart_period_s = 600.0
_line_bytes_max = 64 * 1024
_spare_files = 32  # files that Mosquitto has open beside its connections
_plugin = "mosquitto_dynamic_security.so"
# For one client: beyond it, Mosquitto acknowledges a message and drops it. memory_limit is not set:
# in 2.0.11 the plugin lets that count fall below zero, and then Mosquitto refuses everything.
_queued_messages_max = 20_000
_queued_bytes_max = 64 * 1024 * 1024
_inflight_messages_max = 100


def _program() -> str | None:
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _plugin_path() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob(f"*/{_plugin}"))), None)


def missing() -> str | None:
    """Why Mosquitto cannot be used here, and the command that helps. None if it can."""
    if _program() and _plugin_path():
        return None
    return "mosquitto with its dynamic-security plugin is not here: sudo apt-get install mosquitto"


def version() -> str:
    """Mosquitto's version, such as "2.0.11". Raises BrokerConfigError if it is missing."""
    if why := missing():
        raise BrokerConfigError(why)
    printed = subprocess.run([str(_program()), "-h"], capture_output=True, text=True, check=False)
    found = re.search(r"mosquitto version (\S+)", printed.stdout)
    return found[1] if found else "unknown"


async def serve(config: BrokerConfig, folder: Path, on_ready: OnReady, stop: asyncio.Event) -> None:
    """Runs Mosquitto until `stop`. Raises PortTakenError, BrokerConfigError, SecurityFileError or
    BrokerEndedError."""
    log.info("mosquitto %s", version())
    document = PluginDocument(folder / config.security_file)
    try:
        await _serve(config, folder, document, on_ready, stop)
    finally:
        # On a full disk it stays in memory, for the next start.
        with contextlib.suppress(OSError, SecurityFileError):
            document.close()


async def _serve(
    config: BrokerConfig,
    folder: Path,
    document: PluginDocument,
    on_ready: OnReady,
    stop: asyncio.Event,
) -> None:
    _lay_out_carriers(document.path, folder)
    listeners = {"mqtt": config.listen}
    if config.carriers is not None:
        listeners["carriers"] = config.carriers
    ports = {name: await _port_of(listen) for name, listen in listeners.items()}
    settings = folder / "mosquitto.conf"
    settings.write_text(_settings(config, folder, document.path, ports))
    heard = MosquittoLog()
    strangers = Strangers(config.limits, time.monotonic)
    restarts = TokenBucket(1 / _restart_period_s, _restarts_burst, time.monotonic())
    is_up = False
    async with Tasks() as reporting:
        while not stop.is_set():
            child = await _start(settings, config.limits.connections_max * len(listeners))
            async with Tasks() as listening:
                listening.start(_listen_to(child, heard, strangers))
                listening.start(_end_strangers(child, heard, strangers))
                try:
                    for name, listen in listeners.items():
                        await _wait_until_open(child, listen.host, ports[name], stop)
                    if not is_up and not stop.is_set():
                        is_up = True
                        on_ready(config.listen.host, ports, lambda: dict(heard.counts))
                        reporting.start(report(lambda: dict(heard.counts)))
                    await _run_until_stale(child, document, folder, restarts, stop)
                finally:
                    await _stop(child)


async def _run_until_stale(
    child: asyncio.subprocess.Process,
    document: PluginDocument,
    folder: Path,
    restarts: TokenBucket,
    stop: asyncio.Event,
) -> None:
    """Until `stop`, or until Mosquitto must forget a certificate that is no longer listed and that
    it may have used. Restarts are limited. Until the restart, the device is refused at CONNECT,
    because its login is gone."""
    await first_of(child.wait(), stop.wait(), _follow_carriers(document, folder, restarts))
    if stop.is_set():
        return
    if child.returncode is not None:
        raise BrokerEndedError(f"mosquitto ended by itself with code {child.returncode}")
    log.info("mosquitto starts again: a carrier certificate was removed")


async def _start(settings: Path, connections_max: int) -> asyncio.subprocess.Process:
    os.umask(0o077)  # inherited: the plugin rewrites the document at each change
    # Also inherited. max_connections alone does not work in 2.0.11: Mosquitto subtracts a client
    # that leaves before CONNECT twice.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = connections_max + _spare_files
    if hard == resource.RLIM_INFINITY or files <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    # The child ends with this process, even if this process is killed.
    wrapper = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    return await asyncio.create_subprocess_exec(
        *wrapper,
        str(_program()),
        "-c",
        str(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_line_bytes_max,
    )


async def _port_of(listen: Listen) -> int:
    """The port asked for, or a free one: Mosquitto needs a number."""
    deadline_s = time.monotonic() + _port_wait_s
    while True:
        try:
            return _free_port(listen.host, listen.port)
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise PortTakenError(f"{listen.host}:{listen.port}: {error}") from error
        await asyncio.sleep(_poll_s)


def _free_port(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        chosen: int = probe.getsockname()[1]
        return chosen


def _settings(config: BrokerConfig, folder: Path, document: Path, ports: dict[str, int]) -> str:
    limits, tls = config.limits, config.tls
    own_tls = (
        []
        if tls is None
        else [
            f"certfile {folder / tls.certificate}",
            f"keyfile {folder / tls.key}",
            "tls_version tlsv1.3",
        ]
    )
    lines = [
        f"listener {ports['mqtt']} {config.listen.host}",
        f"max_connections {limits.connections_max}",
        "allow_anonymous false",
        f"plugin {_plugin_path()}",
        f"plugin_opt_config_file {document}",
        "set_tcp_nodelay true",
        f"max_packet_size {limits.packet_bytes_max}",
        f"message_size_limit {limits.packet_bytes_max}",
        f"max_inflight_messages {_inflight_messages_max}",
        f"max_queued_messages {_queued_messages_max}",
        f"max_queued_bytes {_queued_bytes_max}",
        "persistent_client_expiration 1h",
        "persistence false",
        "retain_available false",  # otherwise a client may leave messages that outlive its login
        "log_dest stderr",  # Mosquitto buffers its lines to stdout
        "log_timestamp false",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",
    ]
    if os.geteuid() == 0:
        # Otherwise it changes to a user who cannot read the security file (0600).
        lines.append("user root")
    lines += own_tls
    if config.carriers is not None:
        # Not use_identity_as_username: then the plugin checks no password, so nobody would be
        # refused at CONNECT, and clients could take over client ids.
        lines += [
            f"listener {ports['carriers']} {config.carriers.host}",
            f"max_connections {limits.connections_max}",
            *own_tls,
            f"capath {folder / _carriers_directory}",
            "require_certificate true",
        ]
    return "\n".join(lines) + "\n"


def _lay_out_carriers(document: Path, folder: Path) -> bool:
    """Makes the directory agree with the document. Returns whether a certificate was removed."""
    removed, bad = spread(SecurityStore.load(document).carriers(), folder / _carriers_directory)
    for name in bad:
        log.warning("no carrier certificate: %s", name)
    return removed


async def _follow_carriers(document: PluginDocument, folder: Path, restarts: TokenBucket) -> None:
    """Keeps the document, and updates the directory, whenever the plugin has written it. Returns
    when a certificate was removed and a restart is allowed."""
    laid_out, stale = True, False
    while not (stale and restarts.take(time.monotonic())):
        await asyncio.sleep(_document_poll_s)
        with contextlib.suppress(OSError, SecurityFileError):  # tried again in a moment
            if await asyncio.to_thread(document.keep) or not laid_out:
                laid_out = False
                stale |= await asyncio.to_thread(_lay_out_carriers, document.path, folder)
                laid_out = True


async def _end_strangers(
    child: asyncio.subprocess.Process, heard: MosquittoLog, strangers: Strangers
) -> None:
    """Runs until cancelled."""
    warned = False
    while True:
        await asyncio.sleep(_strangers_poll_s)
        if not (peers := strangers.due()):
            continue
        try:
            ended = await asyncio.to_thread(shut_down, child.pid, peers)
            heard.counts["connect-timeout"] += ended
        except OSError as error:  # Linux before 5.6, or forbidden in this container
            if not warned and child.returncode is None:
                log.warning("connections that do not log in cannot be ended: %s", error)
                warned = True


async def _listen_to(
    child: asyncio.subprocess.Process, heard: MosquittoLog, strangers: Strangers
) -> None:
    assert child.stdout is not None
    while True:
        try:
            line = await child.stdout.readline()
        except ValueError:  # a line that is too long
            continue
        if not line:
            return
        text = line.decode(errors="replace").rstrip()
        strangers.take(text)
        heard.take(text)


async def _wait_until_open(
    child: asyncio.subprocess.Process, host: str, port: int, stop: asyncio.Event
) -> None:
    deadline_s = time.monotonic() + start_deadline_s
    while not stop.is_set():
        if child.returncode is not None:
            raise BrokerConfigError(f"mosquitto does not start, code {child.returncode}")
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            if time.monotonic() > deadline_s:
                problem = f"mosquitto does not listen after {start_deadline_s:g} s"
                raise BrokerEndedError(f"{problem}: {error}") from error
            await asyncio.sleep(_poll_s)
            continue
        writer.close()
        return


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
        try:
            async with asyncio.timeout(_stop_deadline_s):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
