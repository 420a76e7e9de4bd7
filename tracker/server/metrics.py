"""The Prometheus metrics of a server, rendered at `/metrics`.

Label values are names from config.toml and fixed words, never text from a sender, so the number of series is bounded.
"""

from __future__ import annotations

from collections import Counter as Counted
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
RECENT = 20_000
_READ = {
    "unreadable": ("tracker_unreadable", "Recorded deliveries that could not be parsed."),
    "unknown_event": ("tracker_unknown_events", "Recorded deliveries with an unknown event."),
}
"""Outcomes of parsing recorded deliveries, not of answering them, and their metrics."""
FOLLOWED = (
    ("tracker_stream_behind_messages", "Stream messages that this node has not applied."),
    ("tracker_stream_behind_seconds", "Seconds by which this node is behind the stream."),
    ("tracker_stream_servers_unread", "NATS servers whose sync setting could not be read."),
    ("tracker_stream_refused", "Stream messages skipped since the start because no node can have sent them."),
)
CLUSTER_GAUGES = (
    ("tracker_log_diverged", "1 when this node's records differ from a signed checkpoint."),
    ("tracker_nodes_diverged", "Nodes that reported a divergence and were not recreated since."),
    ("tracker_checkpoint_doubted", "1 when the newest checkpoint is not trusted, or a second node signs."),
    ("tracker_cosigned_size", "Size of the largest signed tree that matches this node's records."),
    ("tracker_vouchers_set_aside", "Messages about the tree that are not signed by a known key."),
    ("tracker_nodes", "Live nodes of the cluster, including this one."),
)
"""What `Cosigner` and `NodeGossip` report, in the order of their metrics."""
_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)


class Metrics(Collector):
    """All metrics of one server: what the log, ingest and checkpointer report to their observers, and what the views show.

    `now` gives µs since the epoch; it is asked at scrape.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._last_seen: dict[str, int] = {}
        self._signed_at = 0
        self.since = now()
        """When this server began to count, µs."""
        self.outcomes: dict[tuple[str, str], int] = {}
        """(source, outcome) → deliveries since then, and (source, "unreadable" | "unknown_event") of those recorded."""
        self._recent: deque[tuple[int, str]] = deque(maxlen=RECENT)
        self._registry = registry = CollectorRegistry()
        registry.register(self)
        self._append_seconds = Histogram(
            "tracker_append_seconds", "Duration of a transaction of the log.", buckets=_SECONDS, registry=registry
        )
        self._batch_size = Histogram(
            "tracker_batch_size", "Records in one transaction of the log.", buckets=_RECORDS, registry=registry
        )
        self._depth = 0
        queue_depth = Gauge("tracker_queue_depth", "Records waiting to be written.", registry=registry)
        queue_depth.set_function(lambda: self._depth)
        self._lag = Gauge("tracker_projector_lag", "Records that the views lack.", registry=registry)
        self._lag_seconds = Gauge(
            "tracker_projector_lag_seconds", "Age of the oldest record not yet in the views.", registry=registry
        )
        self._set_aside = Gauge(
            "tracker_sessions_set_aside", "Sessions whose rows could not be made or stored.", registry=registry
        )
        self._erased = Counter(
            "tracker_erased_records", "Records erased because they were older than their source's retention.", ["source"],
            registry=registry,
        )  # fmt: skip
        self._last_delivery = Gauge(
            "tracker_source_last_delivery_seconds", "Seconds since a source's last authentic delivery.", ["source"],
            registry=registry,
        )  # fmt: skip

        self._followed = [Gauge(name, about, registry=registry) for name, about in FOLLOWED]
        self._cluster_gauges = [Gauge(name, about, registry=registry) for name, about in CLUSTER_GAUGES]
        self._checkpoint_size = Gauge(
            "tracker_checkpoint_size", "Records covered by the newest checkpoint.", registry=registry
        )
        self._checkpoint_age = Gauge(
            "tracker_checkpoint_age_seconds",
            "Seconds since the log was last known to be fully signed.",
            registry=registry,
        )
        self._checkpoint_failures = Counter(
            "tracker_checkpoint_failures", "Failed attempts to sign the log.", registry=registry
        )

    def delivered(self, source: str, outcome: str) -> None:
        """One delivery was answered: "recorded", "duplicate", or why not ("signature_mismatch", "log_busy" …)."""
        self._count(source, outcome)
        self._recent.append((self._now(), source))

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for at scrape: deliveries are counted once, in `outcomes`."""
        answered = CounterMetricFamily(
            "tracker_deliveries", "Deliveries answered, by outcome.", labels=["source", "outcome"]
        )
        for (source, outcome), count in self.outcomes.items():
            if outcome not in _READ:
                answered.add_metric((source, outcome), count)
        yield answered
        for kind, (name, about) in _READ.items():
            counted = CounterMetricFamily(name, about, labels=["source"])
            for (source, outcome), count in self.outcomes.items():
                if outcome == kind:
                    counted.add_metric((source,), count)
            yield counted

    def last_minute(self) -> dict[str, int]:
        """How many deliveries were answered by source in the last 60 s; never more than `RECENT` together."""
        begin = self._now() - 60_000_000
        return dict(Counted(source for at, source in self._recent if at > begin))

    def _count(self, source: str, outcome: str) -> None:
        self.outcomes[source, outcome] = self.outcomes.get((source, outcome), 0) + 1

    def authenticated(self, source: str, received_at: int) -> None:
        if source not in self._last_seen:
            self._last_delivery.labels(source).set_function(lambda: (self._now() - self._last_seen[source]) / 1_000_000)
        self._last_seen[source] = received_at

    def committed(self, records: int, seconds: float) -> None:
        self._batch_size.observe(records)
        self._append_seconds.observe(seconds)

    def depth(self, n: int) -> None:
        self._depth = n

    def projected(self, position: int, head: int, lag_seconds: float) -> None:
        """The views are at `position` of `head`; the oldest record that they lack is `lag_seconds` old."""
        self._lag.set(max(0, head - position))
        self._lag_seconds.set(lag_seconds)

    def follow_projector(self, outcomes: Mapping[str, Mapping[str, int]], set_aside: int) -> None:
        """What the projector counted. `outcomes`: source → {"unreadable" or "unknown_event": records}."""
        self._set_aside.set(set_aside)
        self.outcomes.update({(source, kind): n for source, counts in outcomes.items() for kind, n in counts.items()})

    def follows(self, behind: Callable[[], tuple[int, float]], servers_unread: int, refused: Callable[[], int]) -> None:
        """This is a node of a cluster: `behind` gives messages and seconds, `refused` messages, asked at scrape."""
        for gauge, asked in zip(
            self._followed, (lambda: behind()[0], lambda: behind()[1], lambda: servers_unread, refused), strict=True
        ):
            gauge.set_function(asked)

    def watch_cosigner(self, seen: Callable[[], tuple[int, ...]]) -> None:
        """This is a node of a cluster: `seen` gives what its cosigner found, asked at scrape."""
        for n, gauge in enumerate(self._cluster_gauges[:-1]):
            gauge.set_function(lambda n=n: seen()[n])

    def watch_nodes(self, live_count: Callable[[], int]) -> None:
        """This is a node of a cluster: `live_count` returns the number of live nodes; it is called at each scrape."""
        self._cluster_gauges[-1].set_function(live_count)

    def checkpoints_begin(self) -> None:
        """From now on the log is to be signed: the age of the newest checkpoint counts."""
        self._signed_at = self._now()
        self._checkpoint_age.set_function(lambda: (self._now() - self._signed_at) / 1_000_000)

    def checkpointed(self, size: int) -> None:
        self._signed_at = self._now()
        self._checkpoint_size.set(size)

    def checkpoint_failed(self) -> None:
        self._checkpoint_failures.inc()

    def erased(self, source: str, records: int) -> None:
        self._erased.labels(source).inc(records)

    def render(self) -> tuple[bytes, str]:
        """The exposition text and its content type (a whole header value, with parameters)."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
