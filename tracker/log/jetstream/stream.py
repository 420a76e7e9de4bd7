"""The stream: connecting to it, making it, refusing a wrong one, publishing with an acknowledgement. No other file talks to NATS.

    <stream>.frames        group commits of all nodes (`frames.py`)
    <stream>.checkpoints   what nodes say about the tree; in the same stream, so that every node reads them at the same place

Kept for ever: file storage, replicated, no age or size at which old messages go, deletion and purge denied. Its metadata
say which log it is. What the driver raises becomes `LogUnavailable` here.
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

from tracker.errors import LogMissing, LogUnavailable
from tracker.log.jetstream.connection import Connection, AsyncErrors, StreamSettings, connect, without_secret

FORMAT = "1"
ASK_SECONDS = 5.0
CLOSING_SECONDS = 1.0
PLACING_SECONDS = 5.0
CONSUMER_SECONDS = 2.0
DUPLICATE_WINDOW_SECONDS = 120
HEADER_BYTES = 256
"""What the headers of a message take at most."""
NO_STREAM, NO_MESSAGE, WRONG_LAST, NO_PEERS = 10059, 10037, 10071, 10005
NO_JETSTREAM = 10039
PERMISSION = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"")
READER = re.compile(r"\.tracker-[0-9a-f]{16}$")
"""A reader's own name in a subject."""

_log = structlog.get_logger("stream")


class StreamState(NamedTuple):
    """What the stream's leader says: its settings, the first and last message, the names of its servers."""

    config: dict[str, Any]
    first: int
    last: int
    servers: tuple[str, ...]

    @property
    def log_id(self) -> str:
        """Which log it holds; "" where it is not one of ours."""
        return self._metadata.get("tracker_log_id", "")

    @property
    def format(self) -> str:
        """Which format its messages have; this Tracker writes and reads `FORMAT`."""
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
    """An answer of STREAM.INFO, as far as it is needed."""

    config: dict[str, Any]
    state: _Sequences
    cluster: _Cluster | None = None


class PublishRefused(LogUnavailable):
    """The server answered with an error; `code` is JetStream's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Inbox(NamedTuple):
    """What is sent to `<address>.<anything>` arrives in the queue, as much as was asked for."""

    address: str
    arrived: asyncio.Queue[Msg]
    subscription: Subscription

    async def close(self) -> None:
        """Nothing arrives any more."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.subscription.unsubscribe()


@contextlib.contextmanager
def translated_errors(what: str) -> Generator[None]:
    """Whatever the driver raises in here is a `LogUnavailable`."""
    try:
        yield
    except TimeoutError as error:
        raise LogUnavailable(f"{what}: no answer in time") from error
    except nats.errors.NoRespondersError as error:
        raise LogUnavailable(
            f"{what}: nobody answers: has it a leader, and do these servers have JetStream?"
        ) from error
    except (nats.errors.Error, OSError, ValueError) as error:
        raise LogUnavailable(f"{what}: {str(error) or type(error).__name__}") from error


class Stream:
    """A connection to one stream, kept up for ever in the background. Made by `open`."""

    def __init__(self, client: Client, settings: StreamSettings) -> None:
        self._client = client
        self._broken = asyncio.Event()
        self._asking: dict[str, asyncio.Event] = {}
        self._unheard = ""
        self._may_pull = True
        self.settings = settings
        self.name = settings.stream

    @classmethod
    async def open(cls, settings: StreamSettings) -> Stream:
        """Connect. Raises `LogUnavailable` where none of the servers can be reached or they do not let us in."""
        client = Connection()
        stream = cls(client, settings)
        heard = AsyncErrors(settings, stream._denied)

        async def disconnected() -> None:
            stream._broken.set()
            stream._broken = asyncio.Event()

        async def reconnected() -> None:
            heard.connected()
            _log.info("connected again", server=client.connected_url.netloc if client.connected_url else "")

        with translated_errors(f"NATS at {', '.join(map(without_secret, settings.servers))} cannot be reached"):
            await connect(client, settings, heard, disconnected_cb=disconnected, reconnected_cb=reconnected)
        return stream

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._client.is_connected

    @property
    def max_message_bytes(self) -> int:
        """How long the body of a message may be."""
        return self._client.max_payload - HEADER_BYTES

    async def broken(self) -> None:
        """Return when the connection breaks. What was on its way here is lost then, and nobody sends it again."""
        await self._broken.wait()

    async def state(self, *, timeout: float = ASK_SECONDS) -> StreamState:
        """What the stream's leader says now. Raises `LogMissing` where there is no such stream, `LogUnavailable`."""
        try:
            found = await self.api_request(f"STREAM.INFO.{self.name}", {}, timeout)
        except PublishRefused as error:
            if error.code == NO_STREAM:
                raise LogMissing(
                    f"there is no stream {self.name!r}: check jetstream.stream, or make it with `tracker init`"
                ) from None
            raise
        told = msgspec.convert(found, _StreamInfo)
        cluster = told.cluster or _Cluster()
        servers = (cluster.leader, *(each.name for each in cluster.replicas or ()))
        return StreamState(told.config, told.state.first_seq, told.state.last_seq, tuple(filter(None, servers)))

    async def create(self, log_id: str) -> StreamState:
        """Make the stream. Raises `LogUnavailable` where it cannot be, also when there is one of that name."""
        clock = asyncio.get_running_loop().time
        until = clock() + PLACING_SECONDS
        while True:
            try:
                await self.api_request(
                    f"STREAM.CREATE.{self.name}", wanted_config(self.settings, log_id), 2 * ASK_SECONDS
                )
                return await self.state()
            except PublishRefused as error:
                if error.code != NO_PEERS or clock() > until:
                    raise
            # Servers that have only just found each other take one another for offline.
            await asyncio.sleep(0.5)

    async def message(self, sequence: int, *, timeout: float = ASK_SECONDS) -> bytes | None:
        """The message at a sequence, as the leader has it; None where there is none."""
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
        """Add a message: its sequence, once the servers have agreed on it. Raises `LogUnavailable`; it may be there then.

        `after`: only right behind that message; `Refused` with `WRONG_LAST` where another one is the last.
        """
        with translated_errors("the stream did not acknowledge"):
            headers = {"Nats-Msg-Id": message_id, "Nats-Expected-Stream": self.name}
            if after is not None:
                headers["Nats-Expected-Last-Sequence"] = str(after)
            answer = await self.request(f"{self.name}.{subject}", data, timeout, headers)
        return read_reply(answer, "the stream did not take it")["seq"]

    async def create_consumer(self, name: str, after: int, *, idle_seconds: int) -> None:
        """Make a reader of everything after a sequence; it goes by itself when nobody has asked it for so long."""
        config = {
            "name": name, "deliver_policy": "by_start_sequence", "opt_start_seq": after + 1, "ack_policy": "none",
            "replay_policy": "instant", "mem_storage": True, "num_replicas": 1, "inactive_threshold": idle_seconds * 10**9,
            "max_waiting": 16,
        }  # fmt: skip
        asked = {"stream_name": self.name, "config": config, "action": "create"}
        self._may_pull = True
        await self.api_request(f"CONSUMER.CREATE.{self.name}.{name}", asked, CONSUMER_SECONDS)

    async def delete_consumer(self, name: str) -> None:
        """Let a reader go. It would go by itself; whatever is in the way is passed over."""
        with contextlib.suppress(LogUnavailable):
            await self.api_request(f"CONSUMER.DELETE.{self.name}.{name}", {}, 1.0)

    async def inbox(self) -> Inbox:
        """An address of our own."""
        with translated_errors("NATS"):
            address = self._client.new_inbox()
            arrived: asyncio.Queue[Msg] = asyncio.Queue()
            subscription = await self._client.subscribe(  # pyright: ignore[reportUnknownMemberType] - a Future of anything
                f"{address}.*", cb=arrived.put, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        return Inbox(address, arrived, subscription)

    async def pull(self, consumer: str, reply: str, asked: dict[str, Any]) -> None:
        """Ask a reader for messages."""
        with translated_errors("NATS"):
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{consumer}"
            await self._client.publish(subject, msgspec.json.encode(asked), reply=reply)

    def expect_pulling(self) -> None:
        """Raise `LogUnavailable` where the servers did not let us ask the newest reader: they answer nothing then."""
        if not self._may_pull:
            raise LogUnavailable(self._may_not(f"publish to $JS.API.CONSUMER.MSG.NEXT.{self.name}.*"))

    async def listen(self, subject: str, heard: Callable[[Msg], Awaitable[None]]) -> None:
        """Have `heard` called with what nodes say outside the stream under `<stream>.<subject>`, until it is closed."""
        with translated_errors("NATS"):
            await self._client.subscribe(f"{self.name}.{subject}", cb=heard)  # pyright: ignore[reportUnknownMemberType]

    async def request_from_node(self, subject: str, data: bytes, timeout: float) -> bytes:
        """What a node answers that listens to `<stream>.<subject>`. Raises `LogUnavailable`."""
        with translated_errors(f"{self.name}.{subject}"):
            return (await self.request(f"{self.name}.{subject}", data, timeout)).data

    async def publish_unstored(self, subject: str, data: bytes) -> None:
        """Say something to whoever listens now; nothing keeps it. Raises `LogUnavailable`."""
        with translated_errors("NATS"):
            if not self._client.is_connected:
                raise LogUnavailable("there is no connection to NATS")
            await self._client.publish(subject, data)

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        # The driver, asked in the middle of connecting anew, can wait for ever, or end cancelled: neither is ours to pass on.
        closing = asyncio.ensure_future(self._client.close())
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait([closing], timeout=CLOSING_SECONDS)
        closing.cancel()

    async def api_request(self, what: str, asked: dict[str, Any], timeout: float = ASK_SECONDS) -> dict[str, Any]:
        """Ask JetStream's API. Raises `Refused` with its error, `LogUnavailable` where nobody answers."""
        with translated_errors("JetStream"):
            answer = await self.request(f"$JS.API.{what}", msgspec.json.encode(asked), timeout)
        return read_reply(answer, "JetStream")

    async def request(self, subject: str, data: bytes, timeout: float, headers: dict[str, str] | None = None) -> Msg:
        """The answer. Where the connection breaks it can not come any more, and is not waited for."""
        if not self._client.is_connected:
            raise LogUnavailable("there is no connection to NATS")
        asked = asyncio.ensure_future(self._client.request(subject, data, timeout=timeout, headers=headers))
        broken = asyncio.ensure_future(self._broken.wait())
        denied = self._asking.setdefault(subject.lower(), asyncio.Event())
        told = asyncio.ensure_future(denied.wait())
        try:
            await asyncio.wait((asked, broken, told), return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            if told.done():
                raise LogUnavailable(self._may_not(f"publish to {subject}"))
            raise LogUnavailable("the connection to NATS broke")
        except TimeoutError:
            if self._unheard:
                raise LogUnavailable(self._may_not(f"subscribe to {self._unheard}")) from None
            raise
        finally:
            for each in (asked, broken, told):
                each.cancel()
            if self._asking.get(subject.lower()) is denied:
                del self._asking[subject.lower()]

    def _denied(self, text: str) -> bool:
        """The servers say so beside the answers: `Permissions Violation for Publish to "…"`. Whether it was asked for."""
        found = PERMISSION.search(text.lower())
        if found is None:
            return False
        if found[1] == "subscription":
            self._unheard = found[2]
        if found[2].startswith("$js.api.consumer.msg.next."):
            self._may_pull = False
            return True
        asked = self._asking.pop(found[2], None)
        if asked is not None:
            asked.set()
        return asked is not None

    def _may_not(self, what: str) -> str:
        """Which line is missing in the servers' configuration, for whom."""
        who = self.settings.identity or "nobody named in [jetstream]"
        what = READER.sub(".*", what)  # the same line each time, and as it has to be written
        return f"this node ({who}) may not {what}: give it its rights (docs/guides/cluster.md, Who may do what)"


def wanted_config(settings: StreamSettings, log_id: str) -> dict[str, Any]:
    """The settings of a stream that keeps a log."""
    return {
        "name": settings.stream, "subjects": [f"{settings.stream}.frames", f"{settings.stream}.checkpoints"],
        "storage": "file", "num_replicas": settings.replicas, "retention": "limits", "discard": "new",
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
"""What a server leaves out where it is so; anything else would lose or change messages, show them elsewhere, or end readers."""


def wrong_settings(state: StreamState, settings: StreamSettings) -> list[str]:
    """What of a stream's settings is not as a log needs it: "max_age is 3600000000000, not 0"."""
    needed: dict[str, Any] = UNSET_CONFIG | wanted_config(settings, state.log_id)
    for free in ("name", "metadata", "max_consumers", "allow_direct"):
        del needed[free]
    return config_mismatch(state.config, needed)


def config_mismatch(config: dict[str, Any], needed: dict[str, Any]) -> list[str]:
    """What of a stream's settings is not as it is needed: "max_age is 3600000000000, not 0"."""
    found: list[str] = []
    for key, value in needed.items():
        has = config.get(key)
        if _plain(has) != _plain(value) and not (key == "num_replicas" and has > value):  # more keep it as well
            found.append(f"{key} is {msgspec.json.encode(has).decode()}, not {msgspec.json.encode(value).decode()}")
    return found


def _plain(value: Any) -> Any:
    """A setting to compare: what is left out, empty or the default says the same."""
    if isinstance(value, list):
        return sorted(map(str, cast("list[object]", value))) or None
    return None if not value or value == "default" else value


def read_reply(answer: Msg, what: str) -> dict[str, Any]:
    """What JetStream says. Raises `Refused` where that is an error."""
    try:
        found: dict[str, Any] = msgspec.json.decode(answer.data)
    except msgspec.DecodeError as error:
        raise LogUnavailable(f"{what}: the answer cannot be read") from error
    if "error" in found:
        error = found["error"]
        if error.get("err_code") == NO_JETSTREAM:
            reason = "the account that we are let into has no JetStream: another jetstream.user, or enable it for the account"
            raise PublishRefused(f"{what}: {reason}", NO_JETSTREAM)
        raise PublishRefused(f"{what}: {error.get('description', 'refused')}", error.get("err_code", 0))
    return found
