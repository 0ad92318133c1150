"""The pytest plugin: a fixture `testbed`, one running lab for the whole session.

    def test_a_revoked_phone_is_out(testbed):
        testbed.revoke("phones-1")
        assert testbed.devices["phones-1"].state == "revoked"

`pytest --testbed-inventory my-lab.yaml` runs the same tests on a lab; without it they run on this
machine. Under pytest-xdist each worker has a lab of its own on this machine.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testbed.api import RunningTestbed

__all__ = ["pytest_addoption", "testbed"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testbed", "a running lab (fixture testbed)")
    group.addoption(
        "--testbed-inventory",
        metavar="FILE",
        default=None,
        help="Inventory of the lab that the fixture `testbed` brings up. Without: this machine.",
    )
    group.addoption(
        "--testbed-period",
        metavar="DURATION",
        type=_period,
        default="1s",
        help="How often each device of the fixture `testbed` sends a reading.",
    )


def _period(text: str) -> str:
    """The duration as it is. Raises ArgumentTypeError, so that pytest names the option."""
    from inventory.duration import duration_ms  # noqa: PLC0415 - most sessions need none

    try:
        duration_ms(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
    return text


@pytest.fixture(scope="session")
def testbed(request: pytest.FixtureRequest) -> Iterator[RunningTestbed]:
    """A lab that runs, with all devices admitted: a `testbed.api.RunningTestbed`."""
    from inventory.load import InvalidFile  # noqa: PLC0415 - most sessions need none
    from testbed.api import running_testbed  # noqa: PLC0415 - see above
    from testbed.errors import TestbedError  # noqa: PLC0415 - see above

    inventory = request.config.getoption("--testbed-inventory")
    if inventory is not None and os.environ.get("PYTEST_XDIST_WORKER"):
        pytest.fail("--testbed-inventory: there is one such lab; run pytest with -n 0")
    period = request.config.getoption("--testbed-period")
    with ExitStack() as stack:
        try:
            bench = stack.enter_context(running_testbed(inventory, period=period))
        except (InvalidFile, TestbedError) as error:
            pytest.fail(str(error), pytrace=False)  # its message says what to do
        yield bench
