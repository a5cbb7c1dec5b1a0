"""The training step learns, repeats, and resumes after a kill."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinac_cli.errors import ModelError, UsageError
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.training.dataset import CropSource, survey_images
from dinac_cli.training.optimizer import Optimizer, orthogonalize, split_wide
from dinac_cli.training.recipe import TrainRecipe, choose_batch_size
from dinac_cli.training.trainer import STATE_NAME, Trainer

from .conftest import TINY

RECIPE = TrainRecipe(steps=12, batch_size=4, crop=32, scales=(1.0,), warm_up=2, full_noise=0.6)


def _start(photo_paths: list[str], recipe: TrainRecipe = RECIPE) -> Trainer:
    images = survey_images(photo_paths, recipe.crop).images
    source = CropSource(images, recipe.crop, recipe.scales, recipe.seed)
    return Trainer(DinacAE.from_pretrained(TINY), recipe, source)


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 16, 48)))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_matrices_are_split_into_wide_views_of_the_same_memory() -> None:
    qkv = torch.randn(24, 8)
    parts = split_wide("encoder.blocks.0.attn_core.qkv.weight", qkv)
    assert [tuple(part.shape) for part in parts] == [(8, 8)] * 3
    [up] = split_wide("decoder.start_blocks.0.pwconv1.weight", tall := torch.randn(32, 8, 1, 1))
    assert tuple(up.shape) == (8, 32)
    up.zero_()
    assert not tall.any()


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    recipe = TrainRecipe(steps=1000, warm_up=10)
    factors = [recipe.rate_factor(step, step / 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0, abs=1e-3)
    assert factors[500] == pytest.approx(0.5, abs=1e-3)
    assert factors[-1] < 1e-5


def test_recipe_refuses_values_out_of_range() -> None:
    with pytest.raises(UsageError, match="steps is 0"):
        TrainRecipe(steps=0)
    with pytest.raises(UsageError, match="rate is 0"):
        TrainRecipe(rate=0.0)
    with pytest.raises(UsageError, match=r"drop is 1\.5"):
        TrainRecipe(drop=1.5)


def test_batch_of_large_crops_needs_the_memory_of_the_default() -> None:
    crops = (32, 128, 144, 192, 256, 384, 512, 768, 1024, 4096)
    sizes = [choose_batch_size(crop) for crop in crops]
    assert sizes == [64, 64, 48, 28, 16, 4, 4, 1, 1, 1]
    assert choose_batch_size(TrainRecipe.crop) == TrainRecipe.batch_size


def test_crops_per_image_divide_the_batch() -> None:
    assert [TrainRecipe(batch_size=size).group for size in (1, 2, 6, 64)] == [1, 2, 2, 4]


def test_every_weight_of_encoder_and_decoder_is_trained(photo_paths: list[str]) -> None:
    trainer = _start(photo_paths, replace(RECIPE, full_noise=1.0, drop=0.5))
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    for _ in range(8):
        trainer.step()
    still = {
        name
        for name, tensor in trainer.model.named_parameters()
        if torch.equal(tensor, before[name])
    }
    assert {name for name in still if name.startswith(("encoder.", "decoder."))} == set()
    # The class head is not trained; the averages follow the weights.
    assert all(name.startswith("dino_token_alignment_head.") for name in still)
    average = trainer.average_state()
    assert not torch.equal(average["decoder.out_proj.weight"], before["decoder.out_proj.weight"])


def test_training_lowers_the_error(photo_paths: list[str]) -> None:
    recipe = replace(RECIPE, steps=20, full_noise=1.0, drop=0.0, rate=3e-3, linear_rate=3e-3)
    trainer = _start(photo_paths, recipe)
    psnr = [trainer.step().psnr_db or math.nan for _ in range(20)]
    assert sum(psnr[-5:]) / 5 > sum(psnr[:5]) / 5 + 3


def test_same_seed_gives_the_same_weights(photo_paths: list[str]) -> None:
    states = []
    for seed in (1, 1, 2):
        trainer = _start(photo_paths, replace(RECIPE, seed=seed))
        for _ in range(3):
            trainer.step()
        states.append(trainer.average_state())
    assert _same(states[0], states[1])
    assert not _same(states[0], states[2])


def test_killed_run_resumes_with_the_same_weights(photo_paths: list[str], tmp_path: Path) -> None:
    whole = _start(photo_paths)
    for _ in range(6):
        whole.step()
    first = _start(photo_paths)
    for _ in range(4):
        first.step()
    first.save(tmp_path)
    first.step()  # lost by the kill
    second = _start(photo_paths)
    assert second.resume(tmp_path)
    assert second.step_number == 4
    for _ in range(2):
        second.step()
    assert _same(whole.optimizer.state_tensors(), second.optimizer.state_tensors())


def test_state_of_another_run_is_refused(photo_paths: list[str], tmp_path: Path) -> None:
    trainer = _start(photo_paths)
    assert not trainer.resume(tmp_path)
    trainer.step()
    trainer.save(tmp_path)
    with pytest.raises(ModelError, match="other seed"):
        _start(photo_paths, replace(RECIPE, seed=9)).resume(tmp_path)
    with pytest.raises(ModelError, match="other steps"):
        _start(photo_paths, replace(RECIPE, steps=99)).resume(tmp_path)
    (tmp_path / STATE_NAME).write_bytes(b"not a state")
    with pytest.raises(ModelError, match="damaged"):
        _start(photo_paths).resume(tmp_path)


def test_bfloat16_keeps_float32_masters(photo_paths: list[str], tiny: DinacAE) -> None:
    images = survey_images(photo_paths, 32).images
    trainer = Trainer(tiny, RECIPE, CropSource(images, 32, (1.0,), 0), torch.bfloat16)
    report = trainer.step()
    assert math.isfinite(report.kl)
    assert {tensor.dtype for tensor in tiny.parameters()} == {torch.float32}


def test_muon_trains_the_matrices_of_the_blocks(tiny: DinacAE) -> None:
    parameters = {
        name: tensor
        for name, tensor in tiny.named_parameters()
        if name.startswith(("encoder.", "decoder."))
    }
    tensors = Optimizer(parameters, RECIPE).state_tensors()
    matrices = {name.removeprefix("momentum.") for name in tensors if "momentum." in name}
    assert "encoder.blocks.0.attn_core.qkv.weight" in matrices
    assert "decoder.middle_blocks.0.pwconv1.weight" in matrices
    assert not any("patchify" in name or "norm" in name for name in matrices)
