"""The map from latents to colours: its fit, its file, and where it is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dinac_cli.container.header import RecordHeader
from dinac_cli.errors import ModelError, UsageError
from dinac_cli.images.pixels import Pixels
from dinac_cli.jobs.color_fit import ColorSums, average_patches
from dinac_cli.jobs.color_map import ColorMap, ColorMaps, find_map, keep_map, read_map
from dinac_cli.models.aliases import NANO
from dinac_cli.models.registry import find_local

PATCH = 2
SPACE, OTHER = "0123456789abcdef", "fedcba9876543210"
FACTORS = np.array([[0.3, -0.1, 0.2], [0.1, 0.25, -0.3]])
BIAS = np.array([0.1, 0.0, -0.2])


def draw(seed: int, height: int, width: int) -> tuple[npt.NDArray[np.float32], Pixels]:
    """Returns latents [2, h, w] and an image that is exactly, but for rounding, their colours."""
    latents = np.random.default_rng(seed).uniform(-1, 1, (2, height, width)).astype(np.float32)
    colors = np.moveaxis(latents, 0, -1) @ FACTORS + BIAS  # [h, w, 3]
    levels = np.rint((colors + 1) * 127.5).astype(np.uint8)
    return latents, levels.repeat(PATCH, axis=0).repeat(PATCH, axis=1)


def make_header(latent_space: str, channels: int = 2) -> RecordHeader:
    return RecordHeader(
        shape=(channels, 4, 4),
        height=8,
        width=8,
        patch=PATCH,
        latent_space=latent_space,
        weights="f" * 16,
        precision="f32",
        model="some",
    )


def fit() -> ColorMap:
    sums = ColorSums()
    for seed in range(4):
        sums.add(*draw(seed, 16, 12), PATCH)
    return sums.solve(SPACE, "some", ridge=0.0)


def test_fit_finds_the_map_that_made_the_colours() -> None:
    found = fit()
    np.testing.assert_allclose(found.factors, FACTORS, atol=1e-3)
    np.testing.assert_allclose(found.bias, BIAS, atol=1e-3)
    assert (found.images, found.positions) == (4, 4 * 16 * 12)
    assert found.rmse == pytest.approx(1 / 127.5 / np.sqrt(12), rel=0.1)  # of rounding to levels
    assert 0.999 < found.r2 < 1


def test_error_is_that_of_the_painted_colours() -> None:
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 8, 8)).astype(np.float32)
    pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    sums = ColorSums()
    sums.add(latents, pixels, PATCH)
    found = sums.solve(SPACE, "some")
    colors = average_patches(pixels, PATCH)
    error = np.moveaxis(latents, 0, -1) @ found.factors + found.bias - colors
    assert found.rmse == pytest.approx(np.sqrt(np.square(error).mean()), rel=1e-4)
    variance = colors.var(axis=(0, 1)).sum()
    assert found.r2 == pytest.approx(1 - np.square(error).mean(axis=(0, 1)).sum() / variance)


def test_ridge_bounds_channels_that_never_vary() -> None:
    sums = ColorSums()
    latents, pixels = draw(0, 8, 8)
    sums.add(np.concatenate([latents, latents[:1]]), pixels, PATCH)
    found = sums.solve(SPACE, "some")
    np.testing.assert_allclose(found.factors[0], FACTORS[0] / 2, atol=1e-2)
    np.testing.assert_allclose(found.factors[2], FACTORS[0] / 2, atol=1e-2)


def test_partial_patches_are_padded_as_for_an_encoder() -> None:
    pixels = np.zeros((3, 2, 3), np.uint8)
    pixels[2] = 255
    np.testing.assert_allclose(average_patches(pixels, 2)[:, 0, 0], [-1, 1])


def test_paint_inverts_the_fit() -> None:
    latents, pixels = draw(9, 6, 5)
    painted = fit().paint(latents).astype(int)
    assert np.abs(painted - pixels[::PATCH, ::PATCH]).max() <= 1
    extreme = np.full((2, 1, 2), 3e38, np.float32) * np.array([1, -1], np.float32)
    assert fit().paint(extreme).tolist() == [[[255, 255, 0], [0, 0, 255]]]


def test_file_holds_the_keys_of_comfyui(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    found = fit()
    path.write_text(found.to_json("dinac-cli 1"))
    document = json.loads(path.read_text())
    assert document["format"] == "comfy_latent_rgb_affine_v1"
    assert np.shape(document["latent_rgb_factors"]) == (2, 3)
    assert np.shape(document["latent_rgb_factors_bias"]) == (3,)
    again = read_map(path)
    np.testing.assert_allclose(again.factors, found.factors, atol=1e-6)
    assert (again.latent_space, again.model, again.images) == (SPACE, "some", 4)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"latent_rgb_factors": [], "latent_rgb_factors_bias": [0, 0, 0]}',
        '{"latent_rgb_factors": [[1, 2]], "latent_rgb_factors_bias": [0, 0, 0]}',
        '{"latent_rgb_factors": [[1, 2, 3]], "latent_rgb_factors_bias": [0, 0]}',
        '{"latent_rgb_factors": [[1, 2, NaN]], "latent_rgb_factors_bias": [0, 0, 0]}',
        '{"latent_rgb_factors": [[1, 2, 1e30]], "latent_rgb_factors_bias": [0, 0, 0]}',
        '{"latent_rgb_factors": [["a", 2, 3]], "latent_rgb_factors_bias": [0, 0, 0]}',
        '{"latent_rgb_factors": [[1, 2, 3]], "latent_rgb_factors_bias": [0, 0, 0], "images": []}',
        "[" * 100_000,
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "map.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="is no colour map; make one: dinac preview --fit"):
        read_map(path)


def test_map_of_nano_is_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINAC_CACHE", str(tmp_path))
    identity = find_local(NANO, None).identify()
    found = find_map(identity.latent_space)
    assert found is not None
    assert (found.channels, found.model, found.images) == (128, NANO, 294)
    assert found.r2 > 0.999
    keep_map(replace(fit(), latent_space=identity.latent_space), "dinac-cli 1")
    kept = find_map(identity.latent_space)
    assert kept is not None
    assert kept.channels == 2, "the user's own map comes first"


def test_kept_map_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINAC_CACHE", str(tmp_path))
    assert find_map(SPACE) is None
    path = keep_map(fit(), "dinac-cli 1")
    assert path.is_relative_to(tmp_path)
    found = ColorMaps().find(make_header(SPACE))
    assert found.latent_space == SPACE
    path.write_text("damaged")
    assert find_map(SPACE) is None
    assert find_map("../" + SPACE) is None


def test_record_without_a_map_says_how_to_make_one(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(fit().to_json("dinac-cli 1"))
    maps = ColorMaps(str(path))
    assert maps.find(make_header(SPACE)).latent_space == SPACE
    expected = rf"no colour map for latent space {OTHER} of model some \(.*map.json is of another\)"
    with pytest.raises(ModelError, match=expected + "; make one: dinac preview --fit IMAGES"):
        maps.find(make_header(OTHER))
    with pytest.raises(ModelError):
        maps.find(make_header(SPACE, channels=3))


def test_map_without_a_latent_space_fits_all_of_its_channels(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(replace(fit(), latent_space="").to_json("other"))
    maps = ColorMaps(str(path))
    assert maps.find(make_header(OTHER)).channels == 2
    with pytest.raises(ModelError):
        maps.find(make_header(OTHER, channels=3))
