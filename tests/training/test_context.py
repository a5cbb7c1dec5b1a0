"""The decoder with context: the network computes what the least squares found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinac_cli.codec.engine import Engine
from dinac_cli.errors import UsageError
from dinac_cli.images.samples import draw_clouds, draw_leaves, draw_rings
from dinac_cli.metrics import measure_psnr
from dinac_cli.model.autoencoder import DinacAE
from dinac_cli.model.config import DinacAEConfig, DinacAEInferenceConfig
from dinac_cli.training.context import LinearContext, Pixels, add_context, fit_context
from dinac_cli.training.klt import PatchStatistics, build_klt, cut_patches, measure_patches

CHANNELS, FEATURES, PATCH = 13, 50, 8
CONFIG = DinacAEConfig(
    patch_size=PATCH,
    model_dim=64,
    encoder_depth=1,
    decoder_depth=4,
    decoder_start_blocks=1,
    decoder_end_blocks=1,
    bottleneck_dim=CHANNELS,
    mlp_ratio=2.0,
    adaln_low_rank_rank=4,
    class_head_feature_dim=None,
    class_head_model_dim=None,
    class_head_head_dim=None,
    class_head_mlp_ratio=None,
    class_head_register_token_count=None,
)


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    return [draw_clouds(96, 128), draw_leaves(128, 96), draw_rings(96, 96)]


@pytest.fixture(scope="module")
def statistics(images: list[Pixels]) -> PatchStatistics:
    return measure_patches(images, PATCH)


@pytest.fixture(scope="module")
def context(images: list[Pixels], statistics: PatchStatistics) -> LinearContext:
    return fit_context(images, statistics, CHANNELS, FEATURES)


def _build(state: dict[str, torch.Tensor]) -> DinacAE:
    model = DinacAE(CONFIG)
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture(scope="module")
def plain(statistics: PatchStatistics) -> DinacAE:
    return _build(build_klt(statistics, CONFIG))


@pytest.fixture(scope="module")
def model(statistics: PatchStatistics, context: LinearContext) -> DinacAE:
    state = build_klt(statistics, CONFIG)
    add_context(state, context, CONFIG)
    return _build(state)


def _correct(latents: np.ndarray, context: LinearContext) -> np.ndarray:
    """The correction [n, h, w] of latents [C, h, w], by definition."""
    _, rows, columns = latents.shape
    z = np.pad(latents, ((0, 0), (1, 1), (1, 1)))
    left, right = z[:, 1:-1, :-2], z[:, 1:-1, 2:]
    above, below = z[:, :-2, 1:-1], z[:, 2:, 1:-1]
    pairs = (right - left, below - above, left + right, above + below)
    features = sum(
        np.einsum("ck,chw->khw", taps, pair) for taps, pair in zip(context.taps, pairs, strict=True)
    )
    own = np.einsum("cn,chw->nhw", context.center, latents)
    total: np.ndarray = own + np.einsum("kn,khw->nhw", context.basis, features)
    assert total.shape[1:] == (rows, columns)
    return total


def test_the_network_computes_the_correction(
    plain: DinacAE, model: DinacAE, context: LinearContext
) -> None:
    latents = torch.randn(1, CHANNELS, 5, 7, generator=torch.Generator().manual_seed(0))
    t, x_t = torch.ones(1), torch.zeros(1, 3, 5 * PATCH, 7 * PATCH)
    with torch.inference_mode():
        raw = model.dewhiten(latents)
        change = model.decoder(x_t, t, raw) - plain.decoder(x_t, t, raw)
    expected = torch.from_numpy(_correct(latents[0].double().numpy(), context))
    found = torch.nn.functional.pixel_unshuffle(change, PATCH)[0].double()
    assert (found - expected).norm() / expected.norm() < 5e-3


def test_without_the_middle_path_it_is_nearly_the_plain_transform(
    plain: DinacAE, model: DinacAE, context: LinearContext
) -> None:
    # What stays is the patch's own part, and the end block's features.
    bare = LinearContext(context.center, 0 * context.taps, context.basis)
    latents = torch.randn(1, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(1))
    latents[:, :, 1:3] = 0  # no neighbours above or below in the first and the last row
    t, x_t = torch.ones(1), torch.zeros(1, 3, 4 * PATCH, 4 * PATCH)
    with torch.inference_mode():
        raw = model.dewhiten(latents)
        dropped = model.decoder(x_t, t, raw, drop_middle=True)
        change = (dropped - plain.decoder(x_t, t, raw))[0, :, :PATCH]
    expected = torch.from_numpy(_correct(latents[0].double().numpy(), bare))[:, :1]
    found = torch.nn.functional.pixel_unshuffle(change[None], PATCH)[0].double()
    assert (found - expected).norm() / expected.norm() < 5e-3


def test_it_brings_pictures_nearer_to_their_originals(
    plain: DinacAE, model: DinacAE, images: list[Pixels]
) -> None:
    settings = DinacAEInferenceConfig(seed=0)
    gains = []
    for image in images:
        values = []
        for network in (plain, model):
            engine = Engine(network)
            size = (image.shape[0], image.shape[1])
            (decoded,) = engine.decode(engine.encode([image]), [size], settings)
            values.append(measure_psnr(image, decoded))
        gains.append(values[1] - values[0])
    assert np.mean(gains) > 0.1


def test_more_features_never_fit_worse(images: list[Pixels], statistics: PatchStatistics) -> None:
    errors = []
    for features in (0, 4, FEATURES):
        context = fit_context(images, statistics, CHANNELS, features)
        basis = statistics.components[:, :CHANNELS]
        error = []
        for image in images:
            patches = cut_patches(image, PATCH) - statistics.mean
            latents = patches @ basis / np.sqrt(statistics.variances[:CHANNELS])
            grid = (image.shape[0] // PATCH, image.shape[1] // PATCH)
            residual = patches - patches @ basis @ basis.T
            guess = _correct(latents.T.reshape(CHANNELS, *grid), context)
            change = residual - guess.reshape(len(statistics.mean), -1).T
            error.append(np.log(np.mean(change**2)))
        errors.append(float(np.mean(error)))
    assert errors[0] > errors[1] > errors[2]


def test_other_decoders_are_refused(context: LinearContext) -> None:
    with pytest.raises(UsageError, match="one start, two middle and one end block"):
        add_context({}, context, CONFIG)
