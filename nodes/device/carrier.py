"""A device's carrier certificate at a broker that takes one (Mosquitto, mutual TLS).

The device sends its certificate to the gateways until one of them answers that the broker has it.
Nobody else could send it, because the device signs it itself. It also writes the files that
Mosquitto's own tools need to take part as this device: the broker's certificate, their options
(0600: the password is there, not on a command line), and `env.sh` with the names to use in topics.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from pathlib import Path

from chain.keys import digest
from gateway.bridge.edge import BODY_BYTES_MAX
from gateway.mqtt.client import BrokerUnavailableError
from gateway.tasks import set_within
from nodes.device.device import Device, Uplink
from nodes.device.login import Login
from nodes.disk import write_atomically
from nodes.edge_config import DeviceConfig
from nodes.events import EventLog
from nodes.keygen import CERTIFICATE_FILE

__all__ = ["TOOLS_DIRECTORY", "Carrier"]

TOOLS_DIRECTORY = "tools"
"""Below the state directory: $XDG_CONFIG_HOME for the tools, set by `. env.sh`."""

TOOLS = ("mosquitto_pub", "mosquitto_sub")
BROKER_CERTIFICATE = "broker.pem"
RESEND_S_MAX = 60.0
PUBLISH_S_MAX = 10.0


class Carrier:
    """`run` it beside everything else that an admitted device does."""

    def __init__(
        self, device: Device, config: DeviceConfig, uplink: Uplink, events: EventLog
    ) -> None:
        self._device = device
        self._config = config
        self._uplink = uplink
        self._events = events
        self._state = Path(config.state).absolute()

    async def run(self, login: Login) -> None:
        """Runs until cancelled; for each certificate that the device gets."""
        changed, port = self._device.carrier_changed, self._config.broker.carriers
        if port is None:
            await asyncio.Event().wait()
            return
        wait_s, tries = self._config.resend_ms / 1000, 0
        while True:
            changed.clear()
            pem = (self._state / CERTIFICATE_FILE).read_bytes()
            if digest(pem) == self._device.known_carrier:
                self._events.emit("carrier-known")
                self._write_tools(port)
                await changed.wait()
                wait_s = self._config.resend_ms / 1000
                continue
            if len(pem) > BODY_BYTES_MAX:
                self._events.emit("carrier-too-long", bytes=len(pem))
                await changed.wait()
                continue
            topic, payload = self._uplink.wrap(login.me, "carrier", pem)
            if tries:
                payload = self._uplink.again(payload, tries)
            tries += 1
            with contextlib.suppress(BrokerUnavailableError):
                await login.client.publish(topic, payload, deadline_s=PUBLISH_S_MAX)
            await set_within(changed, wait_s)
            wait_s = min(2 * wait_s, RESEND_S_MAX)

    def _write_tools(self, port: int) -> None:
        state, node = self._state, self._device.node.hex()
        write_atomically(state / BROKER_CERTIFICATE, self._config.broker.certificate.encode())
        options = {
            "-h": self._config.broker.host,
            "-p": port,
            "--cafile": state / BROKER_CERTIFICATE,
            "--cert": state / CERTIFICATE_FILE,
            "--key": state / self._device.state.key_file,
            "-i": node,
            "-u": node,
            "-P": self._device.state.password,
            "-q": 1,
        }
        # The broker is known by its pinned certificate; its address changes with the lab.
        text = "\n".join(["--insecure", *(f"{name} {value}" for name, value in options.items())])
        tools = state / TOOLS_DIRECTORY
        tools.mkdir(mode=0o700, exist_ok=True)
        for tool in TOOLS:
            write_atomically(tools / tool, f"{text}\n".encode(), mode=0o600)
        net = f"m2m/1/{self._device.genesis.network.hex()[:16]}"
        names = {"XDG_CONFIG_HOME": shlex.quote(str(tools)), "NET": net, "NODE": node}
        lines = [f"export {name}={value}" for name, value in names.items()]
        write_atomically(tools / "env.sh", ("\n".join(lines) + "\n").encode())
