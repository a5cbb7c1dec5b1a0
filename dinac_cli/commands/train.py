"""`dinac train`: trains a model, shows the progress, and prints the result."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.signals import STOPPING, SignalledStop, stop_on_signals
from dinac_cli.commands.screen.summary import STOPPED
from dinac_cli.commands.screen.tables import format_duration
from dinac_cli.commands.values import complete, real, whole
from dinac_cli.errors import UsageError

if TYPE_CHECKING:
    from dinac_cli.jobs.executor.control import StopRequest
    from dinac_cli.training.session import Progress, TrainRequest

_SMOOTHING = 0.98

Out = Annotated[
    str | None,
    typer.Argument(metavar="OUT", help="The last argument: the checkpoint folder to make."),
]
Init = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        autocompletion=complete(("nano", "d2", "klt")),
        help="Model to start from: a name as for --model, or klt, the optimal linear transform of "
        "IMG.",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        parser=real("--minutes", lambda value: 0.01 <= value < math.inf, "0.01 minutes or more"),
        metavar="M",
        help="Minutes to train; the learning rate ends at zero.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        parser=whole("--steps", 1),
        metavar="N",
        help="Number of training steps, instead of --minutes.",
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size", parser=whole("--batch-size", 1), metavar="N", help="Crops per step."
    ),
]
Crop = Annotated[
    int,
    typer.Option(
        parser=whole("--crop", 32, wanted="32 pixels or more"),
        metavar="PIXELS",
        help="Side of a crop; smaller images are skipped.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        parser=whole("--seed", 0),
        metavar="N",
        help="Seed of all random numbers in the training.",
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="A DINOv2 checkpoint folder. If the model has a class head, the head learns DINOv2 "
        "features.",
    ),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the model first; pays off after several minutes.")
]


def train(
    *,
    images: opt.Images = None,
    out: Out = None,
    out_option: opt.OutOption = None,
    init: Init = "nano",
    minutes: Minutes = None,
    steps: Steps = None,
    batch_size: BatchSize = 64,
    crop: Crop = 128,
    seed: Seed = 0,
    teacher: Teacher = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    compiled: Compile = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train or fine-tune a model on your own images.

    OUT becomes a checkpoint folder that every command takes as --model.

    If the training is stopped or killed, the same command resumes it.
    """
    from dinac_cli.codec.machine import configure_threads
    from dinac_cli.training.recipe import UNPACED_STEPS, TrainRecipe

    console = Console(quiet=quiet, verbose=verbose)
    images, out = opt.split_out(images, out, out_option)
    paths = _list_images(images, out)
    if (steps is None) == (minutes is None):
        raise UsageError("say how long to train: give either --minutes or --steps")
    configure_threads()
    # This import loads torch, which reads the settings that configure_threads made.
    from dinac_cli.training.session import TrainRequest

    recipe = TrainRecipe(steps=steps or UNPACED_STEPS, batch_size=batch_size, crop=crop, seed=seed)
    request = TrainRequest(
        paths=paths,
        out=Path(out),
        init=init,
        recipe=recipe,
        minutes=minutes,
        device=device,
        dtype=dtype,
        compiled=compiled,
        teacher=None if teacher is None else Path(teacher),
    )
    raise typer.Exit(_run_training(request, console))


def _list_images(named: list[str] | None, out: str) -> tuple[str, ...]:
    """Returns the paths of the images. Raises UsageError for a missing file and for `-`."""
    from dinac_cli.jobs.request import IMAGES, InputRequest

    paths = []
    for entry in InputRequest(paths=tuple(named or ())).select(IMAGES, out):
        if entry.problem or entry.path is None:
            reason = entry.problem or "cannot be trained on; name files or folders"
            raise UsageError(f"{entry.label}: {reason}")
        paths.append(entry.path)
    return tuple(paths)


def _run_training(request: TrainRequest, console: Console) -> int:
    """Trains and prints the result; returns the exit code. Raises OutputError if OUT is in use."""
    from dinac_cli.storage.lock import hold_folder
    from dinac_cli.training.session import check_out

    check_out(request.out)
    refusal = (
        f"{request.out}: another training is writing there; wait for its end, or choose another OUT"
    )
    with stop_on_signals(console) as stop, hold_folder(str(request.out), refusal):
        return _train(request, stop, console)


def _train(request: TrainRequest, stop: SignalledStop, console: Console) -> int:
    from dinac_cli.training.session import TrainingRun

    progress = TrainProgress(request.recipe.batch_size, stop)
    run = TrainingRun(request)
    if run.check_finished():
        console.print_result(f"{request.out} is already trained")
        return 0
    if run.resumed:
        console.say(f"resuming from step {run.first_step}")
    for reason in run.skipped:
        console.warn(reason)
    with console.track("train", progress) as update:
        for step in run.go():
            progress.add(step)
            update()
            if stop:
                break
    if stop.exit_code is not None:
        run.save()
        console.say(STOPPED)
        return stop.exit_code
    values = run.finish()
    images = "1 image" if run.count == 1 else f"{run.count} images"
    mean_db = sum(values) / len(values)
    before = "" if run.start_db is None else f" ({run.start_db:.2f} before)"
    measured = f"{len(values)} held out" if run.is_held_out else "the training images"
    console.print_result(
        f"{run.steps} steps on {images}; {mean_db:.2f} dB on {measured}{before}; "
        f"use it with --model {request.out}"
    )
    return stop.exit_code or 0  # a signal may have come during `finish`


@dataclass
class TrainProgress:
    """The state of a training, for the progress display."""

    batch_size: int
    stop: StopRequest
    first: int | None = None
    done: int = 0
    total: int | None = None
    train_db: float | None = None
    held_out_db: float | None = None
    started: float = field(default_factory=time.monotonic)

    def add(self, progress: Progress) -> None:
        """Adds one step."""
        step = progress.step
        self.first = step.number if self.first is None else self.first
        self.done, self.total = step.number + 1, progress.steps
        if step.psnr_db is not None:
            before = step.psnr_db if self.train_db is None else self.train_db
            self.train_db = _SMOOTHING * before + (1 - _SMOOTHING) * step.psnr_db
        if progress.held_out_db is not None:
            self.held_out_db = progress.held_out_db

    def describe_line(self, width: int) -> str:
        """Returns at most `width` characters of text, the most important values first."""
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
