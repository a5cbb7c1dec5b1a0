"""A plan encodes a sample of the images and estimates the time of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.jobs import trial
from dinac_cli.jobs.encode import EncodeOptions
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.trial import TRIAL_FILES, Trial, TrialSample, run_trial
from dinac_cli.storage.inputs import Input


def offer(count: int) -> list[Input]:
    return [Input(f"{number}.jpg", f"{number}.jpg") for number in range(count)]


def test_a_sample_of_few_images_holds_all_in_order() -> None:
    sample = TrialSample()
    entries = offer(TRIAL_FILES)
    for entry in entries:
        sample.add(entry)
    assert sample.entries == entries


def test_a_sample_of_many_images_is_spread_out_and_independent_of_their_order() -> None:
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


def test_the_start_up_counts_once() -> None:
    trial = Trial(5, start_seconds=2.0, seconds_per_pixel=1e-6, compute="cpu/f32")
    assert trial.estimate_seconds(0) == 2.0
    assert trial.estimate_seconds(3_000_000) == 5.0


BATCH_SECONDS = 0.5


class Machine:
    """A device that encodes `batch_size` images of 64x64 at once, in half a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, batch_size: int, status: Status) -> None:
        self.now = 0.0
        self.taken = 0
        self._batch_size = batch_size
        self._status = status
        engine = SimpleNamespace(
            compute="cuda/bf16", patch=16, batch_size=lambda height, width: batch_size
        )
        self.model = cast(ModelHandle, SimpleNamespace(engine=engine))
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr(trial, "encode_inputs", self._encode)

    def _encode(self, entries: Iterable[Input], *_: Any, **__: Any) -> Iterator[FileResult]:
        for number, entry in enumerate(entries):
            if number % self._batch_size == 0:
                self.now += BATCH_SECONDS
            self.taken += 1
            yield FileResult(entry.label, self._status, width=64, height=64)

    def try_images(self, count: int, control: RunControl | None = None) -> Trial | None:
        sample = TrialSample()
        for entry in offer(count):
            sample.add(entry)
        return run_trial(sample, self.model, EncodeOptions(), control or RunControl())


def test_the_pace_of_a_batch_as_large_as_the_sample_comes_from_several_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Machine(monkeypatch, TRIAL_FILES, Status.WRITTEN).try_images(1000)
    assert found is not None
    assert found.files == TRIAL_FILES
    seconds = BATCH_SECONDS * 1000 / TRIAL_FILES
    assert found.estimate_seconds(1000 * 64 * 64) == pytest.approx(seconds, rel=0.3)


@pytest.mark.parametrize(("count", "batches"), [(1, 1), (TRIAL_FILES, 1), (3, 3)])
def test_the_estimate_of_few_images_is_the_time_of_their_trial(
    monkeypatch: pytest.MonkeyPatch, count: int, batches: int
) -> None:
    machine = Machine(monkeypatch, count // batches, Status.WRITTEN)
    found = machine.try_images(count)
    assert machine.taken == count
    assert found is not None
    assert found.estimate_seconds(count * 64 * 64) == pytest.approx(BATCH_SECONDS * batches)


def test_a_trial_ends_if_no_image_can_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 1, Status.FAILED)
    assert machine.try_images(1000) is None
    assert machine.taken == TRIAL_FILES


def test_a_trial_on_a_slow_device_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 1, Status.WRITTEN)
    found = machine.try_images(TRIAL_FILES)
    assert found is not None
    assert found.files == machine.taken == 6
    assert found.seconds_per_pixel == pytest.approx(BATCH_SECONDS / 64 / 64)


def test_a_stop_request_ends_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, control = Machine(monkeypatch, 1, Status.WRITTEN), RunControl()
    control.stop.set()
    assert machine.try_images(TRIAL_FILES, control) is not None
    assert machine.taken == 1
