"""The embedded model has the properties that its card states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dinac_cli
from dinac_cli import DinacAE
from dinac_cli.codec.engine import Engine
from dinac_cli.errors import ModelError
from dinac_cli.images.metrics import measure_psnr
from dinac_cli.images.reading import read_image
from dinac_cli.images.samples import draw_samples
from dinac_cli.models.aliases import NANO
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.interface import DinacAEInferenceConfig
from dinac_cli.models.registry import NANO_REVISION, resolve_model

EVAL_FOLDER = Path(__file__).parents[2] / "shared/images/eval"
WEIGHTS = Path(dinac_cli.__file__).parent / "weights/nano"


@pytest.fixture(scope="module")
def nano() -> DinacAE:
    return DinacAE.from_pretrained("nano")


def test_new_weights_have_a_new_revision() -> None:
    """Whoever ships new weights increases the revision and updates this test."""
    identity = resolve_model(NANO).identify()
    assert (NANO_REVISION, identity.latent_space, identity.weights) == (
        "4",
        "b41afb3585038e76",
        "31661063f2cb6727",
    )


def test_size_and_interface(nano: DinacAE) -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 12_000_000
    assert (nano.config.patch_size, nano.config.bottleneck_dim) == (16, 128)
    with pytest.raises(ModelError, match="no class head"):
        nano.predict_class(torch.zeros(1, 128, 2, 2))


def test_reconstructs_samples(nano: DinacAE) -> None:
    engine = Engine(nano)
    for name, pixels in draw_samples():
        latents = engine.encode([pixels])
        decoded = engine.decode(latents, [pixels.shape[:2]], DinacAEInferenceConfig(seed=0))
        assert measure_psnr(pixels, decoded[0]) > 20, name


def test_whitened_latents_are_near_unit_normal_on_samples(nano: DinacAE) -> None:
    engine = Engine(nano)
    values = np.concatenate([engine.encode([pixels])[0].ravel() for _, pixels in draw_samples()])
    assert abs(values.mean()) < 0.5
    assert 0.2 < values.std() < 5


@pytest.mark.skipif(not EVAL_FOLDER.is_dir(), reason="the evaluation photographs are not here")
def test_mean_psnr_on_the_evaluation_photographs() -> None:
    engine = Engine(accelerate(DinacAE.from_pretrained("nano", dtype=torch.bfloat16)))
    values = []
    for path in sorted(EVAL_FOLDER.glob("*.jpg")):
        pixels = read_image(path.read_bytes()).pixels
        latents = [
            torch.from_numpy(latents).bfloat16().float().numpy()
            for latents in engine.encode([pixels])
        ]
        decoded = engine.decode(latents, [pixels.shape[:2]], DinacAEInferenceConfig(seed=0))
        values.append(measure_psnr(pixels, decoded[0]))
    assert len(values) == 60
    assert np.mean(values) >= 34.05
