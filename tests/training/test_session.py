"""A whole training, from images to a checkpoint; its time limit, stops, and refusals."""

from __future__ import annotations

import json
import pickle
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinac_cli.codec.engine import Engine
from dinac_cli.codec.quantizer import SENSITIVITY_KEY
from dinac_cli.errors import ModelError, UsageError
from dinac_cli.jobs.executor.phase import Phase
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.training import session
from dinac_cli.training.dataset import hold_out, load_image, survey_images
from dinac_cli.training.recipe import TrainRecipe
from dinac_cli.training.session import Progress, TrainingRun, TrainRequest, check_out
from dinac_cli.training.trainer import STATE_NAME, StepReport, Trainer, read_state_metadata

from .conftest import TINY
from .test_klt import SMALL

RECIPE = TrainRecipe(steps=5, batch_size=2, crop=32, scales=(1.0,), warm_up=2)
UNPACED = TrainRecipe(steps=None, batch_size=1, crop=32, scales=(1.0,))
FINISHED = ["config.json", "model.safetensors", "training.json"]


def _request(paths: list[str], out: Path, **changes: Any) -> TrainRequest:
    values = {"init": str(TINY), "recipe": RECIPE, "device": "cpu", "dtype": "f32", **changes}
    return TrainRequest(paths=paths, out=out, **values)


def _stop_after(run: TrainingRun, steps: int) -> list[Progress]:
    """Runs the first steps only."""
    generator = run.go()
    progress = list(islice(generator, steps))
    generator.close()
    return progress


def _list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_request_can_be_pickled(tmp_path: Path) -> None:
    request = _request(["a.png"], tmp_path)
    assert pickle.loads(pickle.dumps(request)) == request


def test_finished_run_writes_a_checkpoint(photo_paths: list[str], tmp_path: Path) -> None:
    out = tmp_path / "model"
    run = TrainingRun(_request(photo_paths, out))
    numbers = [progress.step.number for progress in run.go()]
    state = (out / STATE_NAME).read_bytes()
    values = run.finish()
    assert numbers == list(range(5))
    assert _list_names(out) == FINISHED
    report = json.loads((out / "training.json").read_text())
    assert report["recipe"]["steps"] == 5
    assert report["images"] == run.count
    assert len(report["about"]["images"]) == 64
    assert report["curve"][-1]["step"] == 5
    spread = report["held_out_latents"]
    assert spread["mean"][0] <= spread["mean"][1]
    assert 0 < spread["std"][0] <= spread["std"][1]
    assert report["held_out_db"] == pytest.approx(np.mean(values), abs=1e-3)
    model = DinacAE.from_pretrained(out)
    assert model.config == run.model.config  # including its class head
    sensitivity = json.loads((out / "config.json").read_text())[SENSITIVITY_KEY]
    assert len(sensitivity) == model.config.bottleneck_dim
    assert min(sensitivity) > 0

    (out / STATE_NAME).write_bytes(state)  # as after a kill at the very end
    assert TrainingRun(_request(photo_paths, out)).check_finished()
    assert _list_names(out) == FINISHED
    other = TrainingRun(_request(photo_paths[1:], out))
    with pytest.raises(UsageError, match="other settings or images"):
        other.check_finished()


def test_latents_are_whitened_over_the_training_images(
    photo_paths: list[str], tmp_path: Path
) -> None:
    run = TrainingRun(_request(photo_paths, tmp_path / "model"))
    list(run.go())
    run.finish()
    engine = Engine(DinacAE.from_pretrained(tmp_path / "model"))
    kept, _ = hold_out(survey_images(photo_paths, crop=32).images)
    latents = [engine.encode([load_image(image)])[0].reshape(8, -1) for image in kept]
    assert len(latents) == 3
    # All images have the same weight, whatever their size.
    mean = np.mean([values.mean(axis=1) for values in latents], axis=0)
    square = np.mean([np.square(values).mean(axis=1) for values in latents], axis=0)
    np.testing.assert_allclose(mean, 0, atol=0.02)
    np.testing.assert_allclose(square, 1, atol=0.02)


def test_stopped_run_is_resumed(photo_paths: list[str], tmp_path: Path) -> None:
    out = tmp_path / "model"
    run = TrainingRun(_request(photo_paths, out))
    _stop_after(run, 3)
    run.save()
    again = TrainingRun(_request(photo_paths, out))
    assert again.resumed
    assert not again.check_finished()
    assert again.first_step == 3
    assert [progress.step.number for progress in again.go()] == [3, 4]
    again.save()
    with pytest.raises(ModelError, match="a stopped training with other images"):
        TrainingRun(_request(photo_paths[1:], out))
    with pytest.raises(ModelError, match="a stopped training with other steps"):
        TrainingRun(_request(photo_paths, out, recipe=replace(RECIPE, steps=None), minutes=1.0))


class Clock:
    """Stands in for `time.monotonic`. Only a step takes time: the next of `step_seconds`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *step_seconds: float) -> None:
        self.now = 1000.0
        self.done: list[float] = []
        durations = iter(step_seconds)
        take_step = Trainer.step

        def step(trainer: Trainer, done: float) -> StepReport:
            self.done.append(done)
            self.now += next(durations)
            return take_step(trainer, done)

        monkeypatch.setattr(Trainer, "step", step)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class TestMinutes:
    """A run of one minute."""

    @pytest.mark.parametrize(
        ("step_seconds", "steps"),
        [([20.0] * 3, 3), ([40.0] * 2, 2), ([500.0], 1), ([30.0, 5, 5, 5, 5, 5, 5], 7)],
    )
    def test_end_with_the_first_step_that_reaches_them(
        self,
        photo_paths: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        step_seconds: list[float],
        steps: int,
    ) -> None:
        out = tmp_path / "m"
        clock = Clock(monkeypatch, *step_seconds)
        run = TrainingRun(_request(photo_paths, out, recipe=UNPACED, minutes=1.0))
        progress = list(run.go())
        assert len(progress) == run.steps == steps
        assert progress[-1].steps == steps
        spent = np.cumsum([0.0, *step_seconds[:-1]])
        assert clock.done == pytest.approx(list(spent / 60))
        run.finish()
        assert _list_names(out) == FINISHED
        report = json.loads((out / "training.json").read_text())
        assert report["recipe"]["steps"] == steps
        assert report["curve"][-1]["minutes"] == pytest.approx(sum(step_seconds) / 60, abs=1e-3)
        again = TrainingRun(_request(photo_paths, out, recipe=UNPACED, minutes=1.0))
        assert again.check_finished()
        longer = TrainingRun(_request(photo_paths, out, recipe=UNPACED, minutes=2.0))
        with pytest.raises(UsageError, match="a finished training with other settings"):
            longer.check_finished()

    def test_number_of_steps_is_estimated_from_the_mean_pace(
        self, photo_paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Clock(monkeypatch, 0.0, 20.0, 10.0, 10.0, 10.0, 10.0)
        request = _request(photo_paths, tmp_path / "m", recipe=UNPACED, minutes=1.0)
        estimates = [progress.steps for progress in TrainingRun(request).go()]
        assert estimates == [None, 6, 6, 6, 6, 6]

    def test_states_are_saved_from_the_first_step_on(
        self, photo_paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "m"
        Clock(monkeypatch, 150.0, 60.0, 60.0)
        run = TrainingRun(_request(photo_paths, out, recipe=UNPACED, minutes=60.0))
        held_out = [progress.held_out_db for progress in _stop_after(run, 3)]
        assert [value is not None for value in held_out] == [True, False, True]
        assert read_state_metadata(out / STATE_NAME)["step"] == "3"

    def test_time_before_a_stop_counts(
        self, photo_paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch, 25.0, 25.0, 5.0, 5.0)
        request = _request(photo_paths, tmp_path / "m", recipe=UNPACED, minutes=1.0)
        run = TrainingRun(request)
        _stop_after(run, 2)
        run.save()
        clock.now += 1_000_000  # the night in between does not count
        again = TrainingRun(request)
        assert again.first_step == 2
        assert [progress.steps for progress in again.go()] == [3, 4]
        assert clock.done == pytest.approx([0, 25 / 60, 50 / 60, 55 / 60])

    @pytest.mark.parametrize(("minutes", "steps"), [(0.01, 2), (1.5, 4)])
    def test_stopped_training_ends_earlier_or_later_with_other_minutes(
        self,
        photo_paths: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        minutes: float,
        steps: int,
    ) -> None:
        out = tmp_path / "m"
        Clock(monkeypatch, 25.0, 25.0, 25.0, 25.0)
        run = TrainingRun(_request(photo_paths, out, recipe=UNPACED, minutes=1.0))
        _stop_after(run, 2)
        run.save()
        again = TrainingRun(_request(photo_paths, out, recipe=UNPACED, minutes=minutes))
        assert not again.check_finished()
        list(again.go())
        again.finish()
        assert again.steps == steps
        assert _list_names(out) == FINISHED


def test_curve_survives_a_stop(photo_paths: list[str], tmp_path: Path) -> None:
    request = _request(photo_paths, tmp_path / "model", save_seconds=0.0)
    _stop_after(TrainingRun(request), 2)
    again = TrainingRun(request)
    list(again.go())
    again.finish()
    curve = json.loads((tmp_path / "model/training.json").read_text())["curve"]
    assert [point["step"] for point in curve] == [0, 1, 2, 3, 4, 5]


def test_training_starts_from_the_linear_optimum(
    photo_paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "NANO_CONFIG", SMALL)  # nano itself would take seconds
    recipe = TrainRecipe(steps=1, batch_size=1, crop=32, scales=(1.0,))
    run = TrainingRun(_request(photo_paths, tmp_path / "m", init="klt", recipe=recipe))
    assert run.model.config == SMALL
    list(run.go())
    assert np.mean(run.finish()) > 15


def test_out_must_be_new_or_a_training(tmp_path: Path) -> None:
    check_out(tmp_path / "new")
    check_out(tmp_path)
    (tmp_path / ".dinac-tmp-0-0-0-1-00000000").write_bytes(b"half")  # left by a kill
    check_out(tmp_path)
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(UsageError, match="holds other files"):
        check_out(tmp_path)
    with pytest.raises(UsageError, match="is an existing file"):
        check_out(tmp_path / "holiday.jpg")


def test_crop_must_be_a_multiple_of_the_patch(photo_paths: list[str], tmp_path: Path) -> None:
    recipe = TrainRecipe(steps=1, crop=40, scales=(1.0,))
    with pytest.raises(UsageError, match="multiple of the model's patch of 16"):
        TrainingRun(_request(photo_paths, tmp_path / "m", recipe=recipe))


def test_phases_are_reported_in_their_order(photo_paths: list[str], tmp_path: Path) -> None:
    phases: list[Phase] = []
    run = TrainingRun(_request(photo_paths, tmp_path / "model"), phases.append)
    assert list(dict.fromkeys(phase.name for phase in phases)) == [
        "reading the images",
        "choosing the held-out images",
        "loading the model",
        "preparing the training",
    ]
    assert phases[0] == Phase("reading the images", 0, len(photo_paths))
    assert Phase("reading the images", len(photo_paths), len(photo_paths)) in phases
    phases.clear()
    list(run.go())
    assert phases[0].name == "measuring the held-out images"
    assert Phase("taking the first step") in phases
    phases.clear()
    run.finish()
    assert list(dict.fromkeys(phase.name for phase in phases)) == [
        "measuring the whitening",
        "measuring the sensitivity of the channels",
        "measuring the held-out images",
        "writing the checkpoint",
        "measuring the spread of the latents",
    ]
    counted = {phase.name: phase for phase in phases if phase.total is not None}
    assert len(counted) == 4
    assert all(phase.done == phase.total for phase in counted.values())


def test_klt_reports_the_images_it_measures(photo_paths: list[str], tmp_path: Path) -> None:
    phases: list[Phase] = []
    run = TrainingRun(_request(photo_paths, tmp_path / "m", init="klt"), phases.append)
    assert Phase("measuring the patches", run.count, run.count) in phases
    assert Phase("building the model") in phases
