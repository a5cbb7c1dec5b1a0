"""The sample that a plan tries, and what it makes of it."""

from __future__ import annotations

from dinac_cli.files.inputs import Input
from dinac_cli.pipeline.trial import TRIAL_FILES, Trial, TrialSample


def offer(count: int) -> list[Input]:
    return [Input(f"{number}.jpg", f"{number}.jpg") for number in range(count)]


def test_few_are_all_tried_in_their_order() -> None:
    sample = TrialSample()
    entries = offer(TRIAL_FILES)
    for entry in entries:
        sample.add(entry)
    assert sample.entries == entries


def test_of_many_a_part_from_all_over_whatever_the_order() -> None:
    forwards, backwards = TrialSample(), TrialSample()
    entries = offer(1000)
    for entry in entries:
        forwards.add(entry)
    for entry in reversed(entries):
        backwards.add(entry)
    assert forwards.entries == backwards.entries[::-1]
    numbers = [entries.index(entry) for entry in forwards.entries]
    assert len(numbers) == TRIAL_FILES
    assert numbers == sorted(numbers)
    assert {number // 250 for number in numbers} == {0, 1, 2, 3}


def test_the_start_counts_once() -> None:
    trial = Trial(5, start_seconds=2.0, seconds_per_pixel=1e-6, compute="cpu/f32")
    assert trial.estimate_seconds(0) == 2.0
    assert trial.estimate_seconds(3_000_000) == 5.0
