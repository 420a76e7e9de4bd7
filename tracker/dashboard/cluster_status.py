"""The state of a cluster for pages: its nodes, divergence, and the ingest numbers of all nodes together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
from aiohttp import web

from tracker.views.answers import time_of
from tracker.dashboard.ingest_stats import INGEST_STATS, IngestStats
from tracker.log.cluster.gossip import NodeGossip, NodeStatus
from tracker.log.cluster.cosigner import Cosigner


class ClusterMembers(msgspec.Struct, frozen=True):
    """What the server hands over on a node of a cluster."""

    gossip: NodeGossip
    cosigner: Cosigner


CLUSTER_KEY: web.AppKey[ClusterMembers | None] = web.AppKey("cluster")


class NodeLine(msgspec.Struct, frozen=True, kw_only=True):
    """A node. `ago_ms`: age of its last status."""

    status: NodeStatus
    started_at: str | None
    ago_ms: int
    is_silent: bool


class DivergenceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """This node's records differ from those that were signed. Hashes in hex."""

    size: int
    root: str
    signed_root: str
    position: int | None
    here: str
    there: str


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the cluster. `diverged_nodes`: (node, size, position) of every node that reports a divergence."""

    nodes: list[NodeLine]
    signing: list[str]
    diverged: DivergenceSummary | None
    doubt: str | None
    diverged_nodes: list[tuple[str, int, int | None]]


def cluster_status(request: web.Request) -> ClusterStatus | None:
    """The state of the cluster; None if there is only one node."""
    cluster = request.app[CLUSTER_KEY]
    if cluster is None:
        return None
    nodes = [
        NodeLine(
            status=each.status,
            started_at=time_of(each.status.started),
            ago_ms=each.ago // 1_000,
            is_silent=each.is_silent,
        )
        for each in cluster.gossip.nodes()
    ]
    return ClusterStatus(
        nodes=nodes,
        signing=[each.status.node for each in nodes if each.status.signs and not each.is_silent],
        diverged=_divergence_summary(cluster.cosigner),
        doubt=cluster.cosigner.doubt,
        diverged_nodes=[(each.node, each.size, each.position) for each in cluster.cosigner.divergence_reports],
    )


def combined_ingest_stats(request: web.Request) -> IngestStats:
    """The ingest numbers of all nodes, as far as this node knows them."""
    own, cluster = request.app[INGEST_STATS], request.app[CLUSTER_KEY]
    others = [] if cluster is None else cluster.gossip.others()
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


def _divergence_summary(cosigner: Cosigner) -> DivergenceSummary | None:
    found = cosigner.diverged
    if found is None:
        return None
    differs = found.difference
    return DivergenceSummary(
        size=found.size,
        root=found.root.hex(),
        signed_root=found.signed_root.hex(),
        position=None if differs is None else differs.position,
        here="" if differs is None else differs.here.hex(),
        there="" if differs is None else differs.there.hex(),
    )
