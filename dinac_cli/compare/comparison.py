"""The request to compare models on one set of images, and its run."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from dinac_cli.codec.handle import DeviceChoice
from dinac_cli.compare.card import is_card, write_card
from dinac_cli.compare.comparison_page import make_page
from dinac_cli.compare.figures import Comparison, Speed, summarise_variant
from dinac_cli.compare.gallery import Gallery, choose_shown
from dinac_cli.compare.measuring import Board, open_measure_job
from dinac_cli.compare.result_files import ResultFile, open_result_file
from dinac_cli.compare.throughput import (
    SpeedMemory,
    describe_machine,
    list_speeds,
    measure_speed,
)
from dinac_cli.compare.variants import ComparedModel, Variant, list_variants, open_models
from dinac_cli.errors import OutputError, UsageError
from dinac_cli.images.description import format_description
from dinac_cli.jobs.encode import EncodeOptions
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.local import run_opened
from dinac_cli.jobs.executor.phase import Watch, ignore_phase, watch_items
from dinac_cli.jobs.image_sets import is_archive
from dinac_cli.jobs.listing import SCANNING
from dinac_cli.jobs.request import (
    IMAGES,
    Announce,
    InputRequest,
    Request,
    Run,
    keep_quiet,
    refuse_file_name,
)
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.aliases import AUTO
from dinac_cli.report.origin import PageOrigin, is_report, read_origin
from dinac_cli.storage.atomic import TEMPORARY_PREFIX, describe_write_error, write_atomically
from dinac_cli.storage.inputs import STDIN, Input
from dinac_cli.storage.lock import hold_folder
from dinac_cli.storage.urls import hide_secrets, is_url

RESULTS, SPEEDS, FIGURES, CARD, PAGE = (
    "results",
    "speeds.json",
    "compare.json",
    "card.md",
    "index.html",
)
"""The files and folders in OUT, besides the pictures."""


@dataclass(frozen=True, kw_only=True)
class CompareRequest(Request["CompareRun"]):
    """A request to compare models on `inputs`, and to write a page and a card into the folder OUT.

    Each model of `models` (as --model names it) is measured in each of `precisions` with each
    number of decoder `steps`. `baseline` is the model of the ratios of speed and memory; None is
    the last one of several. `shown` images leave pictures. `speed` says whether speeds are
    measured: again (True), never (False), or if OUT holds none (None). `command` is the command
    line, for the card.
    """

    inputs: InputRequest
    out: str
    models: tuple[str, ...] = (AUTO,)
    precisions: tuple[str, ...] = ("bf16",)
    steps: tuple[int, ...] = (1,)
    options: EncodeOptions = field(default_factory=EncodeOptions)
    device: DeviceChoice = field(default_factory=DeviceChoice)
    baseline: str | None = None
    seed: int = 0
    shown: int = 24
    speed: bool | None = None
    overwrite: bool = False
    command_line: str = ""

    command: ClassVar[str] = "compare"

    def open(self, announce: Announce = keep_quiet) -> CompareRun:
        self._check()
        selection = self.inputs.select(IMAGES, self.out)
        models = open_models(self.models, self.device, announce)
        variants = tuple(
            list_variants(models, self.precisions, self.steps, self.options, self.seed)
        )
        return CompareRun(
            selection=selection,
            request=self,
            models=models,
            variants=variants,
            baseline=self._choose_baseline(models),
            announce=announce,
        )

    def _check(self) -> None:
        """Raises UsageError if options are wrong, or if OUT holds something else."""
        for path in self.inputs.paths:
            if path == STDIN or is_url(path) or is_archive(path):
                raise UsageError(
                    f"{hide_secrets(path)}: compare reads image files and folders of this machine; "
                    "copy or unpack the images first"
                )
        if is_url(self.out):
            raise UsageError(f"{hide_secrets(self.out)}: OUT must be a local folder; name one")
        for precision in self.precisions:
            replace(self.options, precision=precision).require_consistent()
        if self.options.skip_small:
            self.options.geometry.require_refusal()
        refuse_file_name(self.out)
        check_out(self.out)

    def _choose_baseline(self, models: tuple[ComparedModel, ...]) -> str | None:
        """Returns the label of the baseline; None if there is only one model. Raises UsageError."""
        if self.baseline is None:
            return models[-1].label if len(models) > 1 else None
        for model in models:
            if self.baseline in (model.named, model.label):
                return model.label
        raise UsageError(
            f"--baseline {self.baseline}: not among the compared models; "
            f"choose one of {', '.join(model.named for model in models)}"
        )


def check_out(out: str) -> None:
    """Raises UsageError if OUT is a file, or a folder that holds other files and no comparison."""
    if not os.path.lexists(out):
        return
    if not os.path.isdir(out):
        raise UsageError(f"{out}: OUT, the last argument, is an existing file; name a folder")
    names = {name for name in os.listdir(out) if not name.startswith(TEMPORARY_PREFIX)}
    if names - {RESULTS} and not _holds_results(out):
        raise UsageError(f"{out} holds other files and no comparison; name a new folder")


def _holds_results(out: str) -> bool:
    folder = os.path.join(out, RESULTS)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return any(name.endswith(".jsonl") for name in names)


@dataclass(kw_only=True)
class CompareRun(Run):
    """A comparison that is ready to start.

    `comparison` is what it found; None before the end, and if no image was measured in all
    variants. `has_written` is false if everything was up to date.
    """

    work: Callable[[RunControl], Generator[FileResult, None, None]] = field(init=False)
    request: CompareRequest
    models: tuple[ComparedModel, ...]
    variants: tuple[Variant, ...]
    baseline: str | None
    announce: Announce = keep_quiet
    comparison: Comparison | None = None
    has_written: bool = False

    def __post_init__(self) -> None:
        self.work = self._compare
        self._names: list[str] = []
        self._board = Board()
        self._results: dict[Variant, ResultFile] = {}
        options = self.request.options
        reading = {
            "geometry": options.geometry.text,
            "background": options.background_name,
            "hdr": options.hdr,
            "damaged": options.damaged,
        }
        self._settings: dict[str, Any] = {**reading, "seed": self.request.seed}
        self._gallery = Gallery(
            self.request.out, format_description(reading), overwrite=self.request.overwrite
        )

    def count(self, watch: Watch = ignore_phase) -> int:
        """Lists the images. Returns how many results come: one per image and model.

        Raises UsageError if there are none, or if two have the same name.
        """
        assert self.selection is not None
        labels: dict[str, str] = {}
        for entry in watch_items(self.selection, watch, SCANNING):
            name = sys.intern(entry.name)
            key = name.lower() if self._gallery.folds_case else name
            if key in labels and not entry.problem:
                raise UsageError(
                    f"{labels[key]} and {entry.label} have the same name; name one folder of "
                    "both, or rename one"
                )
            if key not in labels:
                self._names.append(name)
            labels[key] = entry.label
        if not labels:
            self.selection.count()  # says why
        return self.total

    @property
    def total(self) -> int:
        """The number of results: one per image and model."""
        return len(self._names) * len(self.models)

    def _compare(self, control: RunControl) -> Generator[FileResult, None, None]:
        out = self.request.out
        refusal = f"{out}: another run of compare is writing there; wait for its end"
        with hold_folder(out, refusal), ExitStack() as stack:
            check_out(out)
            self._open_results(stack)
            yield from self._measure_all(control)
            if not control.stop:
                yield from self._complete_pictures(control)
            if not control.stop:
                self._finish(control)

    def _open_results(self, stack: ExitStack) -> None:
        folder = os.path.join(self.request.out, RESULTS)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as exc:
            raise describe_write_error(exc, folder) from exc
        for variant in self.variants:
            results = open_result_file(
                folder, variant, self._describe(variant), overwrite=self.request.overwrite
            )
            stack.callback(results.close)
            self._results[variant] = results

    def _describe(self, variant: Variant) -> dict[str, Any]:
        """Returns the facts in the first line of a variant's results."""
        handle = variant.model.handle
        return {
            "digest": variant.digest,
            "model": variant.model.label,
            "latent_space": handle.identity.latent_space,
            "weights": handle.identity.weights,
            "compute": handle.compute,
            "precision": variant.precision,
            "steps": variant.steps,
            **self._settings,
        }

    def _measure_all(self, control: RunControl) -> Iterator[FileResult]:
        """Measures all images with each model. An image that failed is not measured again."""
        shown = set(choose_shown(self._names, self.request.shown, lambda name: True))
        for model in self.models:
            if control.stop:
                return
            for name in sorted(self._board.failed | self._board.passed_over):
                yield FileResult(name, Status.SKIPPED, name=name)
            yield from self._run_job(model, None, shown, control)

    def _complete_pictures(self, control: RunControl) -> Iterator[FileResult]:
        """Makes the pictures that still lack, because another image failed; removes the others."""
        tried: list[str] = []
        while True:
            shown = self._choose_shown()
            lacking = [name for name in shown if not self._has_pictures(name)]
            if control.stop or lacking == tried:
                break
            tried = lacking
            for model in self.models:
                yield from self._run_job(model, set(lacking), set(shown), control)
        # If no image could be measured, the pictures of an earlier run stay.
        if (shown or self.request.shown == 0) and not control.stop:
            self._gallery.remove_others(shown)

    def _choose_shown(self) -> list[str]:
        return choose_shown(self._names, self.request.shown, self._board.is_complete)

    def _has_pictures(self, name: str) -> bool:
        for variant, results in self._results.items():
            measure = results.find(name)
            if measure is None or not self._gallery.has(variant, name, measure):
                return False
        return True

    def _run_job(
        self,
        model: ComparedModel,
        names: Collection[str] | None,
        shown: Collection[str],
        control: RunControl,
    ) -> Iterator[FileResult]:
        """Measures the images called `names`, or all of them, with one model.

        Only the first model's results hold the warnings about an image. Results that repeat,
        because only pictures lack, are not yielded again.
        """
        results = {
            variant: self._results[variant] for variant in self.variants if variant.model is model
        }
        open_job = partial(
            open_measure_job,
            model,
            results,
            self.request.options,
            self._gallery,
            shown,
            self._board,
        )
        with closing(run_opened(open_job, self._list_entries(names), control)) as made:
            for result in made:
                if result.failed:
                    self._board.failed.add(result.name)
                self.has_written |= result.status is Status.MEASURED
                if names is None or result.failed:
                    yield result if model is self.models[0] else replace(result, warnings=())
        model.release()
        _free_memory()

    def _list_entries(self, names: Collection[str] | None) -> Iterator[Input]:
        assert self.selection is not None
        known = set(self._names) if names is None else names
        unwanted = self._board.failed | self._board.passed_over
        return (
            entry for entry in self.selection if entry.name in known and entry.name not in unwanted
        )

    def _finish(self, control: RunControl) -> None:
        """Summarises, times the models, and writes the files. Does nothing without a figure."""
        images = [name for name in self._names if self._board.is_complete(name)]
        if not images:
            return
        machine = describe_machine(self.models[0].handle)
        speeds = self._list_speeds(machine, control)
        if control.stop:
            return
        comparison = Comparison(
            images=images,
            left_out=len(self._board.failed),
            shown=self._choose_shown(),
            models=self.models,
            variants=[
                summarise_variant(variant, self._list_measures(variant, images))
                for variant in self.variants
            ],
            speeds=speeds,
            baseline=self.baseline,
            machine=machine,
            settings=self._settings,
            command=self.request.command_line,
            results=self._results,
        )
        self._write(comparison)
        self.comparison = comparison

    def _list_measures(self, variant: Variant, images: list[str]) -> Iterator[Any]:
        return (self._results[variant].find(name) for name in images)

    def _list_speeds(self, machine: dict[str, Any], control: RunControl) -> list[Speed]:
        """Returns the speeds. Measures those that OUT does not hold."""
        if self.request.speed is False:
            return []
        memory = SpeedMemory(os.path.join(self.request.out, SPEEDS), machine)
        measures_again = self.request.speed is True or self.request.overwrite
        speeds: list[Speed] = []
        told: ComparedModel | None = None
        for model, task in list_speeds(self.models, self.request.steps):
            if control.stop:
                break
            found = None if measures_again else memory.find(model, task)
            if found is None:
                if told is not model:
                    self.announce(f"timing {model.label} at {task.side}x{task.side} pixels")
                    told, self.has_written = model, True
                found = measure_speed(model, task)
                memory.add(model, task, found)
            speeds.append(found)
        return speeds

    def _write(self, comparison: Comparison) -> None:
        """Writes the figures, the card and the page, unless they are up to date."""
        figures = json.dumps(comparison.to_json(), indent=1).encode("ascii") + b"\n"
        self._update(FIGURES, figures, _is_figures)
        self._update(CARD, write_card(comparison), is_card)
        digest = hashlib.sha256(figures).hexdigest()[:16]
        origin = PageOrigin(tuple(model.label for model in self.models), digest)
        path = os.path.join(self.request.out, PAGE)
        if read_origin(path) != origin or self.has_written:
            try:
                page = make_page(comparison, self._gallery, self.request.out, origin)
            except OSError as exc:
                raise OutputError(
                    f"{path}: cannot be made: {exc}; run the same command again"
                ) from exc
            self._update(PAGE, page, is_report)

    def _update(self, name: str, data: bytes, is_ours: Callable[[str], bool]) -> None:
        path = os.path.join(self.request.out, name)
        try:
            with open(path, "rb") as file:
                if file.read() == data:
                    return
        except OSError:
            pass
        write_atomically(path, data, replace=self.request.overwrite, is_ours=is_ours)
        self.has_written = True


def _is_figures(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"variants", "speeds"} <= content.keys()


def _free_memory() -> None:
    """Frees the memory of a model before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
