"""A whole run, from images to a checkpoint that the commands take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dinac_cli.codec.engine import Engine
from dinac_cli.codec.quantizer import SENSITIVITY_KEY
from dinac_cli.errors import ModelError, UsageError
from dinac_cli.images.reading import read_image
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.training.dataset import hold_out, survey_images
from dinac_cli.training.recipe import UNPACED_STEPS, TrainRecipe
from dinac_cli.training.session import TrainingRun, TrainRequest, check_out
from dinac_cli.training.trainer import STATE_NAME, read_state_metadata

from .conftest import TINY

RECIPE = TrainRecipe(steps=5, batch_size=2, crop=32, scales=(1.0,), warm_up=2)


def _request(paths: list[str], out: Path, init: str = str(TINY), **changes: object) -> TrainRequest:
    values = {"recipe": RECIPE, "device": "cpu", "dtype": "f32", **changes}
    return TrainRequest(paths, out, init, **values)  # type: ignore[arg-type]


def test_a_run_writes_a_checkpoint_that_loads(photo_paths: list[str], tmp_path: Path) -> None:
    out = tmp_path / "model"
    run = TrainingRun(_request(photo_paths, out))
    numbers = [progress.step.number for progress in run.go()]
    values = run.finish()
    assert numbers == list(range(5))
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "training.json",
    ]
    again = TrainingRun(_request(photo_paths, out))
    assert again.check_finished()
    other = TrainingRun(_request(photo_paths[1:], out))
    with pytest.raises(UsageError, match="other settings or images"):
        other.check_finished()
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
    assert model.config == run.model.config  # also with its class head
    sensitivity = json.loads((out / "config.json").read_text())[SENSITIVITY_KEY]
    assert len(sensitivity) == model.config.bottleneck_dim
    assert min(sensitivity) > 0


def test_latents_are_whitened_over_the_training_images(
    photo_paths: list[str], tmp_path: Path
) -> None:
    run = TrainingRun(_request(photo_paths, tmp_path / "model"))
    list(run.go())
    run.finish()
    engine = Engine(DinacAE.from_pretrained(tmp_path / "model"))
    kept, _ = hold_out(survey_images(photo_paths, crop=32)[0])
    latents = [
        engine.encode([read_image(Path(image.path).read_bytes()).pixels])[0].reshape(8, -1)
        for image in kept
    ]
    assert len(latents) == 3
    # Every image counts alike, whatever its size.
    mean = np.mean([values.mean(axis=1) for values in latents], axis=0)
    square = np.mean([np.square(values).mean(axis=1) for values in latents], axis=0)
    np.testing.assert_allclose(mean, 0, atol=0.02)
    np.testing.assert_allclose(square, 1, atol=0.02)


def test_a_stopped_run_goes_on(photo_paths: list[str], tmp_path: Path) -> None:
    out = tmp_path / "model"
    run = TrainingRun(_request(photo_paths, out))
    steps = run.go()
    for _ in range(3):
        next(steps)
    steps.close()
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


def test_minutes_become_steps_by_the_pace(photo_paths: list[str], tmp_path: Path) -> None:
    recipe = TrainRecipe(steps=UNPACED_STEPS, batch_size=1, crop=32, scales=(1.0,))
    run = TrainingRun(_request(photo_paths, tmp_path / "m", recipe=recipe, minutes=1e-4))
    progress = list(run.go())
    assert progress[0].steps is None
    assert progress[-1].steps == len(progress) == 30


def test_a_run_stopped_before_its_pace_is_known_finds_it_later(
    photo_paths: list[str], tmp_path: Path
) -> None:
    recipe = TrainRecipe(steps=UNPACED_STEPS, batch_size=1, crop=32, scales=(1.0,))
    request = _request(photo_paths, tmp_path / "m", recipe=recipe, minutes=1e-4)
    run = TrainingRun(request)
    steps = run.go()
    for _ in range(4):
        next(steps)
    steps.close()
    run.save()
    again = TrainingRun(request)
    assert again.first_step == 4
    progress = list(again.go())
    assert (progress[0].steps, progress[-1].steps) == (None, 34)
    assert again.steps == 34


def test_the_pace_is_found_anew_at_every_saved_state(
    photo_paths: list[str], tmp_path: Path
) -> None:
    recipe = TrainRecipe(steps=UNPACED_STEPS, batch_size=1, crop=32, scales=(1.0,))
    request = _request(photo_paths, tmp_path / "m", recipe=recipe, minutes=1000.0, save_seconds=0.0)
    run = TrainingRun(request)
    steps = run.go()
    lengths = [next(steps).steps for _ in range(34)]
    steps.close()
    assert lengths[:29] == [None] * 29
    assert None not in lengths[29:]
    assert len(set(lengths[29:])) > 1
    again = TrainingRun(request)
    assert next(again.go()).steps != lengths[-1]  # fitted to the minutes that are left
    again.save()
    curve = json.loads(read_state_metadata(tmp_path / "m" / STATE_NAME)["curve"])
    assert curve[0]["step"] == 0
    minutes = [point["minutes"] for point in curve[1:]]
    assert minutes == sorted(minutes)
    assert minutes[0] > 0


def test_the_curve_outlives_a_stop(photo_paths: list[str], tmp_path: Path) -> None:
    out = tmp_path / "model"
    run = TrainingRun(_request(photo_paths, out, save_seconds=0.0))
    steps = run.go()
    for _ in range(2):
        next(steps)
    steps.close()
    again = TrainingRun(_request(photo_paths, out, save_seconds=0.0))
    list(again.go())
    again.finish()
    curve = json.loads((out / "training.json").read_text())["curve"]
    assert [point["step"] for point in curve] == [0, 1, 2, 3, 4, 5]


def test_what_a_killed_run_was_writing_is_no_other_file(tmp_path: Path) -> None:
    (tmp_path / ".dinac-tmp-0-0-0-1-00000000").write_bytes(b"half")
    check_out(tmp_path)


def test_a_state_that_a_kill_at_the_very_end_left_goes(
    photo_paths: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "model"
    run = TrainingRun(_request(photo_paths, out))
    list(run.go())
    state = (out / "training.state").read_bytes()
    run.finish()
    (out / "training.state").write_bytes(state)
    assert TrainingRun(_request(photo_paths, out)).check_finished()
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "model.safetensors", "training.json",
    ]  # fmt: skip


def test_the_linear_optimum_is_a_start(photo_paths: list[str], tmp_path: Path) -> None:
    recipe = TrainRecipe(steps=1, batch_size=1, crop=32, scales=(1.0,))
    run = TrainingRun(_request(photo_paths, tmp_path / "m", init="klt", recipe=recipe))
    list(run.go())
    assert np.mean(run.finish()) > 15


def test_out_must_be_new_or_a_training(tmp_path: Path) -> None:
    check_out(tmp_path / "new")
    check_out(tmp_path)
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(UsageError, match="holds other files"):
        check_out(tmp_path)
    with pytest.raises(UsageError, match="is an existing file"):
        check_out(tmp_path / "holiday.jpg")


def test_a_crop_must_fit_the_patch(photo_paths: list[str], tmp_path: Path) -> None:
    recipe = TrainRecipe(steps=1, crop=40, scales=(1.0,))
    with pytest.raises(UsageError, match="multiple of the model's patch of 16"):
        TrainingRun(_request(photo_paths, tmp_path / "m", recipe=recipe))
