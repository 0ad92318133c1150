"""The embedded broker: amqtt behind the door, for loopback and CI. It keeps nothing on disk.

amqtt is used as an external listener. The overrides below repair defects that lose or leak
messages; each names its defect. Logins survive a restart in the security file, messages in the
clients' outboxes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from amqtt.adapters import ReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker as AmqttBroker
from amqtt.contexts import Action as AmqttAction
from amqtt.contexts import BrokerConfig as AmqttConfig
from amqtt.contexts import ListenerConfig, ListenerType
from amqtt.session import Session

from chain.errors import Misuse
from gateway.broker.store import SecurityStore
from gateway.mqtt.topics import Action
from gateway.tasks import Tasks

__all__ = ["EmbeddedBroker"]

log = logging.getLogger(__name__)

_listener = "default"
_refused_qos = 0x80
# amqtt would time out idle clients in the middle of a packet. The door does it instead.
_never_s = 10**9
session_expiry_s = 3600
inflight_messages_max = 1000  # to one client, unacknowledged
waiting_messages_high = 500  # to be distributed, or for a gateway: beyond it publishers wait
offline_messages_max = 1000  # kept for one absent client
filters_max = 64  # subscriptions of one client
unsent_bytes_max = 64 * 1024


class _Snapshots(dict[str, Any]):
    """amqtt awaits while it iterates over its subscriptions: a change would end the iteration."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().keys()))

    def items(self) -> Any:
        return list(super().items())


class EmbeddedBroker(AmqttBroker):
    """`counts`: messages that a slow client did not take (`dropped`) or did not acknowledge
    (`unacknowledged`), and subscriptions refused (`subscribe-denied`)."""

    def __init__(self, store: SecurityStore) -> None:
        config = AmqttConfig(
            listeners={_listener: ListenerConfig(type=ListenerType.EXTERNAL)},
            timeout_disconnect_delay=_never_s,
            session_expiry_interval=session_expiry_s,
            plugins={},
        )
        super().__init__(config, asyncio.get_running_loop())
        self._store = store
        self._subscriptions = _Snapshots()
        self._filters: dict[str, set[str]] = {}  # by client id
        self.counts: Counter[str] = Counter()
        self._tasks = Tasks()

    def congested(self, publisher: str) -> bool:
        """Whether the broker or a gateway lags so far behind that the publisher must wait.

        Messages that are not distributed yet count as messages for the gateway: otherwise a burst
        would exceed what the gateway is sent at once. A gateway never waits for a gateway: its
        acknowledgements come after what it publishes.
        """
        coming = self._broadcast_queue.qsize()
        return coming > waiting_messages_high or (
            not self._store.is_gateway(publisher)
            and any(
                coming + session.inflight_out_count > waiting_messages_high
                for name, (session, _) in self._sessions.items()
                if self._store.is_gateway(name)
            )
        )

    async def serve(self, reader: ReaderAdapter, writer: StreamWriterAdapter) -> None:
        """Speaks MQTT until the connection ends."""
        await self.external_connected(reader, writer, _listener)

    async def publish(self, topic: str, payload: bytes) -> None:
        """Delivers to all subscribers."""
        await self.internal_message_broadcast(topic, payload)

    async def forget(self, name: str) -> None:
        """Drops the session of a client that is gone."""
        await self._delete_session(name)

    async def _authenticate(self, _session: Session, _listener: ListenerConfig) -> bool:
        return True  # the door has checked the login

    async def _topic_filtering(self, session: Session, topic: str, action: AmqttAction) -> bool:
        """It must not suspend: amqtt loses the message if a subscription changes meanwhile."""
        match action:
            case AmqttAction.PUBLISH:
                raise Misuse("only the door publishes")
            case AmqttAction.SUBSCRIBE:
                return self._store.allows(session.client_id or "", Action.SUBSCRIBE, topic)
            case AmqttAction.RECEIVE:
                takes = self._takes_more(session)
                self.counts["dropped"] += not takes
                return takes
        raise Misuse(f"amqtt has a new action: {action}")

    def _takes_more(self, session: Session) -> bool:
        """Whether the client takes more. Otherwise each message to a client that does not read
        would become a waiting task."""
        if session.inflight_out_count:
            return bool(session.inflight_out_count < inflight_messages_max)
        handler = self._get_handler(session)
        waiting_bytes: int = getattr(handler and handler.writer, "waiting_bytes", 0)
        return waiting_bytes < unsent_bytes_max

    async def add_subscription(self, subscription: tuple[str, int], session: Session) -> int:
        """At most QoS 1, and `filters_max` filters, because each message is compared with all. A
        refusal is answered with the standard's failure code."""
        topic_filter, qos = subscription
        held = self._filters.get(session.client_id or "", set())
        granted = _refused_qos
        if topic_filter in held or len(held) < filters_max:
            granted = await super().add_subscription((topic_filter, min(qos, 1)), session)
        if granted == _refused_qos:
            self.counts["subscribe-denied"] += 1
            log.warning("refused: subscribe-denied by %s %s", session.client_id, topic_filter[:80])
        else:
            self._filters.setdefault(session.client_id or "", set()).add(topic_filter)
        return granted

    def _del_subscription(self, a_filter: str, session: Session) -> int:
        """Removes a filter that nobody uses any more: amqtt keeps it."""
        deleted: int = super()._del_subscription(a_filter, session)
        if not self._subscriptions.get(a_filter, True):
            del self._subscriptions[a_filter]
        client_id = session.client_id or ""
        held = self._filters.get(client_id, set())
        held.discard(a_filter)
        if not held:
            self._filters.pop(client_id, None)
        return deleted

    async def _del_all_subscriptions(self, session: Session) -> None:
        for topic_filter in list(self._filters.get(session.client_id or "", ())):
            self._del_subscription(topic_filter, session)

    async def _retain_broadcast_message(
        self, broadcast: dict[str, Any], qos: int, target_session: Session
    ) -> None:
        """Limits the queue of an absent client, which amqtt does not."""
        if target_session.retained_messages.qsize() < offline_messages_max:
            await super()._retain_broadcast_message(broadcast, qos, target_session)
        else:
            self.counts["dropped"] += 1

    async def _run_broadcast(self, running_tasks: deque[asyncio.Task[Any]]) -> None:
        """amqtt logs a traceback for each message that a client does not acknowledge in time."""
        deliveries: deque[asyncio.Task[Any]] = deque()
        try:
            await super()._run_broadcast(deliveries)
        finally:
            running_tasks.extend(self._tasks.start(self._counted(each)) for each in deliveries)

    async def _counted(self, delivery: asyncio.Task[Any]) -> None:
        try:
            await delivery
        except Exception as error:  # whatever the client did: it harms only itself
            log.debug("not delivered: %r", error)
            self.counts["unacknowledged"] += 1
