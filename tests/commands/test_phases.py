"""What a terminal shows of slow work that has phases instead of files."""

from __future__ import annotations

import time

import pytest

from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.progress import PhaseProgress, show_phases
from dinac_cli.commands.screen.signals import STOPPING
from dinac_cli.commands.train import TrainProgress
from dinac_cli.jobs.executor.control import StopRequest
from dinac_cli.jobs.executor.phase import Phase
from dinac_cli.training.session import Progress
from dinac_cli.training.trainer import StepReport


class Clock:
    """Stands in for time.monotonic."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


class TestPhaseProgress:
    def test_shows_the_phase_its_time_and_its_eta(self, clock: Clock) -> None:
        progress = PhaseProgress()
        assert progress.describe_line(80) == ""
        progress.begin(Phase("reading the images", 0, 8))
        clock.now += 6
        assert progress.describe_line(80) == "reading the images  6.0 s"
        progress.begin(Phase("reading the images", 2, 8, "a.png"))
        assert progress.describe_line(80) == "reading the images: a.png  6.0 s  ETA 18.0 s"
        assert progress.describe_line(40) == "reading the images: a.png  ETA 18.0 s"
        assert progress.describe_line(7) == "reading"
        assert (progress.done, progress.total) == (2, 8)

    def test_time_starts_again_with_another_phase(self, clock: Clock) -> None:
        progress = PhaseProgress()
        progress.begin(Phase("reading", 8, 8))
        clock.now += 6
        progress.begin(Phase("loading"))
        clock.now += 2
        assert progress.describe_line(80) == "loading  2.0 s"
        assert (progress.done, progress.total) == (0, None)

    def test_quick_work_shows_nothing(self, clock: Clock) -> None:
        progress = PhaseProgress(delay_seconds=0.5)
        progress.begin(Phase("scanning", 12))
        clock.now += 0.4
        assert progress.describe_line(80) == ""
        clock.now += 0.2
        assert progress.describe_line(80) == "scanning  0.6 s"

    def test_says_that_it_stops(self) -> None:
        stop = StopRequest()
        progress = PhaseProgress(stop)
        stop.set()
        assert progress.describe_line(200) == STOPPING

    def test_pipes_show_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        with show_phases(Console(), "train") as watch:
            watch(Phase("reading", 1, 2))
        assert capsys.readouterr() == ("", "")


class TestTrainProgress:
    def test_shows_phases_between_steps(self, clock: Clock) -> None:
        progress = TrainProgress(batch_size=4, stop=StopRequest())
        progress.begin(Phase("reading the images", 3, 9))
        assert (progress.done, progress.total) == (3, 9)
        assert progress.describe_line(80) == "reading the images  0.0 s  ETA 0.0 s"
        progress.add(Progress(StepReport(0, None, 0.0), 11))
        assert (progress.done, progress.total) == (1, 11)
        assert progress.describe_line(80) == "training"
        clock.now += 2
        progress.add(Progress(StepReport(1, 20.0, 0.0), 11, 21.5))
        assert progress.describe_line(80) == "21.50 dB held out  20.00 dB  ETA 18.0 s  2 images/s"
        assert progress.describe_line(40) == "21.50 dB held out  20.00 dB  ETA 18.0 s"
        progress.begin(Phase("writing the checkpoint"))
        assert (progress.done, progress.total) == (0, None)
        assert progress.describe_line(80) == "writing the checkpoint  0.0 s"

    def test_time_before_the_first_step_does_not_count(self, clock: Clock) -> None:
        progress = TrainProgress(batch_size=1, stop=StopRequest())
        clock.now += 3600
        progress.add(Progress(StepReport(7, None, 0.0), None))
        clock.now += 1
        progress.add(Progress(StepReport(8, None, 0.0), None))
        assert progress.describe_line(80) == "1 images/s"

    def test_says_that_it_stops(self) -> None:
        stop = StopRequest()
        progress = TrainProgress(batch_size=1, stop=stop)
        progress.add(Progress(StepReport(0, None, 0.0), 2))
        stop.set()
        assert progress.describe_line(200) == STOPPING
        progress.begin(Phase("reading the images"))
        assert progress.describe_line(200) == STOPPING
