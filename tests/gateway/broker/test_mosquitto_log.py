"""Mosquitto's log is passed on in the words of the embedded broker."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.mosquitto_log import MosquittoLog
from gateway.limits import LogLimit

NODE = "ab" * 32

# As Mosquitto 2.0.11 printed it.
SAID = [
    (f"dynsec: admin.{NODE}/admin.{NODE} | deleteClient | username={NODE}", "removed"),
    (f"Client {NODE} disconnected due to oversize packet.", "oversized"),
    ("Client <unknown> disconnected, not authorised.", "bad-login"),
    ("OpenSSL Error[0]: error:0A000086:SSL routines::certificate verify failed", "bad-certificate"),
    (
        "OpenSSL Error[0]: error:0A0000C7:SSL routines::peer did not return a certificate",
        "bad-certificate",
    ),
    ("Bad socket read/write on client one: Unknown error.", "retain-denied"),
    (
        "Client <unknown> disconnected due to QoS too high or retain not supported.",
        "retain-denied",
    ),
    ("Client connection from 127.0.0.1 denied access by tcpd.", "connections-full"),
    (f"New client connected from 127.0.0.1:41321 as {NODE} (p2, c1, k60, u'{NODE}').", "logins"),
]


@pytest.mark.parametrize(("line", "reason"), SAID)
def test_each_is_counted_by_its_reason(line: str, reason: str) -> None:
    heard = MosquittoLog()
    heard.take(line)
    assert heard.counts == {reason: 1}


def test_a_removal_is_an_event_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """Also during a flood of other lines: revocation is measured by these."""
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(LogLimit(1, 100, lambda: 0.0))
    heard = MosquittoLog()
    for _ in range(2_000):
        heard.take("New connection from 127.0.0.1:35758 on port 24002.")
    heard.take(SAID[0][0])
    messages = [record.getMessage() for record in caplog.records]
    assert messages[-1] == f"removed {NODE}"
    assert len(messages) == 101


@given(st.text())
def test_any_line_is_survived(line: str) -> None:
    MosquittoLog().take(line)
