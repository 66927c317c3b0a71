"""What several processes decide together, and what each of them knows."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from dhcli.data.loading.batching import Share
from dhcli.errors import ConfigError, DhError
from dhcli.runtime.team import Team
from tests.threads import PartedError, together


def test_alone_every_decision_is_its_own() -> None:
    team = Team.alone()

    team.barrier()

    assert (team.first, team.size, team.share) == (True, 1, Share(0, 1))
    assert (team.any(True), team.any(False)) == (True, False)
    assert team.gather([3, 1]) == [3, 1]
    assert team.mean({"a": 6.0}, 4) == {"a": 1.5}
    assert team.from_first(lambda: "made") == "made"


def test_minus_zero_stays_what_it_is() -> None:
    assert str(Team.alone().mean({"a": -0.0}, 1)) == "{'a': -0.0}"


@pytest.mark.parametrize("who", [0, 1, 2])
def test_one_yes_is_everybodys(who: int) -> None:
    said = together(3, lambda team: (team.any(team.rank == who), team.any(False)))

    assert said == [(True, False)] * 3


def test_rows_come_in_the_order_of_the_ranks() -> None:
    said = together(3, lambda team: team.gather([(team.rank, i) for i in range(team.rank)]))

    assert said == [[(1, 0), (2, 0), (2, 1)]] * 3


def test_means_weigh_by_what_each_has_counted() -> None:
    """1 image of loss 8 and 3 images of loss 4 are 5 on average, not 6."""
    counted = [({"a": 8.0, "b": 1.0}, 1), ({"a": 12.0, "b": 3.0}, 3), ({}, 0)]

    said = together(3, lambda team: team.mean(*counted[team.rank]))

    assert said == [{"a": 5.0, "b": 1.0}] * 3


def test_where_nothing_is_counted_there_is_no_mean() -> None:
    assert together(2, lambda team: team.mean({}, 0)) == [{}, {}]


def test_only_the_first_makes_and_all_have_it() -> None:
    made: list[int] = []

    def work(team: Team) -> str:
        def make() -> str:
            made.append(team.rank)
            return "folder"

        return team.from_first(make)

    assert together(3, work) == ["folder"] * 3
    assert made == [0]


def test_the_first_ones_error_is_everybodys() -> None:
    def work(team: Team) -> None:
        def fail() -> None:
            raise ConfigError("is full", where="disk", hint="make room")

        team.from_first(fail)

    for error in together(3, work):
        assert isinstance(error, ConfigError)
        assert (error.what, error.where, error.hint) == ("is full", "disk", "make room")


def test_processes_that_part_do_not_wait_for_ever() -> None:
    said = together(2, lambda team: team.rank or team.any(True))

    assert isinstance(said[0], PartedError)
    assert said[1] == 1


def test_errors_travel_whole() -> None:
    error = pickle.loads(pickle.dumps(DhError("what", where="where", hint="hint")))

    assert (str(error), error.what, error.where, error.hint) == (
        *("where: what", "what", "where"),
        "hint",
    )


def test_a_barrier_lets_nobody_pass_before_all_are_there() -> None:
    came: list[Any] = []

    def work(team: Team) -> int:
        came.append(team.rank)
        team.barrier()
        return len(came)

    assert together(3, work) == [3, 3, 3]
