"""What the pages show of a cluster: its nodes, one that has diverged, and what came in at all of their doors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
from aiohttp import web

from tracker.views.answers import time_of
from tracker.dashboard.ingest_stats import INGEST_STATS, IngestStats
from tracker.log.cluster.gossip import NodeGossip, NodeStatus
from tracker.log.cluster.cosigner import Cosigner


class ClusterView(msgspec.Struct, frozen=True):
    """Handed over by service; one machine has none."""

    neighbours: NodeGossip
    vouching: Cosigner


CLUSTER: web.AppKey[ClusterView | None] = web.AppKey("cluster")


class NodeLine(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the page shows it; `ago_ms`: how old the news are."""

    status: NodeStatus
    started_at: str | None
    ago_ms: int
    is_silent: bool


class Diverged(msgspec.Struct, frozen=True, kw_only=True):
    """This node's records are not those that were signed; hashes in hex."""

    size: int
    root: str
    signed_root: str
    position: int | None
    here: str
    there: str


class NodesPage(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster as the pages show it. `complaints`: (node, size, position) of all that have diverged."""

    nodes: list[NodeLine]
    signing: list[str]
    diverged: Diverged | None
    doubt: str | None
    complaints: list[tuple[str, int, int | None]]


def cluster_view(request: web.Request) -> NodesPage | None:
    """What is to be shown; None on one machine."""
    cluster = request.app[CLUSTER]
    if cluster is None:
        return None
    nodes = [
        NodeLine(
            status=each.status,
            started_at=time_of(each.status.started),
            ago_ms=each.ago // 1_000,
            is_silent=each.is_silent,
        )
        for each in cluster.neighbours.nodes()
    ]
    return NodesPage(
        nodes=nodes,
        signing=[each.status.node for each in nodes if each.status.signs and not each.is_silent],
        diverged=_diverged(cluster.vouching),
        doubt=cluster.vouching.doubt,
        complaints=[(each.node, each.size, each.position) for each in cluster.vouching.divergence_reports],
    )


def ingest_stats_of(request: web.Request) -> IngestStats:
    """What came in at the doors of all nodes, as far as this one has heard."""
    own, cluster = request.app[INGEST_STATS], request.app[CLUSTER]
    others = [] if cluster is None else cluster.neighbours.others()
    if not others:
        return own
    seen, refused, outcomes = dict(own.last_seen), dict(own.last_refused), Counter(own.outcomes)
    minute = Counter(own.last_minute())
    for source in (each for status in others for each in status.sources):
        name = source.name
        if source.last_seen is not None:
            seen[name] = max(source.last_seen, seen.get(name, 0))
        if source.last_refused is not None:
            refused[name] = max(source.last_refused, refused.get(name, (0, "")))
        outcomes.update({(name, outcome): count for outcome, count in source.outcomes.items()})
        minute[name] += source.last_minute

    def last_minute() -> Mapping[str, int]:
        return minute

    since = min(own.since, *(each.started for each in others))
    return IngestStats(since=since, last_seen=seen, last_refused=refused, outcomes=outcomes, last_minute=last_minute)


def _diverged(vouching: Cosigner) -> Diverged | None:
    found = vouching.diverged
    if found is None:
        return None
    differs = found.difference
    return Diverged(
        size=found.size,
        root=found.root.hex(),
        signed_root=found.signed_root.hex(),
        position=None if differs is None else differs.position,
        here="" if differs is None else differs.here.hex(),
        there="" if differs is None else differs.there.hex(),
    )
