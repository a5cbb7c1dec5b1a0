"""What a training run shows, and how it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dinac_cli.commands.run import format_duration
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.signals import STOPPING, SignalledStop, stop_on_signals
from dinac_cli.errors import UsageError
from dinac_cli.jobs.executor.control import StopRequest
from dinac_cli.jobs.request import Selection
from dinac_cli.storage.lock import hold_folder
from dinac_cli.training.recipe import UNPACED_STEPS

if TYPE_CHECKING:
    from dinac_cli.training.session import Progress, TrainRequest

_SMOOTHING = 0.98


@dataclass
class TrainProgress:
    """The figures of a training run, as the progress display shows them."""

    batch_size: int
    stop: StopRequest
    first: int | None = None
    done: int = 0
    total: int | None = None
    train_db: float | None = None
    held_out_db: float | None = None
    started: float = field(default_factory=time.monotonic)

    def add(self, progress: Progress) -> None:
        """Take in one step."""
        step = progress.step
        self.first = step.number if self.first is None else self.first
        self.done, self.total = step.number + 1, progress.steps
        if step.psnr_db is not None:
            before = step.psnr_db if self.train_db is None else self.train_db
            self.train_db = _SMOOTHING * before + (1 - _SMOOTHING) * step.psnr_db
        if progress.held_out_db is not None:
            self.held_out_db = progress.held_out_db

    def describe_line(self, width: int) -> str:
        """Figures in at most `width` characters, most important first."""
        if self.stop:
            return STOPPING[:width]
        if self.first is None:
            return "reading the images"[:width]
        speed = (self.done - self.first) / max(1e-6, time.monotonic() - self.started)
        parts = []
        if self.held_out_db is not None:
            parts.append(f"{self.held_out_db:.2f} dB held out")
        if self.train_db is not None:
            parts.append(f"{self.train_db:.2f} dB")
        if self.total is not None:
            parts.append(f"ETA {format_duration((self.total - self.done) / max(speed, 1e-6))}")
        parts.append(f"{speed * self.batch_size:.0f} images/s")
        return "  ".join(parts)[:width]


def choose_length(steps: int | None, minutes: float | None) -> int:
    """The number of steps of a run. Raises UsageError where its length is not said once."""
    if (steps is None) == (minutes is None):
        raise UsageError("say how long to train: either --minutes or --steps")
    return UNPACED_STEPS if steps is None else steps


def list_paths(selection: Selection) -> list[str]:
    """The images to train on. Raises UsageError where one that was named is not there."""
    paths = []
    for entry in selection:
        if entry.problem or entry.path is None:
            raise UsageError(f"{entry.label}: {entry.problem or 'cannot be trained on'}")
        paths.append(entry.path)
    return paths


def report_training(request: TrainRequest, console: Console) -> int:
    """Run a training and print what becomes of it; returns the exit code.

    Two trainings would mix their files, so the second one into an OUT is refused before any work.
    """
    from dinac_cli.training.session import check_out

    check_out(request.out)
    refusal = f"{request.out}: another training writes there: let it end, or choose another OUT"
    with hold_folder(str(request.out), refusal), stop_on_signals(console) as stop:
        return _train(request, stop, console)


def _train(request: TrainRequest, stop: SignalledStop, console: Console) -> int:
    from dinac_cli.training.session import TrainingRun

    progress = TrainProgress(request.recipe.batch_size, stop)
    run = TrainingRun(request)
    if run.check_finished():
        console.print_result(f"{request.out} is trained already")
        return 0
    if run.resumed:
        console.say(f"dinac: going on from step {run.first_step}")
    for reason in run.left_out:
        console.warn(reason)
    with console.track("train", progress) as update:
        for step in run.go():
            progress.add(step)
            update()
            if stop:
                break
    if stop.exit_code is not None:
        run.save()
        console.say("dinac: stopped before the end; run the same command again to go on")
        return stop.exit_code
    values = run.finish()
    images = "1 image" if run.count == 1 else f"{run.count} images"
    before = "" if run.start_db is None else f" ({run.start_db:.2f} before)"
    where = f"{len(values)} held out" if run.is_held_out else "the same"
    console.print_result(
        f"{run.steps} steps on {images}; {np.mean(values):.2f} dB on {where}{before}; "
        f"try it with --model {request.out}"
    )
    return stop.exit_code or 0  # what was in flight when a signal came was the end
