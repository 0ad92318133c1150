"""Metrics of one process, for Prometheus: off unless its config has an address to listen on.

Nothing is counted just for them: when somebody asks, a separate thread reads values that the
process has anyway. Anybody who reaches the port can read them, and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from nodes.config import Address
from nodes.exits import Trouble
from nodes.usage import usage

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

__all__ = ["Metric", "one", "serving_metrics"]


class Metric(NamedTuple):
    """`values` by the text of `label`; one value under "" if there is none."""

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    values: Mapping[str, float]
    label: str = ""


def one(name: str, kind: Literal["counter", "gauge"], about: str, value: float) -> Metric:
    return Metric(name, kind, about, {"": value})


@contextlib.contextmanager
def serving_metrics(
    address: Address | None, name: str, read: Callable[[], Iterable[Metric]] = tuple
) -> Iterator[None]:
    """Answers at `http://ADDRESS/metrics` until the end. Raises Trouble: the port is taken, or this
    host has no such address."""
    if address is None:
        yield
        return
    # Here, not above: a process without metrics does not load it.
    from prometheus_client import CollectorRegistry, make_wsgi_app  # noqa: PLC0415

    from nodes.metrics_server import MetricsServer  # noqa: PLC0415

    registry = CollectorRegistry()
    registry.register(_Collector(name, read))
    try:
        server = MetricsServer(address, make_wsgi_app(registry))
    except OSError as error:
        where = f"{address.host}:{address.port}"
        fix = (
            "another lab with the same port may run here: state another one"
            if error.errno == errno.EADDRINUSE
            else "state an address of this host as `listen`"
        )
        raise Trouble(
            f"{name}: metrics at {where}: {error.strerror}; {fix} under `metrics` in the inventory"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Collector:
    """The collector that the library asks at each request."""

    def __init__(self, process: str, read: Callable[[], Iterable[Metric]]) -> None:
        self._process = process
        self._read = read

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import (  # noqa: PLC0415 - see above
            CounterMetricFamily,
            GaugeMetricFamily,
        )

        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for each in (*_of_any_process(), *self._read()):
            labels = ["process", each.label] if each.label else ["process"]
            family = families[each.kind](f"testbed_{each.name}", each.about, labels=labels)
            for text, value in each.values.items():
                family.add_metric([self._process, text][: len(labels)], value)
            yield family


def _of_any_process() -> Iterator[Metric]:
    used = usage()
    yield one("cpu_seconds", "counter", "Processor time since its start.", used["cpu_s"])
    yield one("resident_bytes", "gauge", "Memory in use.", used["rss_mb"] * 1e6)
