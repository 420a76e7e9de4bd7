"""The memory that slow clients hold is bounded, and who holds most of it loses first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracker.ingest.memory_budget import Holding, MemoryBudget

ATTACKER, HONEST = "192.0.2.1", "198.51.100.7"


def holding(budget: MemoryBudget, remote: str, cut: list[str], name: str = "") -> Holding:
    return budget.hold(remote, lambda: cut.append(name or remote))


def test_of_the_peer_that_holds_most_the_connection_that_holds_longest_is_cut_off() -> None:
    budget, cut = MemoryBudget(100), list[str]()
    honest = holding(budget, HONEST, cut)
    honest.add(10)
    held = [holding(budget, ATTACKER, cut, f"attacker {n}") for n in range(20)]
    for each in held:
        each.add(10)
    assert cut == [f"attacker {n}" for n in range(11)]
    assert not honest.was_cut
    assert budget.held_bytes == 100
    held[0].add(1_000)  # one that was cut off holds nothing
    assert budget.held_bytes == 100


def test_a_connection_that_holds_too_much_alone_is_cut_off_and_no_other() -> None:
    budget, cut = MemoryBudget(100), list[str]()
    holding(budget, HONEST, cut).add(30)
    holding(budget, ATTACKER, cut).add(101)
    assert cut == [ATTACKER]


def test_one_network_of_ipv6_is_one_peer_and_mapped_addresses_are_those_of_ipv4() -> None:
    budget, cut = MemoryBudget(100), list[str]()
    for n in range(4):
        holding(budget, f"2001:db8:1:2::{n}", cut, "attacker").add(15)
    for n in range(3):
        holding(budget, f"::ffff:198.51.100.{n}", cut, "honest").add(15)
    assert cut == ["attacker"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 60) | st.none())),
    st.integers(0, 100),
)
def test_the_bound_holds_and_every_byte_is_counted_once(events: list[tuple[str, int, int | None]], bound: int) -> None:
    budget = MemoryBudget(bound)
    held: dict[tuple[str, int], Holding] = {}
    for peer, n, count in events:
        each = held.setdefault((peer, n), holding(budget, peer, []))
        if count is None:
            each.release()
            del held[peer, n]
        else:
            each.add(count)
        living = [other for other in held.values() if not other.was_cut]
        assert budget.held_bytes == sum(other.held_bytes for other in living) <= bound
        assert all(other.held_bytes == 0 for other in held.values() if other.was_cut)
