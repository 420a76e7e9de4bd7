"""The stream: connecting, creating it, checking its settings, publishing with an acknowledgement. No other file talks to NATS.

    <stream>.frames        group commits of all nodes (`frames.py`)
    <stream>.checkpoints   messages about the tree; in the same stream, so that every node reads them at the same place

Messages are kept for ever: file storage, replicated, no limit of age or size, deletion and purge denied. The stream's metadata
say which log it holds. What the driver raises becomes `LogUnavailable` here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple, cast

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tracker.config.jetstream import JetstreamConfig
from tracker.errors import LogMissing, LogUnavailable
from tracker.log.jetstream.connection import Connection, AsyncErrors, connect, without_credentials

FORMAT = "1"
REQUEST_SECONDS = 5.0
CLOSING_SECONDS = 1.0
PLACING_SECONDS = 10.0
CONSUMER_SECONDS = 2.0
DUPLICATE_WINDOW_SECONDS = 120
HEADER_BYTES = 256
"""Upper bound of the size of a message's headers."""
NO_STREAM, NO_MESSAGE, WRONG_LAST, NO_PEERS = 10059, 10037, 10071, 10005
NO_JETSTREAM = 10039
PERMISSION = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"")
CONSUMER_NAME = re.compile(r"\.tracker-[0-9a-f]{16}$")
"""A consumer's own name in a subject."""

_log = structlog.get_logger("stream")


class StreamState(NamedTuple):
    """The stream as its leader reports it: settings, first and last message, the names of its servers."""

    config: dict[str, Any]
    first: int
    last: int
    servers: tuple[str, ...]

    @property
    def log_id(self) -> str:
        """Which log it holds; "" where it is not a log of Tracker."""
        return self._metadata.get("tracker_log_id", "")

    @property
    def format(self) -> str:
        """The format of its messages; this Tracker writes and reads `FORMAT`."""
        return self._metadata.get("tracker_format", "")

    @property
    def _metadata(self) -> dict[str, str]:
        return self.config.get("metadata") or {}


class _Peer(msgspec.Struct):
    name: str


class _Cluster(msgspec.Struct):
    leader: str = ""
    replicas: tuple[_Peer, ...] | None = None


class _Sequences(msgspec.Struct):
    first_seq: int
    last_seq: int


class _StreamInfo(msgspec.Struct):
    """The part of a STREAM.INFO response that is needed."""

    config: dict[str, Any]
    state: _Sequences
    cluster: _Cluster | None = None


class PublishRefused(LogUnavailable):
    """JetStream answered with an error; `code` is its error code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.args = (message, code)  # with which it can be made again (`group_commit`)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class Inbox(NamedTuple):
    """Messages sent to `<address>.<anything>` arrive in the queue."""

    address: str
    arrived: asyncio.Queue[Msg]
    subscription: Subscription

    async def close(self) -> None:
        """Stop receiving."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.subscription.unsubscribe()


@contextlib.contextmanager
def translated_errors(what: str) -> Generator[None]:
    """Raise `LogUnavailable` for any error of the NATS driver in the block. `what` is the beginning of the message."""
    try:
        yield
    except TimeoutError as error:
        raise LogUnavailable(f"{what}: no answer in time") from error
    except nats.errors.NoRespondersError as error:
        raise LogUnavailable(
            f"{what}: no server answers: check that the stream has a leader and that these servers have JetStream enabled"
        ) from error
    except (nats.errors.Error, OSError, ValueError) as error:
        raise LogUnavailable(f"{what}: {str(error) or type(error).__name__}") from error


class Stream:
    """A connection to one stream. It reconnects in the background, for ever. Made by `open`."""

    def __init__(self, client: Client, config: JetstreamConfig) -> None:
        self._client = client
        self._broken = asyncio.Event()
        self._pending: dict[str, asyncio.Event] = {}
        """By the subject of a pending request: set when the servers deny publishing to it."""
        self._denied_subscription = ""
        self._may_pull = True
        self.config = config
        self.name = config.stream

    @classmethod
    async def open(cls, config: JetstreamConfig) -> Stream:
        """Connect. Raises `LogUnavailable` where no server can be reached, or they reject this node."""
        client = Connection()
        stream = cls(client, config)
        errors = AsyncErrors(config, stream._denied)

        async def disconnected() -> None:
            stream._broken.set()
            stream._broken = asyncio.Event()

        async def reconnected() -> None:
            errors.connected()
            _log.info("reconnected", server=client.connected_url.netloc if client.connected_url else "")

        with translated_errors(f"NATS at {', '.join(map(without_credentials, config.servers))} cannot be reached"):
            await connect(client, config, errors, disconnected_cb=disconnected, reconnected_cb=reconnected)
        return stream

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._client.is_connected

    @property
    def max_message_bytes(self) -> int:
        """Maximum size of a message's body."""
        return self._client.max_payload - HEADER_BYTES

    async def broken(self) -> None:
        """Return when the connection breaks. Messages on their way here are lost then, and are not sent again."""
        await self._broken.wait()

    async def state(self, *, timeout: float = REQUEST_SECONDS) -> StreamState:
        """The stream's state now, from its leader. Raises `LogMissing` where there is no such stream, `LogUnavailable`."""
        try:
            found = await self.api_request(f"STREAM.INFO.{self.name}", {}, timeout)
        except PublishRefused as error:
            if error.code == NO_STREAM:
                raise LogMissing(
                    f"there is no stream {self.name!r}: check jetstream.stream, or make it with `tracker init`"
                ) from None
            raise
        info = msgspec.convert(found, _StreamInfo)
        cluster = info.cluster or _Cluster()
        servers = (cluster.leader, *(each.name for each in cluster.replicas or ()))
        return StreamState(info.config, info.state.first_seq, info.state.last_seq, tuple(filter(None, servers)))

    async def create(self, log_id: str) -> StreamState:
        """Create the stream. Raises `LogUnavailable` on failure, also when there is one of that name."""
        await self.create_placed(self.name, wanted_config(self.config, log_id))
        return await self.state()

    async def create_placed(self, name: str, config: dict[str, Any]) -> None:
        """Create a stream of any name, and wait for servers to hold it. Raises `LogUnavailable`."""
        clock = asyncio.get_running_loop().time
        until = clock() + PLACING_SECONDS
        while True:
            try:
                await self.api_request(f"STREAM.CREATE.{name}", config, 2 * REQUEST_SECONDS)
            except PublishRefused as error:
                if error.code != NO_PEERS or clock() > until:
                    raise
            else:
                return
            # Servers that have just found each other take one another for offline.
            await asyncio.sleep(0.5)

    async def message(self, sequence: int, *, timeout: float = REQUEST_SECONDS) -> bytes | None:
        """The body of the message at a sequence, from the leader; None where there is none."""
        try:
            found = await self.api_request(f"STREAM.MSG.GET.{self.name}", {"seq": sequence}, timeout)
        except PublishRefused as error:
            if error.code == NO_MESSAGE:
                return None
            raise
        return base64.b64decode(found["message"].get("data", ""))

    async def publish(
        self, data: bytes, message_id: str, timeout: float, after: int | None = None, *, subject: str = "frames"
    ) -> int:
        """Publish a message; returns its sequence once a majority of the servers has it.

        `after`: only as the next message after that one; raises `PublishRefused` with `WRONG_LAST` where another is the last.
        Raises `LogUnavailable`; the message may be in the stream all the same.
        """
        with translated_errors("the stream did not acknowledge"):
            headers = {"Nats-Msg-Id": message_id, "Nats-Expected-Stream": self.name}
            if after is not None:
                headers["Nats-Expected-Last-Sequence"] = str(after)
            answer = await self.request(f"{self.name}.{subject}", data, timeout, headers)
        return read_reply(answer, "the stream refused the message")["seq"]

    async def create_consumer(self, name: str, after: int, *, idle_seconds: int) -> None:
        """Create a consumer of everything after a sequence. The servers delete it after `idle_seconds` without a pull."""
        config = {
            "name": name, "deliver_policy": "by_start_sequence", "opt_start_seq": after + 1, "ack_policy": "none",
            "replay_policy": "instant", "mem_storage": True, "num_replicas": 1, "inactive_threshold": idle_seconds * 10**9,
            "max_waiting": 16,
        }  # fmt: skip
        request = {"stream_name": self.name, "config": config, "action": "create"}
        self._may_pull = True
        await self.api_request(f"CONSUMER.CREATE.{self.name}.{name}", request, CONSUMER_SECONDS)

    async def delete_consumer(self, name: str) -> None:
        """Delete a consumer. Errors are ignored: the servers delete it by themselves later."""
        with contextlib.suppress(LogUnavailable):
            await self.api_request(f"CONSUMER.DELETE.{self.name}.{name}", {}, 1.0)

    async def inbox(self) -> Inbox:
        """Subscribe to a unique address."""
        with translated_errors("NATS"):
            address = self._client.new_inbox()
            arrived: asyncio.Queue[Msg] = asyncio.Queue()
            subscription = await self._client.subscribe(  # pyright: ignore[reportUnknownMemberType] - a Future of anything
                f"{address}.*", cb=arrived.put, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        return Inbox(address, arrived, subscription)

    async def pull(self, consumer: str, reply: str, request: dict[str, Any]) -> None:
        """Ask a consumer for messages."""
        with translated_errors("NATS"):
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{consumer}"
            await self._client.publish(subject, msgspec.json.encode(request), reply=reply)

    def expect_pull_allowed(self) -> None:
        """Raise `LogUnavailable` where the servers deny pulling from the newest consumer: they answer nothing then."""
        if not self._may_pull:
            raise LogUnavailable(self._permission_message(f"publish to $JS.API.CONSUMER.MSG.NEXT.{self.name}.*"))

    async def listen(self, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> None:
        """Call `receive` with each message on `<stream>.<subject>`, which is outside the stream, until this is closed."""
        with translated_errors("NATS"):
            await self._client.subscribe(f"{self.name}.{subject}", cb=receive)  # pyright: ignore[reportUnknownMemberType]

    async def request_from_node(self, subject: str, data: bytes, timeout: float) -> bytes:
        """The answer of the node that listens to `<stream>.<subject>`. Raises `LogUnavailable`."""
        with translated_errors(f"{self.name}.{subject}"):
            return (await self.request(f"{self.name}.{subject}", data, timeout)).data

    async def publish_unstored(self, subject: str, data: bytes) -> None:
        """Publish to those who listen now; it is stored nowhere. Raises `LogUnavailable`."""
        with translated_errors("NATS"):
            if not self._client.is_connected:
                raise LogUnavailable("there is no connection to NATS")
            await self._client.publish(subject, data)

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        # While it reconnects, the driver may wait for ever or end cancelled: the caller must see neither.
        closing = asyncio.ensure_future(self._client.close())
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait([closing], timeout=CLOSING_SECONDS)
        closing.cancel()

    async def api_request(self, what: str, body: dict[str, Any], timeout: float = REQUEST_SECONDS) -> dict[str, Any]:
        """A request to JetStream's API. Raises `PublishRefused` with its error, `LogUnavailable` without an answer."""
        with translated_errors("JetStream"):
            answer = await self.request(f"$JS.API.{what}", msgspec.json.encode(body), timeout)
        return read_reply(answer, "JetStream")

    async def request(self, subject: str, data: bytes, timeout: float, headers: dict[str, str] | None = None) -> Msg:
        """The answer to a request. Raises at once when the connection breaks: the answer cannot arrive any more."""
        if not self._client.is_connected:
            raise LogUnavailable("there is no connection to NATS")
        answer = asyncio.ensure_future(self._client.request(subject, data, timeout=timeout, headers=headers))
        broken = asyncio.ensure_future(self._broken.wait())
        denied = self._pending.setdefault(subject.lower(), asyncio.Event())
        denial = asyncio.ensure_future(denied.wait())
        try:
            await asyncio.wait((answer, broken, denial), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if denial.done():
                raise LogUnavailable(self._permission_message(f"publish to {subject}"))
            raise LogUnavailable("the connection to NATS broke")
        except TimeoutError:
            if self._denied_subscription:
                raise LogUnavailable(self._permission_message(f"subscribe to {self._denied_subscription}")) from None
            raise
        finally:
            for each in (answer, broken, denial):
                each.cancel()
            if self._pending.get(subject.lower()) is denied:
                del self._pending[subject.lower()]

    def _denied(self, text: str) -> bool:
        """Note a denied permission, from the driver's text `Permissions Violation for Publish to "…"`.

        The servers send it apart from answers. Returns whether a pending request or pull was denied.
        """
        found = PERMISSION.search(text.lower())
        if found is None:
            return False
        if found[1] == "subscription":
            self._denied_subscription = found[2]
        if found[2].startswith("$js.api.consumer.msg.next."):
            self._may_pull = False
            return True
        pending = self._pending.pop(found[2], None)
        if pending is not None:
            pending.set()
        return pending is not None

    def _permission_message(self, what: str) -> str:
        """Which permission is missing in the servers' configuration, for whom."""
        who = self.config.identity_keys or "no user set in [jetstream]"
        what = CONSUMER_NAME.sub(
            ".*", what
        )  # the same text for each consumer, and as it is written in the configuration
        return f"this node ({who}) may not {what}: give it its rights (docs/guides/cluster.md, Who may do what)"


def wanted_config(config: JetstreamConfig, log_id: str) -> dict[str, Any]:
    """The settings of a stream that holds a log."""
    return {
        "name": config.stream, "subjects": [f"{config.stream}.frames", f"{config.stream}.checkpoints"],
        "storage": "file", "num_replicas": config.replicas, "retention": "limits", "discard": "new",
        "max_age": 0, "max_bytes": -1, "max_msgs": -1, "max_msgs_per_subject": -1, "max_msg_size": -1,
        "max_consumers": -1, "deny_delete": True, "deny_purge": True, "sealed": False, "allow_rollup_hdrs": False,
        "allow_direct": True, "duplicate_window": DUPLICATE_WINDOW_SECONDS * 10**9,
        "metadata": {"tracker_log_id": log_id, "tracker_format": FORMAT},
    }  # fmt: skip


UNSET_CONFIG = {
    "no_ack": False, "allow_msg_ttl": False, "allow_msg_counter": False, "subject_delete_marker_ttl": 0,
    "mirror": None, "sources": None, "subject_transform": None, "persist_mode": None, "first_seq": None,
    "republish": None, "consumer_limits": None,
}  # fmt: skip
"""Settings that a server leaves out at these values. Others would lose, change or copy messages, or end consumers."""


def wrong_settings(state: StreamState, config: JetstreamConfig) -> list[str]:
    """Which settings of a stream are wrong for a log: "max_age is 3600000000000, not 0"."""
    needed: dict[str, Any] = UNSET_CONFIG | wanted_config(config, state.log_id)
    for free in ("name", "metadata", "max_consumers", "allow_direct"):
        del needed[free]
    return config_mismatch(state.config, needed)


def config_mismatch(config: dict[str, Any], needed: dict[str, Any]) -> list[str]:
    """Which settings of a stream differ from `needed`: "max_age is 3600000000000, not 0"."""
    found: list[str] = []
    for key, value in needed.items():
        has = config.get(key)
        if _plain(has) != _plain(value) and not (key == "num_replicas" and has > value):  # more replicas are fine
            found.append(f"{key} is {msgspec.json.encode(has).decode()}, not {msgspec.json.encode(value).decode()}")
    return found


def _plain(value: Any) -> Any:
    """A setting in a form to compare: missing, empty and default are the same."""
    if isinstance(value, list):
        return sorted(map(str, cast("list[object]", value))) or None
    return None if not value or value == "default" else value


def read_reply(answer: Msg, what: str) -> dict[str, Any]:
    """JetStream's answer. Raises `PublishRefused` where it is an error."""
    try:
        found: dict[str, Any] = msgspec.json.decode(answer.data)
    except msgspec.DecodeError as error:
        raise LogUnavailable(f"{what}: the answer cannot be read") from error
    if "error" in found:
        error = found["error"]
        if error.get("err_code") == NO_JETSTREAM:
            reason = (
                "the account of this node has no JetStream: use another jetstream.user, or enable it for the account"
            )
            raise PublishRefused(f"{what}: {reason}", NO_JETSTREAM)
        raise PublishRefused(f"{what}: {error.get('description', 'refused')}", error.get("err_code", 0))
    return found
