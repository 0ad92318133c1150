"""Deployment configs of gateways and devices. `config` loads them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from gateway.limits import RateLimiter
from gateway.mqtt.link import MqttSettings, Presence
from nodes.config import ChainConfig, ConfigError, Name, PeerConfig, Port, load_json

__all__ = [
    "BoardConfig",
    "BrokerAddress",
    "DeviceConfig",
    "EnvironmentConfig",
    "GatewayConfig",
    "GatewayLimits",
    "GatewaySecrets",
    "MobileConfig",
    "load_secrets",
]

T = TypeVar("T", bound=msgspec.Struct)
FilePath = str
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Privilege = Annotated[int, msgspec.Meta(ge=0, le=255)]
Millis = Annotated[int, msgspec.Meta(ge=1, le=3_600_000)]


class BrokerAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`certificate` is the broker's own (PEM): with it every connection is TLS. `carriers` is
    the port where it wants a carrier certificate too."""

    host: str
    port: Port
    certificate: str = ""
    carriers: Port | None = None

    def login(
        self,
        user: str,
        password: str | None,
        subscriptions: tuple[str, ...],
        presence: Presence | None = None,
    ) -> MqttSettings:
        """How `user` logs in here."""
        return MqttSettings(
            self.host, self.port, user, password, subscriptions, presence, self.certificate
        )


class GatewayLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Token buckets before signature checks: per device, per relay, for ledger copies, in total.
    Queues behind them. `events_burst`: how many refusals are logged at once, before one a second.
    """

    rate_per_s: Annotated[float, msgspec.Meta(gt=0)] = 50.0
    burst: Annotated[int, msgspec.Meta(ge=1)] = 200
    relay_rate_per_s: Annotated[float, msgspec.Meta(gt=0)] = 1_000.0
    relay_burst: Annotated[int, msgspec.Meta(ge=1)] = 2_000
    sync_rate_per_s: Annotated[float, msgspec.Meta(gt=0)] = 8.0
    sync_burst: Annotated[int, msgspec.Meta(ge=1)] = 32
    total_rate_per_s: Annotated[float, msgspec.Meta(gt=0)] = 2_000.0
    total_burst: Annotated[int, msgspec.Meta(ge=1)] = 4_000
    events_burst: Annotated[int, msgspec.Meta(ge=1)] = 1_000
    sources_max: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    waiting_max: Annotated[int, msgspec.Meta(ge=1)] = 4_096
    device_waiting_max: Annotated[int, msgspec.Meta(ge=1)] = 64
    relay_waiting_max: Annotated[int, msgspec.Meta(ge=1)] = 2_048

    def relays(self) -> RateLimiter:
        return self.limiter(self.relay_rate_per_s, self.relay_burst)

    def devices(self) -> RateLimiter:
        return self.limiter(self.rate_per_s, self.burst)

    def limiter(self, rate_per_s: float, burst: int) -> RateLimiter:
        """One for each kind of source; all have the limit on the total."""
        return RateLimiter(
            rate_per_s=rate_per_s,
            burst=burst,
            total_rate_per_s=self.total_rate_per_s,
            total_burst=self.total_burst,
            sources_max=self.sources_max,
            clock=time.monotonic,
        )


class GatewaySecrets(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The passwords of the gateway's two logins. `devices` (hex) is the secret from which devices'
    passwords are derived; all gateways of a network share it."""

    gateway: str
    admin: str
    devices: Hex32

    @property
    def login_secret(self) -> bytes:
        return bytes.fromhex(self.devices)


class GatewayConfig(ChainConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`passwords` is a 0600 JSON file: GatewaySecrets."""

    schema: Literal["testbed.gateway/1"] = "testbed.gateway/1"
    key: FilePath
    certificate: FilePath
    replicas: tuple[PeerConfig, ...]
    broker: BrokerAddress
    node: Hex32
    passwords: FilePath
    copy: FilePath
    outbox: FilePath
    submit_timeout_ms: Millis = 1_000
    limits: GatewayLimits = GatewayLimits()


class DeviceConfig(ChainConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A device with its own key. `state` is its directory: key, counters, outbox, ledger copy.

    `voucher` is a private key (PEM, 0600): the enrolment token, or the factory key if
    `factory_chain` names its certificates (PEM). `go` is a file that appears when the run starts;
    it says when to enrol and to send (`nodes.device.workload`). With `session` the device opens a
    session with the service before its work and closes it afterwards. `copy_of`: how much of the
    ledger it keeps.
    """

    state: FilePath
    voucher: FilePath
    broker: BrokerAddress
    go: FilePath
    factory_chain: FilePath | None = None
    service: Text = "telemetry"
    privilege: Privilege = 1
    validity_s: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = 604_800
    resend_ms: Millis = 2_000
    session: bool = True
    copy_of: Literal["ledger", "heads"] = "ledger"


class BoardConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sensor board on this machine. `key` is its 32-byte key file (0600), `flashed` the JSON
    that flashing printed. `log` records the text it prints and the frames on its line."""

    name: Name
    port: FilePath
    key: FilePath
    flashed: FilePath
    key_version: int = 1
    baud: int = 115_200
    reset_on_open: bool = False
    log: FilePath | None = None


class MobileConfig(DeviceConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mobile device."""

    schema: Literal["testbed.mobile/1"] = "testbed.mobile/1"


class EnvironmentConfig(DeviceConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A device that also relays others' messages and sponsors sensor boards."""

    schema: Literal["testbed.environment/1"] = "testbed.environment/1"
    boards: tuple[BoardConfig, ...] = ()


def load_secrets(path: Path, kind: type[T]) -> T:
    """A 0600 JSON file. Raises ConfigError; never shows what is in the file."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others may read these secrets; chmod 600 it")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return load_json(path, kind)
