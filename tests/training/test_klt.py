"""The network built from a KLT computes that KLT."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from dinac_cli.codec.quantizer import SENSITIVITY_KEY
from dinac_cli.errors import UsageError
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.samples import draw_clouds, draw_leaves, draw_page
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.interface import DinacAEInferenceConfig
from dinac_cli.models.registry import open_nano, resolve_model
from dinac_cli.training import klt
from dinac_cli.training.klt import (
    NANO_CONFIG,
    PatchStatistics,
    build_klt,
    cut_patches,
    main,
    measure_patches,
    measure_sensitivity,
)

PATCH = 8
SMALL = DinacAEConfig(
    patch_size=PATCH,
    model_dim=64,
    encoder_depth=1,
    decoder_depth=3,
    decoder_start_blocks=1,
    decoder_end_blocks=1,
    bottleneck_dim=16,
    adaln_low_rank_rank=4,
    mlp_ratio=1.0,
).without_class_head()


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    return [
        draw(64 + PATCH // 2, 96 + PATCH // 2) for draw in (draw_clouds, draw_leaves, draw_page)
    ]


@pytest.fixture(scope="module")
def statistics(images: list[Pixels]) -> PatchStatistics:
    return measure_patches(images, PATCH)


@pytest.fixture(scope="module")
def model(statistics: PatchStatistics) -> DinacAE:
    model = DinacAE(SMALL)
    model.load_state_dict(build_klt(statistics, SMALL))
    return model.eval()


def as_tensor(image: Pixels) -> Tensor:
    """Converts an image's whole patches [H, W, 3] to the network's input [1, 3, H, W]."""
    pixels = torch.from_numpy(crop_to_patches(image).copy()).permute(2, 0, 1)[None]
    return pixels.float() / 127.5 - 1


def crop_to_patches(image: Pixels) -> Pixels:
    height, width = (side // PATCH * PATCH for side in image.shape[:2])
    return image[:height, :width]


def list_orientations(images: list[Pixels]) -> Iterator[Pixels]:
    """Yields all images on both grids of patches, in all eight orientations."""
    for image, offset in itertools.product(images, (0, PATCH // 2)):
        part = crop_to_patches(image[offset:, offset:])
        for transposed in (part, part.transpose(1, 0, 2)):
            for flipped in (transposed, transposed[::-1]):
                yield from (flipped, flipped[:, ::-1])


def project(image: Pixels, statistics: PatchStatistics, channels: int) -> npt.NDArray[np.float64]:
    """Computes the whitened components [h, w, C] of an image's patches."""
    rows, columns = image.shape[0] // PATCH, image.shape[1] // PATCH
    patches = cut_patches(image, PATCH) - statistics.mean
    whitened = (
        patches @ statistics.components[:, :channels] / np.sqrt(statistics.variances[:channels])
    )
    return whitened.reshape(rows, columns, channels)


class TestStatistics:
    def test_patches_are_ordered_channel_row_column(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        patches = cut_patches(image, PATCH)
        assert patches.shape == (2 * 3, 3 * PATCH * PATCH)
        cut = patches[1 * 3 + 2].reshape(3, PATCH, PATCH)  # second row, third column
        expected = image[8:16, 16:24].transpose(2, 0, 1) / 127.5 - 1
        assert np.allclose(cut, expected)
        unfolded = torch.nn.functional.unfold(as_tensor(image), PATCH, stride=PATCH)
        assert np.allclose(unfolded[0].T.numpy(), patches, atol=1e-6)

    def test_cover_all_orientations_on_both_grids(
        self, images: list[Pixels], statistics: PatchStatistics
    ) -> None:
        patches = np.concatenate(
            [cut_patches(oriented, PATCH) for oriented in list_orientations(images)]
        )
        assert np.allclose(statistics.mean, patches.mean(0))
        covariance = np.cov(patches.T, bias=True)
        rebuilt = (statistics.components * statistics.variances) @ statistics.components.T
        assert np.allclose(rebuilt, covariance, atol=1e-9)

    def test_strongest_component_is_first(self, statistics: PatchStatistics) -> None:
        assert (np.diff(statistics.variances) <= 1e-12).all()
        size = 3 * PATCH * PATCH
        assert statistics.components.shape == (size, size)
        assert np.allclose(statistics.components.T @ statistics.components, np.eye(size))

    def test_images_smaller_than_a_patch_are_refused(self) -> None:
        with pytest.raises(UsageError, match="no image holds a patch of 8x8"):
            measure_patches([np.zeros((7, 50, 3), np.uint8)], PATCH)
        with pytest.raises(UsageError, match="no image holds a patch"):
            measure_patches([], PATCH)

    @pytest.mark.parametrize("level", [0, 200])
    def test_flat_images_are_refused(self, level: int) -> None:
        flat = measure_patches([np.full((64, 64, 3), level, np.uint8)], PATCH)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UsageError, match="too few or too flat for 64 components"):
                build_klt(flat, SMALL)


class TestEncoder:
    def test_computes_the_whitened_projection(
        self, images: list[Pixels], statistics: PatchStatistics, model: DinacAE
    ) -> None:
        for image in images:
            with torch.inference_mode():
                latents = model.encode(as_tensor(image))[0].permute(1, 2, 0).numpy()
            expected = project(image, statistics, SMALL.bottleneck_dim)
            # Whitening divides by sqrt(variance + 1e-4).
            assert np.abs(latents - expected).max() < 2e-4 * np.abs(expected).max() + 1e-4

    def test_latents_over_the_data_are_white(self, images: list[Pixels], model: DinacAE) -> None:
        with torch.inference_mode():
            latents = torch.cat(
                [
                    model.encode(as_tensor(oriented)).flatten(2)[0].T
                    for oriented in list_orientations(images)
                ]
            ).numpy()
        assert np.abs(latents.mean(0)).max() < 1e-3
        assert np.abs(latents.std(0) - 1).max() < 1e-3
        assert np.abs(np.corrcoef(latents.T) - np.eye(SMALL.bottleneck_dim)).max() < 1e-3

    def test_posterior_is_narrow(self, images: list[Pixels], model: DinacAE) -> None:
        with torch.inference_mode():
            posterior = model.encode_posterior(as_tensor(images[0]))
            samples = torch.stack([posterior.sample() - posterior.mode() for _ in range(8)])
        assert abs(samples.std().item() / klt.POSTERIOR_STD - 1) < 0.05


class TestDecoder:
    def rebuild(self, image: Pixels, statistics: PatchStatistics) -> npt.NDArray[np.float64]:
        """Projects an image onto the leading components, [3, H, W] in [-1, 1]."""
        channels = SMALL.bottleneck_dim
        scaled = project(image, statistics, channels) * np.sqrt(statistics.variances[:channels])
        patches = scaled @ statistics.components[:, :channels].T + statistics.mean  # [h, w, 3PP]
        rows, columns, _ = patches.shape
        grid = patches.reshape(rows, columns, 3, PATCH, PATCH).transpose(2, 0, 3, 1, 4)
        return grid.reshape(3, rows * PATCH, columns * PATCH)

    def test_estimate_is_the_projection_for_any_noise(
        self, images: list[Pixels], statistics: PatchStatistics, model: DinacAE
    ) -> None:
        for time in (1.0, 0.5, 0.0):
            for image in images:
                pixels = as_tensor(image)
                with torch.inference_mode():
                    raw = model.dewhiten(model.encode(pixels))
                    noise = torch.randn_like(pixels)
                    x0 = model.decoder(noise, torch.tensor([time]), raw)[0].numpy()
                assert np.abs(x0 - self.rebuild(image, statistics)).max() < 2e-4

    @pytest.mark.parametrize("steps", [1, 4])
    def test_image_is_the_projection_plus_the_last_noise_of_the_sampler(
        self, images: list[Pixels], statistics: PatchStatistics, model: DinacAE, steps: int
    ) -> None:
        pixels = as_tensor(images[1])
        settings = DinacAEInferenceConfig(num_steps=steps, seed=0)
        with torch.inference_mode():
            decoded = model.reconstruct(pixels, settings)[0].numpy()
        error = decoded - self.rebuild(images[1], statistics)
        assert 0.3 < error.std() * 127.5 < 0.6  # half a level


class TestSensitivity:
    def test_is_the_change_of_the_image(self, statistics: PatchStatistics, model: DinacAE) -> None:
        listed = measure_sensitivity(statistics, SMALL.bottleneck_dim)
        assert len(listed) == SMALL.bottleneck_dim
        assert listed == sorted(listed, reverse=True)
        latents = torch.zeros(1, SMALL.bottleneck_dim, 1, 1)
        t, noise = torch.tensor([1.0]), torch.zeros(1, 3, PATCH, PATCH)
        with torch.inference_mode():
            base = model.decoder(noise, t, model.dewhiten(latents))
            for channel, sensitivity in enumerate(listed):
                latents.zero_()[0, channel] = 1.0
                change = model.decoder(noise, t, model.dewhiten(latents)) - base
                measured = change.square().mean().sqrt().item() * 127.5
                assert abs(measured / sensitivity - 1) < 1e-3


class TestMain:
    def test_writes_a_checkpoint_that_loads(
        self, tmp_path: Path, images: list[Pixels], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(klt, "NANO_CONFIG", SMALL)
        (tmp_path / "in/sub").mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"in/sub/{number}.png")
        (tmp_path / "in/notes.txt").write_text("no image")
        main(str(tmp_path / "in"), str(tmp_path / "out"))
        values = json.loads((tmp_path / "out/config.json").read_text())
        assert len(values[SENSITIVITY_KEY]) == SMALL.bottleneck_dim
        checkpoint = resolve_model(str(tmp_path / "out"))
        assert DinacModel(checkpoint.path, "").read_config() == SMALL
        model = DinacAE.from_pretrained(tmp_path / "out")
        with torch.inference_mode():
            latents = model.encode(as_tensor(images[0]))
        expected = project(images[0], measure_patches(images, PATCH), SMALL.bottleneck_dim)
        error = latents[0].permute(1, 2, 0).numpy() - expected
        assert np.abs(error).max() < 0.05 * np.abs(expected).max()  # stored in bfloat16
        before = (tmp_path / "out/model.safetensors").read_bytes()
        main(str(tmp_path / "in"), str(tmp_path / "out"))
        assert (tmp_path / "out/model.safetensors").read_bytes() == before

    def test_architecture_equals_the_embedded_model(self) -> None:
        assert open_nano().read_config() == NANO_CONFIG
