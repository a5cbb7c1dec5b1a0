"""How many steps fit into a time."""

from __future__ import annotations

import pytest

from dinac_cli.training.session import Pace


def test_steps_fill_the_time_that_is_left() -> None:
    pace = Pace(0, 100.0, 1000.0)
    pace.mark(10, 140.0)  # slow, and not counted
    assert pace.fit(30, 160.0) == 30 + 940
    assert pace.count_spent(160.0) == 60.0


def test_a_slow_beginning_is_made_up_for() -> None:
    pace = Pace(0, 0.0, 1000.0)
    assert pace.fit(20, 40.0) == 500
    assert pace.fit(120, 140.0) == 980  # twice as fast since then
    assert pace.fit(600, 990.0) == 600 + round(10 / (850 / 480))


@pytest.mark.parametrize("now", [10.0, 20.0])
def test_a_run_never_ends_before_the_step_that_it_is_at(now: float) -> None:
    pace = Pace(0, 0.0, 10.0)
    assert pace.fit(7, now) == 7


def test_minutes_before_a_stop_count() -> None:
    pace = Pace(50, 0.0, 100.0, spent=90.0)
    assert pace.fit(60, 5.0) == 70
    assert pace.count_spent(5.0) == 95.0
