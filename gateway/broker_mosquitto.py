"""Mosquitto as the broker: configuration file and child process, from the same `BrokerConfig`.

Its dynamic-security plugin reads (and keeps) the same security document as the embedded broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from gateway.broker import BrokerConfig, BrokerConfigError, OnReady, PortTakenError

__all__ = ["missing", "serve"]

log = logging.getLogger(__name__)

_start_deadline_s = 5.0
_stop_deadline_s = 1.5
_poll_s = 0.02
_clients_poll_s = 0.2
_clients_directory = "clients.d"
_queued_bytes_max = 64 * 1024 * 1024
_plugin = "mosquitto_dynamic_security.so"


def _program() -> str | None:
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _plugin_path() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob(f"*/{_plugin}"))), None)


def missing() -> str | None:
    """Why Mosquitto cannot be used here, with the command that mends it; None if it can."""
    if _program() and _plugin_path():
        return None
    return "mosquitto with its dynamic-security plugin is not here: apt-get install mosquitto"


async def serve(config: BrokerConfig, folder: Path, on_ready: OnReady, stop: asyncio.Event) -> None:
    """Run Mosquitto until `stop`; raises `PortTakenError` or `BrokerConfigError`."""
    if why := missing():
        raise BrokerConfigError(why)
    host, port = config.listen.host, _free_port(config.listen.host, config.listen.port)
    await asyncio.to_thread(_spread_clients, config, folder)
    settings = folder / "mosquitto.conf"
    settings.write_text(_settings(config, folder, port))
    program = _program()
    assert program is not None
    # The child ends with us, even if we are killed.
    wrapper = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    child = await asyncio.create_subprocess_exec(
        *wrapper,
        program,
        "-c",
        str(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    relay = asyncio.create_task(_relay_log(child))
    watching: asyncio.Task[None] | None = None
    try:
        await _wait_until_open(child, host, port)
        on_ready(host, port)
        watching = asyncio.create_task(_follow_clients(config, folder))
        ended = asyncio.create_task(child.wait())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if ended.done() and not stop.is_set():
            raise BrokerConfigError(f"mosquitto ended by itself with code {ended.result()}")
    finally:
        if watching is not None:
            watching.cancel()
        await _stop(child)
        relay.cancel()


def _free_port(host: str, port: int) -> int:
    """The port asked for or a free one; Mosquitto itself can only be told a number."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTakenError(f"{host}:{port}: {error}") from error
        chosen: int = probe.getsockname()[1]
        return chosen


def _settings(config: BrokerConfig, folder: Path, port: int) -> str:
    limits = config.limits
    lines = [
        f"listener {port} {config.listen.host}",
        "allow_anonymous false",
        f"plugin {_plugin_path()}",
        f"plugin_opt_config_file {folder / config.security_file}",
        "set_tcp_nodelay true",
        f"max_packet_size {limits.packet_bytes_max}",
        f"max_connections {limits.connections_max}",
        "max_inflight_messages 100",
        # For one client; beyond it Mosquitto acknowledges and drops. No memory_limit: in 2.0.11
        # the plugin's frees let its count run below zero, and then everything is refused.
        "max_queued_messages 20000",
        f"max_queued_bytes {_queued_bytes_max}",
        "persistent_client_expiration 1h",
        "persistence false",
        "log_dest stdout",
        "log_type error",
        "log_type warning",
        "log_type notice",
    ]
    if os.geteuid() == 0:
        # It would change to a user who cannot read the security file, which is 0600.
        lines.append("user root")
    if second := config.certificates:
        lines.append(f"listener {second.port} {second.host}")
        # Its CN is the user, whatever name a client gives itself.
        lines.append("use_identity_as_username true")
    if tls := config.tls:
        lines += [
            f"certfile {folder / tls.certificate}",
            f"keyfile {folder / tls.key}",
            f"capath {folder / _clients_directory}",
            "require_certificate true",
            "tls_version tlsv1.3",
        ]
    return "\n".join(lines) + "\n"


def _spread_clients(config: BrokerConfig, folder: Path) -> None:
    """The listed client certificates as a directory that OpenSSL searches at each handshake:
    Mosquitto reads a file of them only once."""
    if config.tls is None:
        return
    directory = folder / _clients_directory
    directory.mkdir(mode=0o700, exist_ok=True)
    pem = (folder / config.tls.clients).read_bytes()
    listed = x509.load_pem_x509_certificates(pem) if pem.strip() else []
    wanted = {f"{each.fingerprint(hashes.SHA256()).hex()}.pem": each for each in listed}
    for path in directory.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, each in wanted.items():
        (directory / name).write_bytes(each.public_bytes(serialization.Encoding.PEM))
    openssl = shutil.which("openssl")
    if openssl is None:
        raise BrokerConfigError("openssl is not here: apt-get install openssl")
    subprocess.run([openssl, "rehash", str(directory)], check=True, capture_output=True)


async def _follow_clients(config: BrokerConfig, folder: Path) -> None:
    """Spreads the list again whenever it changes."""
    if config.tls is None:
        return
    listed = folder / config.tls.clients
    seen_ns = listed.stat().st_mtime_ns
    while True:
        await asyncio.sleep(_clients_poll_s)
        with contextlib.suppress(OSError, ValueError, subprocess.CalledProcessError):
            changed_ns = listed.stat().st_mtime_ns
            if changed_ns != seen_ns:
                await asyncio.to_thread(_spread_clients, config, folder)
                seen_ns = changed_ns


async def _relay_log(child: asyncio.subprocess.Process) -> None:
    assert child.stdout is not None
    async for line in child.stdout:
        log.info("mosquitto: %s", line.decode(errors="replace").rstrip())


async def _wait_until_open(child: asyncio.subprocess.Process, host: str, port: int) -> None:
    async with asyncio.timeout(_start_deadline_s):
        while True:
            if child.returncode is not None:
                raise BrokerConfigError(f"mosquitto does not start, code {child.returncode}")
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
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
