"""Runs a training: reads the images, trains, saves states, measures, and writes the checkpoint."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from dinac_cli.codec.quantizer import SENSITIVITY_KEY
from dinac_cli.codec.records import name_creator
from dinac_cli.errors import UsageError
from dinac_cli.images.color import name_color
from dinac_cli.images.pixels import Pixels, crop_pixels
from dinac_cli.jobs.executor.phase import Phase, Watch, ignore_phase, watch_items
from dinac_cli.models.device import resolve_device, resolve_dtype
from dinac_cli.models.dinac.autoencoder import DinacAE, build_model
from dinac_cli.models.dinac.checkpoint import pack_checkpoint
from dinac_cli.storage.atomic import TEMPORARY_PREFIX, remove_dead_temporaries
from dinac_cli.training.dataset import (
    CropSource,
    ReadOptions,
    TrainImage,
    hash_images,
    hold_out,
    load_image,
    survey_images,
)
from dinac_cli.training.klt import NANO_CONFIG, build_klt, measure_patches
from dinac_cli.training.recipe import TrainRecipe
from dinac_cli.training.statistics import (
    measure_reconstruction,
    measure_sensitivity,
    measure_spread,
    measure_whitening,
)
from dinac_cli.training.teacher import Teacher
from dinac_cli.training.trainer import STATE_NAME, StepReport, Trainer, write_file

REPORT_NAME = "training.json"
KLT = "klt"

_HELD_OUT_MEASURED = 8
_STATISTICS_IMAGES = 400
_SENSITIVITY_IMAGES = 4
_MAX_SIDE = 512  # pixels; held-out images are coded every few minutes, so they are cropped to it


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The options of a training run, as plain data.

    `init` is the model to start from, or "klt". Either the recipe has `steps`, or `minutes` limits
    the time of all steps together; the run then ends with the first step that reaches the limit.
    If `compiled` is true, the network is compiled first. `teacher` is the checkpoint folder of a
    DINOv2 from which the class head learns. `save_seconds` is the time between saved states.
    `options` says how the images are read.
    """

    paths: Sequence[str]
    out: Path
    init: str
    recipe: TrainRecipe
    minutes: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    compiled: bool = False
    teacher: Path | None = None
    save_seconds: float = 120.0
    options: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        assert (self.minutes is None) != (self.recipe.steps is None), "one of them is the limit"


@dataclass(frozen=True)
class Progress:
    """One step of a run.

    `steps` is the number of steps of the run. With a time limit, it is estimated from the mean pace
    so far (None: not yet known).
    """

    step: StepReport
    steps: int | None
    held_out_db: float | None = None


def check_out(out: Path) -> None:
    """Raises UsageError if OUT is a file, or a folder that holds other files but no training."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out}: OUT, the last argument, is an existing file; name a folder")
    names = {name for name in os.listdir(out) if not name.startswith(TEMPORARY_PREFIX)}
    if names and not names & {STATE_NAME, REPORT_NAME}:
        raise UsageError(f"{out} holds other files and no training; name a new folder")


class TrainingRun:
    """A training run. After a kill, a run with the same request resumes from the last saved state.

    Reports its phases to `watch`. Raises DinacError.
    """

    def __init__(self, request: TrainRequest, watch: Watch = ignore_phase) -> None:
        self._request = request
        self._watch = watch
        recipe = request.recipe
        self._device = resolve_device(request.device)
        self._dtype = resolve_dtype(request.dtype, self._device)
        paths = watch_items(request.paths, watch, "reading the images", len(request.paths))
        survey = survey_images(paths, recipe.crop, request.options)
        self.survey = survey
        watch(Phase("choosing the held-out images"))
        self._kept, self._held_out = hold_out(survey.images)
        self._held = [
            crop_pixels(load_image(image), _MAX_SIDE, _MAX_SIDE)
            for image in self._held_out[:_HELD_OUT_MEASURED]
        ]
        self.model = self._start_model()
        if recipe.crop % self.model.config.patch_size:
            raise UsageError(
                f"--crop {recipe.crop}: expected a multiple of the model's patch of "
                f"{self.model.config.patch_size} pixels"
            )
        watch(Phase("preparing the training"))
        self._trainer = Trainer(
            self.model,
            recipe,
            CropSource(self._kept, recipe.crop, recipe.scales, recipe.seed),
            self._dtype,
            compiled=request.compiled,
            teacher=self._load_teacher(),
            about=self._identify(),
        )
        remove_dead_temporaries(str(request.out))
        self.resumed = self._trainer.resume(request.out)
        self.first_step = self._trainer.step_number
        self._seconds_before = self._trainer.seconds
        self._started: float | None = None  # when the steps of this run began

    def _identify(self) -> dict[str, str]:
        """Returns what must be the same, together with the recipe, to resume this training.

        A training with a time limit can be resumed with another limit.
        """
        request = self._request
        return {
            "init": request.init,
            "images": hash_images(self._kept),
            "teacher": "" if request.teacher is None else str(request.teacher),
            "background": name_color(request.options.background),
            "hdr": request.options.hdr,
            "damaged": request.options.damaged,
        }

    def _describe(self) -> dict[str, str]:
        """Returns the values that, together with the recipe, identify a finished training."""
        minutes = self._request.minutes
        return self._identify() | {"minutes": "" if minutes is None else f"{minutes:g}"}

    def check_finished(self) -> bool:
        """Whether this training is finished. Raises UsageError if OUT holds another training.

        After a finished training, removes the state that a kill at the very end may have left.
        """
        path = self._request.out / REPORT_NAME
        if not path.is_file():
            return False
        own = json.loads(json.dumps(asdict(self._request.recipe)))
        try:
            report = json.loads(path.read_bytes())
            if self._request.minutes is not None:
                own["steps"] = report["recipe"]["steps"]
            if (report["recipe"], report["about"]) == (own, self._describe()):
                self._drop_state()
                return True
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise UsageError(f"{path} is damaged; choose another OUT") from exc
        raise UsageError(
            f"{self._request.out} holds a finished training with other settings or images; choose "
            f"another OUT (to train it further, use --init {self._request.out})"
        )

    @property
    def steps(self) -> int:
        """The number of steps taken so far, including the steps before a stop."""
        return self._trainer.step_number

    @property
    def count(self) -> int:
        """The number of images to train on."""
        return len(self._kept)

    @property
    def start_db(self) -> float | None:
        """The mean held-out PSNR in dB before the first step, or None if it was not measured."""
        curve = self._trainer.curve
        return curve[0]["held_out_db"] if curve and curve[0]["step"] == 0 else None

    @property
    def is_held_out(self) -> bool:
        """False if all images are equal, because then training and measuring share an image."""
        return self._held_out[0] not in self._kept

    def go(self) -> Generator[Progress, None, None]:
        """Trains to the end. If the caller stops earlier, the caller must call `save`."""
        trainer = self._trainer
        if not trainer.step_number and not trainer.curve:
            start_db = round(self._measure_average(), 3)
            trainer.curve.append({"step": 0, "train_db": None, "held_out_db": start_db})
        self._started = saved = time.monotonic()
        psnr: list[float] = []
        compiles = self._request.compiled
        self._watch(Phase("compiling the model" if compiles else "taking the first step"))
        while (done := self._measure_done()) < 1:
            report = trainer.step(done)
            psnr += [] if report.psnr_db is None else [report.psnr_db]
            held_out_db = None
            if time.monotonic() - saved >= self._request.save_seconds:
                held_out_db = self._check_point(psnr)
                saved = time.monotonic()
            yield Progress(report, self._estimate_steps(), held_out_db)
        if not trainer.curve or trainer.curve[-1]["step"] != trainer.step_number:
            self._check_point(psnr)

    def _measure_done(self) -> float:
        """Returns the share of the training that is done: of its time, or else of its steps."""
        if self._request.minutes is None:
            return self._trainer.done
        return self._count_seconds() / (60 * self._request.minutes)

    def _count_seconds(self) -> float:
        """Returns the seconds since the first step, except those between a stop and a resume."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._seconds_before + running

    def _estimate_steps(self) -> int | None:
        """Returns the number of steps of the whole training, or None if there is no pace yet."""
        if (steps := self._trainer.recipe.steps) is not None:
            return steps
        done = self._measure_done()
        return round(self.steps / min(1, done)) if done else None

    def save(self) -> None:
        """Saves the state. A later run with the same request can resume from this state."""
        self._trainer.seconds = self._count_seconds()
        self._trainer.save(self._request.out)

    def finish(self) -> list[float]:
        """Writes the checkpoint and its report. Returns the PSNR of each held-out image in dB."""
        state = self._trainer.average_state()
        model = build_model(self.model, state, torch.float32)
        # The sample is ordered by hash, because neighbours in a folder are alike.
        sample = sorted(self._kept, key=lambda image: image.sha256)[:_STATISTICS_IMAGES]
        images = self._load(sample, "measuring the whitening")
        mean, variance = measure_whitening(model, images)
        state |= {"latent_norm_running_mean": mean, "latent_norm_running_var": variance}
        final = build_model(self.model, state, self._dtype)
        few = self._load(sample[:_SENSITIVITY_IMAGES], "measuring the sensitivity of the channels")
        sensitivity = measure_sensitivity(final, few, self._request.recipe.seed)
        values = self._measure_held_out(final)
        self._watch(Phase("writing the checkpoint"))
        settings = {SENSITIVITY_KEY: sensitivity}
        files = pack_checkpoint(state, self.model.config, torch.bfloat16, settings)
        for name, content in files.items():
            write_file(self._request.out, name, content)
        images = self._load(
            self._held_out[:_STATISTICS_IMAGES], "measuring the spread of the latents"
        )
        spread = measure_spread(final, images)
        self._write_report(values, spread)
        self._drop_state()
        return values

    def _load(self, images: Sequence[TrainImage], phase: str) -> Iterator[Pixels]:
        """Yields the pixels of each image. Reports `phase`."""
        return map(load_image, watch_items(images, self._watch, phase, len(images)))

    def _drop_state(self) -> None:
        with suppress(OSError):  # a state that cannot be deleted does no harm
            (self._request.out / STATE_NAME).unlink(missing_ok=True)

    def _start_model(self) -> DinacAE:
        request = self._request
        if request.init == KLT:
            images = self._load(self._kept, "measuring the patches")
            statistics = measure_patches(images, NANO_CONFIG.patch_size)
            self._watch(Phase("building the model"))
            model = DinacAE(NANO_CONFIG)
            model.load_state_dict(build_klt(statistics, NANO_CONFIG))
            return model.to(self._device)
        self._watch(Phase("loading the model"))
        return DinacAE.from_pretrained(request.init, device=self._device)

    def _load_teacher(self) -> Teacher | None:
        folder = self._request.teacher
        if folder is None:
            return None
        head = self.model.config.class_head
        if head is None:
            raise UsageError(
                f"--teacher {folder}: {self._request.init} has no class head to train; "
                "omit --teacher or use --init d2"
            )
        teacher = Teacher.load(folder, self._device)
        if teacher.config.hidden_size != head.feature_dim:
            raise UsageError(
                f"--teacher {folder}: its features are {teacher.config.hidden_size} wide, but "
                f"{self._request.init} needs {head.feature_dim}; use another teacher"
            )
        return teacher

    def _check_point(self, psnr: list[float]) -> float:
        """Measures the averaged weights and saves the state. Returns the held-out PSNR in dB."""
        held_out_db = self._measure_average()
        trained_db = round(float(np.mean(psnr)), 3) if psnr else None
        point = {"step": self.steps, "train_db": trained_db, "held_out_db": round(held_out_db, 3)}
        if self._request.minutes is not None:
            point["minutes"] = round(self._count_seconds() / 60, 3)
        self._trainer.curve.append(point)
        psnr.clear()
        self.save()
        return held_out_db

    def _measure_average(self) -> float:
        """Returns the mean held-out PSNR of the averaged weights in dB."""
        model = build_model(self.model, self._trainer.average_state(), self._dtype)
        return float(np.mean(self._measure_held_out(model)))

    def _measure_held_out(self, model: DinacAE) -> list[float]:
        """Returns the PSNR of each held-out image in dB."""
        phase = "measuring the held-out images"
        images = watch_items(self._held, self._watch, phase, len(self._held))
        return measure_reconstruction(model, images)

    def _write_report(self, values: list[float], spread: dict[str, list[float]]) -> None:
        report = {
            "created_by": name_creator(),
            "about": self._describe(),
            "recipe": asdict(replace(self._trainer.recipe, steps=self.steps)),
            "compute": f"{self._device.type}/{'bf16' if self._dtype == torch.bfloat16 else 'f32'}",
            "images": len(self._kept),
            "images_left_out": len(self.survey.skipped),
            "images_held_out": len(self._held_out),
            "held_out_db": round(float(np.mean(values)), 3),
            "held_out_latents": spread,
            "curve": self._trainer.curve,
        }
        text = json.dumps(report, indent=2) + "\n"
        write_file(self._request.out, REPORT_NAME, text.encode())
