"""The metrics for Prometheus."""

from __future__ import annotations

from tracker.server.metrics import Metrics


def lines(metrics: Metrics) -> list[str]:
    return metrics.render()[0].decode().splitlines()


def test_every_metric_has_its_documented_name() -> None:
    metrics = Metrics(lambda: 0)
    metrics.delivered("lk", "recorded")
    metrics.delivered("lk", "signature_mismatch")
    metrics.follow_projector({"lk": {"unreadable": 1, "unknown_event": 2}}, set_aside=3)
    metrics.committed(3, 0.004)
    metrics.depth(7)
    metrics.projected(8, 20, 1.5)
    text = lines(metrics)
    for line in (
        'tracker_deliveries_total{outcome="recorded",source="lk"} 1.0',
        'tracker_deliveries_total{outcome="signature_mismatch",source="lk"} 1.0',
        'tracker_unreadable_total{source="lk"} 1.0',
        'tracker_unknown_events_total{source="lk"} 2.0',
        "tracker_sessions_set_aside 3.0",
        "tracker_batch_size_sum 3.0",
        "tracker_append_seconds_count 1.0",
        "tracker_queue_depth 7.0",
        "tracker_projector_lag 12.0",
        "tracker_projector_lag_seconds 1.5",
    ):
        assert line in text


def test_the_silence_of_a_source_is_computed_when_metrics_are_read() -> None:
    clock = [10_000_000]
    metrics = Metrics(lambda: clock[0])
    metrics.authenticated("lk", 4_000_000)
    assert 'tracker_source_last_delivery_seconds{source="lk"} 6.0' in lines(metrics)
    clock[0] = 20_000_000
    metrics.authenticated("lk", 5_000_000)
    assert 'tracker_source_last_delivery_seconds{source="lk"} 15.0' in lines(metrics)


def test_the_age_of_the_newest_checkpoint_is_reported_once_checkpoints_are_due() -> None:
    clock = [10_000_000]
    metrics = Metrics(lambda: clock[0])
    assert "tracker_checkpoint_age_seconds 0.0" in lines(metrics)
    metrics.checkpoints_begin()
    clock[0] = 14_000_000
    assert "tracker_checkpoint_age_seconds 4.0" in lines(metrics)
    metrics.checkpointed(7)
    metrics.checkpoint_failed()
    clock[0] = 15_000_000
    text = lines(metrics)
    assert "tracker_checkpoint_age_seconds 1.0" in text
    assert "tracker_checkpoint_size 7.0" in text
    assert "tracker_checkpoint_failures_total 1.0" in text


def test_two_servers_in_one_process_do_not_share_metrics() -> None:
    one, two = Metrics(lambda: 0), Metrics(lambda: 0)
    one.depth(5)
    assert "tracker_queue_depth 0.0" in lines(two)


def test_the_content_type_is_the_exposition_formats() -> None:
    assert Metrics(lambda: 0).render()[1].startswith("text/plain; version=")
