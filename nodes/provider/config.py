"""Deployment configs of the baseline's processes. `nodes.config` loads them."""

from __future__ import annotations

import msgspec

from nodes.config import Address, ClientConfig, PeerConfig, ProcessConfig
from nodes.edge_config import BrokerAddress, FilePath, GatewayLimits, Hex32, Millis

__all__ = [
    "DeviceToken",
    "DeviceTokens",
    "GatewayPassword",
    "ProviderConfig",
    "ProviderDeviceConfig",
    "ProviderGatewayConfig",
]


class DeviceToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a device is handed before it enrols (a 0600 JSON file): its name, which is also its
    login at the broker, the password there, and the key that it enrols with."""

    device: Hex32
    password: str
    key: Hex32


class DeviceTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The provider's list (a 0600 JSON file): the token's key (hex) of each device, by name."""

    keys: dict[Hex32, Hex32]


class GatewayPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The password of the gateway's login at the broker (a 0600 JSON file)."""

    gateway: str


class ProviderConfig(ProcessConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`passwords` is a 0600 JSON file: DeviceTokens. `store` has the readings, `escrow` the keys of
    all devices."""

    key: FilePath
    certificate: FilePath
    clients: tuple[ClientConfig, ...]
    listen: Address
    passwords: FilePath
    store: FilePath
    escrow: FilePath


class ProviderGatewayConfig(ProcessConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`passwords` is a 0600 JSON file: GatewayPassword. `net` is the network's name in topics."""

    net: str
    key: FilePath
    certificate: FilePath
    provider: PeerConfig
    broker: BrokerAddress
    node: Hex32
    passwords: FilePath
    limits: GatewayLimits = GatewayLimits()


class ProviderDeviceConfig(ProcessConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`voucher` is a 0600 JSON file: DeviceToken. `state` keeps the key that the provider made.
    `go` appears when the run starts (`nodes.device.workload`)."""

    net: str
    state: FilePath
    voucher: FilePath
    broker: BrokerAddress
    go: FilePath
    resend_ms: Millis = 2_000
