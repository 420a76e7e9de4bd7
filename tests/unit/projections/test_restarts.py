"""When a server restarted, from the names of its log files."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tracker.projections import restarts
from tracker.projections.restarts import restarts_of_session, server_of


def restart_moments(first: dict[str, int], last: dict[str, int] | None = None) -> tuple[int, ...]:
    """Of the only server."""
    (found,) = restarts.restart_moments(first, last or {}).values()
    return found


DAY = 86_400_000_000
BASE = 1_714_521_600_000_000  # 2024-05-01


def test_the_files_of_one_process_are_no_restart() -> None:
    assert restart_moments({"2024-05-01_03-00-04": 1, "2024-05-02_03-00-04": 2, "2024-05-03_03-00-04": 3}) == ()


def test_a_restart_at_the_same_second_of_another_day_is_a_restart() -> None:
    files = {"2024-05-01_03-00-04": 1, "2024-05-02_03-00-05": 2, "2024-05-03_03-00-04": 3}
    assert restart_moments(files) == (2, 3)


def test_the_repeated_hour_in_autumn_is_resolved_by_the_events() -> None:
    assert restart_moments({"2024-10-27_02-50-00": 10, "2024-10-27_02-10-00": 20}) == (20,)


def test_a_restart_during_the_day_and_its_file_of_the_next_day_are_one_process() -> None:
    files = {"2024-05-01_03-00-04": 1, "2024-05-02_03-00-04": 2, "2024-05-02_10-00-00": 3, "2024-05-03_10-00-00": 4}
    assert restart_moments(files) == (3,)


def test_labels_of_earlier_versions_have_no_day() -> None:
    assert restart_moments({"03-00-04": BASE, "09-00-00": BASE + DAY // 4}) == (BASE + DAY // 4,)


def test_the_folder_in_a_label_does_not_hide_the_time() -> None:
    assert restart_moments({"node-a/2024-05-01_03-00-04": 1, "node-a/2024-05-02_03-00-04": 2}) == ()


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from(["03-00-04", "03-00-05", "12-30-00"])), min_size=1, max_size=8
    ),
    st.randoms(use_true_random=False),
)
def test_each_process_but_the_first_is_one_restart_in_whatever_order_files_are_known(
    processes: list[tuple[int, str]], random: random.Random
) -> None:
    files: dict[str, int] = {}
    starts: list[int] = []
    day = 1
    last = ""
    for days, time in processes:
        if time == last:
            continue  # the same second with nothing in between cannot be distinguished
        last = time
        starts.append(BASE + day * DAY)
        for n in range(days):
            files[f"2024-05-{day + n:02d}_{time}"] = BASE + (day + n) * DAY
        day += days
    names = list(files)
    random.shuffle(names)
    assert restart_moments({name: files[name] for name in names}) == tuple(starts[1:])


def test_each_folder_is_a_server_of_its_own() -> None:
    first = {"node-a/2024-05-01_03-00-04": 1, "node-b/2024-05-01_03-00-09": 2, "node-a/2024-05-03_08-00-00": 3}
    found = restarts.restart_moments(first, {})
    assert found == {"node-a": (3,), "node-b": ()}
    assert restarts_of_session(found, {"node-a"}) == (3,)
    assert restarts_of_session(found, {"node-b"}) == ()
    assert restarts_of_session(found, set()) == (), "it may have been on either"
    assert restarts_of_session(found, {"node-a", "node-b"}) == ()
    assert restarts_of_session({"node-a": (3,)}, set()) == (3,)


def test_two_servers_in_one_folder_are_told_apart_by_what_they_wrote_at_the_same_time() -> None:
    first = {"2024-05-01_03-00-04": 10, "2024-05-01_03-00-09": 20}
    assert restart_moments(first, {"2024-05-01_03-00-04": 15}) == (20,)
    assert restart_moments(first, {"2024-05-01_03-00-04": 25}) == ()
    # A day later both are still running.
    more = first | {"2024-05-02_03-00-04": 110, "2024-05-02_03-00-09": 120}
    assert (
        restart_moments(more, {"2024-05-01_03-00-04": 25, "2024-05-01_03-00-09": 30, "2024-05-02_03-00-04": 111}) == ()
    )


def test_the_server_of_a_label_is_its_folder() -> None:
    assert server_of("a/b/2024-05-01_03-00-04") == "a/b"
    assert server_of("2024-05-01_03-00-04") == server_of("03-00-04") == ""


_RESTARTS = st.dictionaries(
    st.sampled_from(["", "node-a", "node-b"]), st.sets(st.integers(1, 9)).map(lambda moments: tuple(sorted(moments)))
)


@given(_RESTARTS, _RESTARTS, st.integers(0, 9), st.sets(st.sampled_from(["", "node-a", "node-b"])))
def test_a_session_that_another_restart_follows_now_is_within_the_changed_spans(
    before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]], last: int, servers: set[str]
) -> None:
    def following(known: dict[str, tuple[int, ...]]) -> int | None:
        return next((moment for moment in restarts_of_session(known, servers) if moment > last), None)

    spans = restarts.changed_spans(before, after)
    if following(before) != following(after):
        assert any(low <= last < high for low, high in spans)


def test_a_restart_concerns_only_what_happened_since_the_one_before() -> None:
    assert restarts.changed_spans({"": (10, 20)}, {"": (10, 20, 30)}) == [(20, 30)]
    assert restarts.changed_spans({"": (10, 20)}, {"": (10, 20)}) == []
