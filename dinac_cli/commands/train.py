"""`dinac train`: trains a model, shows the progress, and prints the result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.progress import PhaseProgress, fit_parts, show_phases
from dinac_cli.commands.screen.signals import STOPPING, SignalledStop, stop_on_signals
from dinac_cli.commands.screen.summary import STOPPED, UNCHECKED, describe_skips
from dinac_cli.commands.screen.tables import count_images, format_duration
from dinac_cli.commands.values import complete, count_or_auto, real, whole
from dinac_cli.errors import Exit, UsageError
from dinac_cli.images.formats import MAX_PIXELS

if TYPE_CHECKING:
    from dinac_cli.jobs.executor.control import StopRequest
    from dinac_cli.jobs.executor.phase import Phase, Watch
    from dinac_cli.training.session import Progress, TrainingRun, TrainRequest

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
        help="Minutes to train; the learning rate ends at zero. A stopped training can be resumed "
        "with more or fewer minutes.",
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
    int | None,
    typer.Option(
        "--batch-size",
        parser=count_or_auto("--batch-size"),
        metavar="N",
        show_default="auto",
        help="Crops per step, or auto: 64, or fewer if --crop is above 128, so that the memory "
        "stays about the same.",
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
    exclude: opt.Exclude = None,
    init: Init = "nano",
    minutes: Minutes = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    crop: Crop = 128,
    seed: Seed = 0,
    background: opt.Background = "white",
    hdr: opt.Hdr = "refuse",
    damaged: opt.Damaged = "fail",
    max_pixels: opt.MaxPixels = MAX_PIXELS,
    teacher: Teacher = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    compiled: Compile = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train or fine-tune a model on your own images.

    OUT becomes a checkpoint folder that every command takes as --model.

    If the training is stopped or killed, the same command resumes it.
    """
    from dinac_cli.codec.compute import refuse_devices
    from dinac_cli.codec.machine import configure_threads
    from dinac_cli.images.color import parse_color
    from dinac_cli.images.damage import parse_damage_choice
    from dinac_cli.jobs.executor.phase import Phase
    from dinac_cli.training.recipe import TrainRecipe, choose_batch_size

    console = Console(quiet=quiet, verbose=verbose, progress=not no_progress)
    images, out = opt.split_out(images, out, out_option)
    refuse_devices(device, "train")
    if (steps is None) == (minutes is None):
        raise UsageError("say how long to train: give either --minutes or --steps")
    with show_phases(console, "train") as watch:
        paths = _list_images(images, exclude, out, watch, console)
        watch(Phase("loading torch"))
        configure_threads()
        # This import loads torch, which reads the settings that configure_threads made.
        from dinac_cli.training.dataset import ReadOptions
        from dinac_cli.training.session import TrainRequest

    size = batch_size or choose_batch_size(crop)
    recipe = TrainRecipe(steps=steps, batch_size=size, crop=crop, seed=seed)
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
        options=ReadOptions(
            background=parse_color(background),
            max_pixels=max_pixels,
            hdr=hdr,
            damaged=parse_damage_choice(damaged),
        ),
    )
    raise typer.Exit(_run_training(request, console))


def _list_images(
    named: list[str] | None, exclude: list[str] | None, out: str, watch: Watch, console: Console
) -> tuple[str, ...]:
    """Returns the paths of the images. Raises UsageError for a missing file and for `-`."""
    from dinac_cli.jobs.executor.phase import watch_items
    from dinac_cli.jobs.listing import SCANNING
    from dinac_cli.jobs.request import IMAGES, InputRequest

    paths, decoded = [], 0
    inputs = InputRequest(paths=tuple(named or ()), exclude=tuple(exclude or ()))
    selection = inputs.select(IMAGES, out)
    for entry in watch_items(selection, watch, SCANNING):
        if entry.problem or entry.path is None:
            reason = entry.problem or "cannot be trained on; name files or folders"
            raise UsageError(f"{entry.label}: {reason}")
        if entry.search is not None and entry.search.skips(entry):
            decoded += 1
        else:
            paths.append(entry.path)
    for line in describe_skips(decoded, "decoded image"):
        console.say(line)
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
    progress = TrainProgress(request.recipe.batch_size, stop)
    try:
        with console.track("train", progress):
            run = _prepare(request, progress)
            is_finished = run.check_finished()
    except _StoppedError:
        return _report_stop(stop, console)
    if is_finished:
        console.print_result(f"{request.out} is already trained")
        return Exit.DONE
    if run.resumed:
        console.say(f"resuming from step {run.first_step}")
    for reason in (*run.survey.skipped, *run.survey.damaged):
        console.warn(reason)
    if run.survey.unchecked:
        console.say(UNCHECKED)
    with console.track("train", progress) as update:
        values = _take_steps(run, progress, update)
    if values is None:
        return _report_stop(stop, console)
    console.print_result(_describe_result(run, request.out, values))
    return stop.exit_code or Exit.DONE  # a signal may have come while the run measured


class _StoppedError(Exception):
    """A signal came before the first step, so there is nothing to save."""


def _prepare(request: TrainRequest, progress: TrainProgress) -> TrainingRun:
    """Reads the images and loads the model. After a signal, raises _StoppedError."""
    from dinac_cli.training.session import TrainingRun

    def watch(phase: Phase) -> None:
        if progress.stop and not progress.is_training:
            raise _StoppedError
        progress.begin(phase)

    return TrainingRun(request, watch)


def _take_steps(
    run: TrainingRun, progress: TrainProgress, update: Callable[[], None]
) -> list[float] | None:
    """Trains and measures. Returns the PSNR of each held-out image in dB.

    After a signal, saves the state and returns None.
    """
    progress.is_training = True
    for step in run.go():
        progress.add(step)
        update()
        if progress.stop:
            break
    if progress.stop:
        run.save()
        return None
    return run.finish()


def _report_stop(stop: SignalledStop, console: Console) -> int:
    console.say(STOPPED)
    assert stop.exit_code is not None, "only a signal stops a training"
    return stop.exit_code


def _describe_result(run: TrainingRun, out: Path, values: Sequence[float]) -> str:
    mean_db = sum(values) / len(values)
    before = "" if run.start_db is None else f" ({run.start_db:.2f} before)"
    measured = f"{len(values)} held out" if run.is_held_out else "the training images"
    is_better = run.start_db is None or mean_db > run.start_db
    advice = f"use it with --model {out}" if is_better else "it is no better yet: train it longer"
    steps = "1 step" if run.steps == 1 else f"{run.steps} steps"
    return f"{steps} on {count_images(run.count)}; {mean_db:.2f} dB on {measured}{before}; {advice}"


@dataclass
class TrainProgress:
    """The state of a training, for the progress display: a phase, or the steps.

    `is_training` is false before the first step. `taken` is the number of steps taken so far,
    `steps` the number of all steps (None if unknown).
    """

    batch_size: int
    stop: StopRequest
    is_training: bool = False
    taken: int = 0
    steps: int | None = None
    train_db: float | None = None
    held_out_db: float | None = None

    def __post_init__(self) -> None:
        self._phase: PhaseProgress | None = None
        self._first: tuple[int, float] | None = None  # number and time of the first step shown

    def begin(self, phase: Phase) -> None:
        """Shows a phase until the next step."""
        if self._phase is None:
            self._phase = PhaseProgress(self.stop)
        self._phase.begin(phase)

    def add(self, progress: Progress) -> None:
        """Adds one step."""
        step = progress.step
        self.taken, self.steps = step.number + 1, progress.steps
        if self._first is None:
            self._first = self.taken, time.monotonic()
        if step.psnr_db is not None:
            before = step.psnr_db if self.train_db is None else self.train_db
            self.train_db = _SMOOTHING * before + (1 - _SMOOTHING) * step.psnr_db
        if progress.held_out_db is not None:
            self.held_out_db = progress.held_out_db
        self._phase = None

    @property
    def done(self) -> int:
        """Number of finished items of the phase, or of steps."""
        return self.taken if (phase := self._phase) is None else phase.done

    @property
    def total(self) -> int | None:
        """Number of all items of the phase, or of all steps; None if unknown."""
        return self.steps if (phase := self._phase) is None else phase.total

    def describe_line(self, width: int) -> str:
        """Returns at most `width` characters of text; drops the least important parts first."""
        if (phase := self._phase) is not None:
            return phase.describe_line(width)
        if self.stop:
            return STOPPING[:width]
        parts = []
        if self.held_out_db is not None:
            parts.append((0, f"{self.held_out_db:.2f} dB held out"))
        if self.train_db is not None:
            parts.append((1, f"{self.train_db:.2f} dB"))
        speed = self._steps_per_second()
        if speed and self.steps is not None:
            parts.append((2, f"ETA {format_duration((self.steps - self.taken) / speed)}"))
        if speed:
            parts.append((3, f"{speed * self.batch_size:.0f} images/s"))
        return fit_parts(parts or [(0, "training")], width)

    def _steps_per_second(self) -> float | None:
        """Returns the speed since the first step, or None before the second step."""
        if self._first is None or self.taken <= self._first[0]:
            return None
        number, started = self._first
        return (self.taken - number) / max(1e-6, time.monotonic() - started)
