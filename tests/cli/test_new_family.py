"""A new family of models works in every command, although nothing else knows it."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from dinac_cli.container.record import unpack_record
from dinac_cli.models import families
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.families import FAMILIES, open_checkpoint
from dinac_cli.models.identity import IdentityRule, ModelIdentity, read_identity
from dinac_cli.models.interface import (
    DECODER,
    ENCODER,
    DinacAEInferenceConfig,
    GpuStep,
    LatentModel,
    ModelTraits,
    OpenModel,
)
from dinac_cli.models.registry import NANO_REVISION, open_nano, resolve_model
from dinac_cli.models.tensor_file import TensorTable, read_tensor_table

from .conftest import save
from .processes import run

PATCH = 4
TRAITS = ModelTraits(
    patch=PATCH,
    channels=3 * PATCH**2,
    parts=frozenset({ENCODER, DECODER}),
    has_posterior=False,
    has_steps=False,
    feature_dim=None,
    token_bytes=64 * 3 * PATCH**2,
)


@dataclass(frozen=True)
class OpenShuffle:
    """A lossless model: the latents are the pixels of a patch, times `gain`."""

    gain: Tensor
    traits: ModelTraits = TRAITS
    dtype: torch.dtype = torch.float32
    is_compiled: bool = False

    @property
    def device(self) -> torch.device:
        return self.gain.device

    def encode_batch(
        self, pixels: Tensor, *, logsnr: bool = False, class_token: bool = False
    ) -> tuple[Tensor, ...]:
        assert (logsnr, class_token) == (False, False)
        images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return ((pixel_unshuffle(images, PATCH) * self.gain).contiguous(),)

    def decode_batch(self, latents: Tensor, settings: DinacAEInferenceConfig) -> Tensor:
        images = pixel_shuffle(latents / self.gain, PATCH)
        levels = ((images + 1) * 127.5).round().clamp(0, 255)
        return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def predict_batch(self, latents: Tensor, *, spatial: bool) -> Tensor:
        raise AssertionError("it predicts nothing")

    def measure_deviation(self, logsnr: Tensor) -> Tensor:
        raise AssertionError("it has no posterior")

    def list_constants(self) -> list[Tensor]:
        return []

    def forget_starts(self) -> None:
        return


class ShuffleModel(LatentModel):
    """A family whose checkpoints are files `….shuffle.safetensors` with the tensor `gain`."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.name.endswith(".shuffle.safetensors")

    def read_traits(self) -> ModelTraits:
        return TRAITS

    def identify(self) -> ModelIdentity:
        rule = IdentityRule(keeps_float32=self.keeps_float32, latent_space=re.compile("gain"))
        return read_identity(self.path, rule)

    def open(
        self,
        parts: Collection[str],
        device: torch.device,
        dtype: torch.dtype,
        step: GpuStep | None = None,
        *,
        compiled: bool = False,
    ) -> OpenModel:
        from safetensors.torch import load_file

        return OpenShuffle(load_file(self.path, str(device))["gain"])

    def read_table(self) -> TensorTable:
        return read_tensor_table(self.path)

    def find_part(self, tensor: str) -> str | None:
        return ENCODER

    def keeps_float32(self, tensor: str) -> bool:
        return True


@pytest.fixture
def shuffle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the new family, which is registered."""
    monkeypatch.setattr(families, "FAMILIES", (ShuffleModel, *FAMILIES))
    path = tmp_path / "toy.shuffle.safetensors"
    save_file({"gain": torch.tensor(2.0)}, path)
    return path


def test_the_first_family_that_recognises_a_checkpoint_opens_it(shuffle: Path) -> None:
    assert open_checkpoint(shuffle, "toy") == ShuffleModel(shuffle, "toy")
    assert open_checkpoint(open_nano().path, "nano", NANO_REVISION) == open_nano()
    assert isinstance(open_checkpoint(Path("gone.safetensors"), "gone"), DinacModel)
    model = resolve_model(str(shuffle))
    assert isinstance(model, ShuffleModel)
    assert model.label == shuffle.name
    assert not model.is_public
    assert pickle.loads(pickle.dumps(model)) == model
    assert {model: 1}[ShuffleModel(shuffle, shuffle.name)] == 1


def test_every_command_knows_a_new_family(shuffle: Path, tmp_path: Path) -> None:
    for number, size in enumerate(((30, 20), (32, 32))):
        save(tmp_path / f"in/{number}.png", *size, number)
    model = ("--model", shuffle.name)
    done = run("encode", "in", "out", *model, "--precision", "f32", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    header = unpack_record((tmp_path / "out/0.png.dinac").read_bytes()).header
    assert (header.patch, header.shape) == (PATCH, (48, 5, 8))
    assert run("decode", "out", "back", *model, cwd=tmp_path).code == 0
    for name in ("0.png", "1.png"):
        first, second = (
            np.asarray(Image.open(tmp_path / place / name)) for place in ("in", "back")
        )
        assert np.array_equal(first, second)  # the model is lossless
    verified = run("verify", "out", "--source", "in", "--reencode", "100", *model, cwd=tmp_path)
    assert (verified.code, verified.err) == (0, "")
    shown = run("models", "show", shuffle.name, "--json", cwd=tmp_path)
    facts = json.loads(shown.out)
    assert (facts["patch"], facts["channels"]) == (PATCH, 48)
    assert facts["parameters"] == {ENCODER: 1}
    told = run("info", "out", "--json", cwd=tmp_path)
    assert facts["latent_space"] in told.out
    measured = run("psnr", "in", "back", cwd=tmp_path)
    assert measured.code == 0
    exported = run("export", "out", "npz", "--to", "npz", cwd=tmp_path)
    assert exported.code == 0


def test_what_a_family_lacks_is_one_line(shuffle: Path, tmp_path: Path) -> None:
    save(tmp_path / "in/0.png", 32, 32, 0)
    model = ("--model", shuffle.name)
    done = run("encode", "in", "out", *model, "--features", cwd=tmp_path)
    assert done.code == 2
    assert "has no class head" in done.err
    assert not (tmp_path / "out").exists()


def test_encoder_without_a_decoder(
    shuffle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in/0.png", 32, 32, 0)
    traits = replace(TRAITS, parts=frozenset({ENCODER}))
    monkeypatch.setattr(ShuffleModel, "read_traits", lambda self: traits)
    model = ("--model", shuffle.name)
    assert run("encode", "in", "out", *model, cwd=tmp_path).code == 0
    done = run("decode", "out", "back", *model, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"dinac: model {shuffle.name} has no decoder: it only encodes; decode with a model of the "
        "same latent space that has one\n"
    )


def test_latents_of_two_families_never_mix(shuffle: Path, tmp_path: Path) -> None:
    save(tmp_path / "in/0.png", 32, 32, 0)
    assert run("encode", "in", "out", "--model", shuffle.name, cwd=tmp_path).code == 0
    done = run("encode", "in", "out", "--model", "nano", cwd=tmp_path)
    assert done.code == 2
    assert "choose another OUT" in done.err
    done = run("decode", "out", "back", "--model", "nano", cwd=tmp_path)
    assert done.code == 3
    assert "do not fit model nano" in done.err


def test_compare_measures_a_model_without_steps_once(shuffle: Path, tmp_path: Path) -> None:
    for number, size in enumerate(((30, 20), (170, 165))):
        save(tmp_path / f"in/{number}.png", *size, number)
    options = ("--steps", "1,2", "--precision", "f32,q3", "--no-speed", "--dtype", "f32")
    done = run("compare", "in", "out", "--model", shuffle.name, *options, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    figures = json.loads((tmp_path / "out/compare.json").read_bytes())
    exact, rounded = figures["variants"]
    assert [(v["precision"], v["steps"]) for v in (exact, rounded)] == [
        ("f32", None),
        ("q3", None),
    ]
    assert (exact["psnr_db"]["identical"], exact["psnr_db"]["mean"]) == (2, None)
    assert (exact["ssim"], exact["ms_ssim"], exact["ms_ssim_images"]) == (1.0, 1.0, 1)
    assert 20 < rounded["psnr_db"]["mean"] < 60
    assert figures["models"][0]["patch"] == PATCH
    row = f"| {shuffle.name} | f32 | - | - | - | - | - | - | 1.0000 | 1.0000 |"
    assert row in (tmp_path / "out/card.md").read_text("utf-8")
    page = (tmp_path / "out/index.html").read_text("utf-8")
    assert "against decoder steps" not in page
    assert "toy.shuffle.safetensors: " in page
    again = run("compare", "in", "out", "--model", shuffle.name, *options, cwd=tmp_path)
    assert "nothing to do" in again.out
