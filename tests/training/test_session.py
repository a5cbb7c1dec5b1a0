"""A whole training, from images to a checkpoint; its pace, stops, and refusals."""

from __future__ import annotations

import json
import pickle
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
from dinac_cli.training.recipe import UNPACED_STEPS, TrainRecipe
from dinac_cli.training.session import Pace, Progress, TrainingRun, TrainRequest, check_out
from dinac_cli.training.trainer import STATE_NAME, read_state_metadata

from .conftest import TINY
from .test_klt import SMALL

RECIPE = TrainRecipe(steps=5, batch_size=2, crop=32, scales=(1.0,), warm_up=2)
UNPACED = TrainRecipe(steps=UNPACED_STEPS, batch_size=1, crop=32, scales=(1.0,))
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
    kept, _ = hold_out(survey_images(photo_paths, crop=32)[0])
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
    with pytest.raises(ModelError, match="a stopped training with other minutes"):
        TrainingRun(_request(photo_paths, out, minutes=1.0))


@pytest.fixture
def _known_after_5_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds the first pace after 5 steps instead of 30."""
    monkeypatch.setattr(session, "_UNTIMED_STEPS", 2)
    monkeypatch.setattr(session, "_PACE_STEPS", 3)


@pytest.mark.usefixtures("_known_after_5_steps")
class TestMinutes:
    def test_become_steps_by_the_pace(self, photo_paths: list[str], tmp_path: Path) -> None:
        request = _request(photo_paths, tmp_path / "m", recipe=UNPACED, minutes=1e-4)
        progress = list(TrainingRun(request).go())
        assert progress[0].steps is None
        assert progress[-1].steps == len(progress) == 5

    def test_become_steps_after_a_stop_before_the_pace_is_known(
        self, photo_paths: list[str], tmp_path: Path
    ) -> None:
        request = _request(photo_paths, tmp_path / "m", recipe=UNPACED, minutes=1e-4)
        run = TrainingRun(request)
        _stop_after(run, 4)
        run.save()
        again = TrainingRun(request)
        assert again.first_step == 4
        progress = list(again.go())
        assert (progress[0].steps, progress[-1].steps) == (None, 9)
        assert again.steps == 9

    def test_become_steps_again_at_every_saved_state(
        self, photo_paths: list[str], tmp_path: Path
    ) -> None:
        out = tmp_path / "m"
        request = _request(photo_paths, out, recipe=UNPACED, minutes=1000.0, save_seconds=0.0)
        lengths = [progress.steps for progress in _stop_after(TrainingRun(request), 9)]
        assert lengths[:4] == [None] * 4
        assert None not in lengths[4:]
        assert len(set(lengths[4:])) > 1
        again = TrainingRun(request)
        assert next(again.go()).steps != lengths[-1]  # fitted to the rest of the time
        again.save()
        curve = json.loads(read_state_metadata(out / STATE_NAME)["curve"])
        assert curve[0]["step"] == 0
        minutes = [point["minutes"] for point in curve[1:]]
        assert minutes == sorted(minutes)
        assert minutes[0] > 0


class TestPace:
    def test_steps_fill_the_rest_of_the_time(self) -> None:
        pace = Pace(0, 100.0, 1000.0)
        pace.mark(10, 140.0)  # slow steps, not timed
        assert pace.fit(30, 160.0) == 30 + 940
        assert pace.count_spent(160.0) == 60.0

    def test_slow_start_is_corrected_later(self) -> None:
        pace = Pace(0, 0.0, 1000.0)
        assert pace.fit(20, 40.0) == 500
        assert pace.fit(120, 140.0) == 980  # twice as fast since then
        assert pace.fit(600, 990.0) == 600 + round(10 / (850 / 480))

    @pytest.mark.parametrize("now", [10.0, 20.0])
    def test_run_never_ends_before_the_current_step(self, now: float) -> None:
        pace = Pace(0, 0.0, 10.0)
        assert pace.fit(7, now) == 7

    def test_time_before_a_stop_counts(self) -> None:
        pace = Pace(50, 0.0, 100.0, spent=90.0)
        assert pace.fit(60, 5.0) == 70
        assert pace.count_spent(5.0) == 95.0


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
