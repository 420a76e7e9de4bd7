"""The state of a cluster for pages: its nodes, divergence, and the ingest numbers of all nodes together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
from aiohttp import web

from tracker.dashboard.ingest_stats import INGEST_STATS, IngestStats
from tracker.log.cluster.gossip import NodeGossip, PeerStatus
from tracker.log.cluster.cosigner import Cosigner
from tracker.log.cluster.divergence import Divergence


class ClusterMembers(msgspec.Struct, frozen=True):
    """What the server hands over on a node of a cluster."""

    gossip: NodeGossip
    cosigner: Cosigner


CLUSTER_KEY: web.AppKey[ClusterMembers | None] = web.AppKey("cluster")


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the cluster. `diverged_nodes`: (node, size, position) of every node that reports a divergence."""

    nodes: list[PeerStatus]
    signing: list[str]
    diverged: Divergence | None
    doubt: str | None
    diverged_nodes: list[tuple[str, int, int | None]]


def cluster_status(request: web.Request) -> ClusterStatus | None:
    """The state of the cluster; None if there is only one node."""
    cluster = request.app[CLUSTER_KEY]
    if cluster is None:
        return None
    nodes = cluster.gossip.nodes()
    return ClusterStatus(
        nodes=nodes,
        signing=[each.status.node for each in nodes if each.status.signs and not each.is_silent],
        diverged=cluster.cosigner.diverged,
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
