"""The DINOv2 teacher equals the one of `transformers`, and the class head learns from it.

tests/golden/teacher was written by transformers 5.23.0: a Dinov2Model with random weights (width
64, 2 layers, 4 heads) and its last hidden state for one normalised image of 42 x 70 pixels.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinac_cli.errors import ModelError, UsageError
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.training.dataset import CropSource, survey_images
from dinac_cli.training.losses import alignment_loss
from dinac_cli.training.recipe import TrainRecipe
from dinac_cli.training.session import TrainingRun, TrainRequest
from dinac_cli.training.teacher import Teacher
from dinac_cli.training.trainer import Trainer

from .conftest import TINY

TEACHER = TINY.parent / "teacher"
CPU = torch.device("cpu")


def test_features_equal_the_reference() -> None:
    cases = load_file(TEACHER / "cases.safetensors")
    class_token, patch_tokens = Teacher.load(TEACHER, CPU).embed(cases["image"], 3, 5)
    for ours, theirs in ((class_token, "class_token"), (patch_tokens, "patch_tokens")):
        reference = cases[theirs]
        assert ours.shape == reference.shape
        assert (ours - reference).norm() / reference.norm() < 2e-5


def test_one_patch_covers_one_latent() -> None:
    teacher = Teacher.load(TEACHER, CPU)
    class_token, patch_tokens = teacher.embed(torch.zeros(2, 3, 64, 96), 4, 6)
    assert (class_token.shape, patch_tokens.shape) == ((2, 64), (2, 24, 64))


def test_alignment_loss_ignores_magnitudes() -> None:
    target = torch.randn(2, 5, 8)
    assert alignment_loss(3 * target, target).item() == pytest.approx(0.0, abs=1e-6)
    assert alignment_loss(-target, target).item() == pytest.approx(2.0, abs=1e-6)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not the configuration of a DINOv2"):
        Teacher.load(TINY, CPU)
    broken = tmp_path / "teacher"
    shutil.copytree(TEACHER, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="not the tensors of a DINOv2 "):
        Teacher.load(broken, CPU)
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(ModelError, match="not a DINOv2 with plain MLPs"):
        Teacher.load(broken, CPU)


def test_class_head_learns_from_the_teacher(photo_paths: list[str]) -> None:
    recipe = TrainRecipe(
        steps=10,
        batch_size=4,
        crop=32,
        scales=(1.0,),
        rate=1e-2,
        warm_up=2,
        drop=0.0,
        align_weight=10.0,
    )
    images = survey_images(photo_paths, recipe.crop).images
    source = CropSource(images, recipe.crop, recipe.scales, recipe.seed)
    teacher, model = Teacher.load(TEACHER, CPU), DinacAE.from_pretrained(TINY)
    crops = torch.from_numpy(source.draw(999, 8).copy()).float() / 127.5 - 1

    def measure_distance() -> float:
        with torch.no_grad():
            predicted = model.predict_class(model.encode(crops))
        return float(alignment_loss(predicted, teacher.embed(crops, 2, 2)[0]))

    before = measure_distance()
    trainer = Trainer(model, recipe, source, teacher=teacher)
    while trainer.done < 1:
        trainer.step()
    assert measure_distance() < before / 2


def test_teacher_of_a_model_without_class_head_is_refused(
    photo_paths: list[str], tmp_path: Path
) -> None:
    request = TrainRequest(
        paths=photo_paths,
        out=tmp_path / "out",
        init="nano",
        recipe=TrainRecipe(steps=1, crop=32, scales=(1.0,)),
        device="cpu",
        teacher=TEACHER,
    )
    with pytest.raises(UsageError, match="nano has no class head"):
        TrainingRun(request)
