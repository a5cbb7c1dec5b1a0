"""The plain and fast networks, with torch's and Triton's operations, match the references."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.fast import torch_operations

from .conftest import Golden, accelerate_golden

FLOAT32_TOLERANCE = 2e-5
BFLOAT16_FACTOR = 1.2
BFLOAT16_SETTINGS = {0, 1, 2, 3}


def compute_all(model: DinacAE, golden: Golden, image: int) -> dict[str, Tensor]:
    """Encodes an image and predicts from its latents; keys are the references' names."""
    pixels, latents = golden.cases[f"image.{image}"], golden.cases[f"latents.{image}"]
    posterior = model.encode_posterior(pixels)
    return {
        "mean": posterior.mean,
        "logsnr": posterior.logsnr,
        "latents": model.whiten(posterior.mode()),
        "class_token": model.predict_class(latents),
        "spatial_tokens": model.predict_tokens(latents),
    }


def relative_error(result: Tensor, reference: Tensor) -> float:
    assert result.dtype == torch.float32
    assert result.shape == reference.shape
    return float((result - reference).norm() / reference.norm())


def decode(model: DinacAE, golden: Golden, image: int, setting: int) -> Tensor:
    """Decodes each of the reference latents in a batch of one."""
    latents = golden.cases[f"latents.{image}"]
    height, width = golden.cases[f"image.{image}"].shape[2:]
    config = golden.settings[setting]
    return torch.cat([model.decode(z[None], height, width, config) for z in latents])


@pytest.fixture(scope="module", params=["plain", "torch", "triton"])
def networks(request: pytest.FixtureRequest, goldens: list[Golden]) -> list[Golden]:
    """The goldens with the plain networks, and with the fast networks for each implementation."""
    if request.param == "plain":
        return goldens
    if request.param == "torch":
        return [accelerate_golden(golden, torch_operations, range(8)) for golden in goldens]
    operations = request.getfixturevalue("interpreted_operations")
    networks = [accelerate_golden(golden, operations, [0]) for golden in goldens]
    # The interpreter is slow, so each network computes one image in a batch of one.
    return [
        replace(golden, image_count=1, cases={name: t[:1] for name, t in golden.cases.items()})
        for golden in networks
    ]


@torch.inference_mode()
def test_float32_results(networks: list[Golden]) -> None:
    for golden in networks:
        for image in range(golden.image_count):
            for name, result in compute_all(golden.float32, golden, image).items():
                error = relative_error(result, golden.cases[f"{name}.{image}"])
                assert error <= FLOAT32_TOLERANCE, name


@torch.inference_mode()
def test_float32_decoded_images(networks: list[Golden]) -> None:
    for golden in networks:
        assert len(golden.settings) == 8
        for setting in golden.settings_tried:
            for image in range(golden.image_count):
                result = decode(golden.float32, golden, image, setting)
                reference = golden.cases[f"decode.{image}.{setting}"]
                assert relative_error(result, reference) <= FLOAT32_TOLERANCE


@torch.inference_mode()
def test_batch_decodes_like_single_images(pair: Golden) -> None:
    for setting, config in enumerate(pair.settings):
        together = pair.float32.decode(pair.cases["latents.0"], 40, 32, config)
        reference = pair.cases[f"decode.0.{setting}"]
        assert relative_error(together, reference) <= FLOAT32_TOLERANCE


Errors = Iterator[tuple[Tensor, Tensor]]
"""For each image, our bfloat16 error and the reference's, both against float32."""


def latent_errors(goldens: list[Golden]) -> Errors:
    for golden in goldens:
        for i in range(golden.image_count):
            exact = golden.cases[f"latents.{i}"]
            ours = golden.bfloat16.encode(golden.cases[f"image.{i}"])
            yield ours - exact, golden.cases[f"latents_bf16.{i}"] - exact


def class_token_errors(goldens: list[Golden]) -> Errors:
    for golden in goldens:
        for i in range(golden.image_count):
            exact = golden.cases[f"class_token.{i}"]
            ours = golden.bfloat16.predict_class(golden.cases[f"latents.{i}"])
            yield ours - exact, golden.cases[f"class_token_autocast_bf16.{i}"] - exact


def decode_errors(goldens: list[Golden]) -> Errors:
    for golden in goldens:
        for i in range(golden.image_count):
            for setting in set(golden.settings_tried) & BFLOAT16_SETTINGS:
                exact = golden.cases[f"decode.{i}.{setting}"]
                ours = decode(golden.bfloat16, golden, i, setting)
                yield ours - exact, golden.cases[f"decode_bf16.{i}.{setting}"] - exact


@pytest.mark.parametrize("measure", [latent_errors, class_token_errors, decode_errors])
@torch.inference_mode()
def test_bfloat16_error_is_at_most_that_of_the_references(
    measure: Callable[[list[Golden]], Errors], networks: list[Golden]
) -> None:
    errors = list(measure(networks))
    ours = sum(error.square().sum().item() for error, _ in errors) ** 0.5
    theirs = sum(error.square().sum().item() for _, error in errors) ** 0.5
    assert 0 < ours <= BFLOAT16_FACTOR * theirs


@torch.inference_mode()
def test_bfloat16_file_loads_as_the_same_bfloat16_network(pair: Golden, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(pair.folder / "model.bf16.safetensors")
    (tmp_path / "config.json").symlink_to(pair.folder / "config.json")
    stored = DinacAE.from_pretrained(tmp_path, dtype=torch.bfloat16)
    reference = pair.bfloat16.state_dict()
    assert stored.state_dict().keys() == reference.keys()
    for name, tensor in stored.state_dict().items():
        assert tensor.dtype == reference[name].dtype
        assert torch.equal(tensor, reference[name])
    image = pair.cases["image.0"]
    assert torch.equal(stored.encode(image), pair.bfloat16.encode(image))
