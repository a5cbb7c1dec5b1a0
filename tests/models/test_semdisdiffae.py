"""SemDisDiffAE and decoders of its kind: the network, the configuration, the norm, the identity."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinac_cli import DinacAE, DinacAEConfig, DinacAEInferenceConfig
from dinac_cli.errors import CheckpointError, ModelError, UsageError
from dinac_cli.models.dinac import norm_choice
from dinac_cli.models.dinac.autoencoder import list_shapes
from dinac_cli.models.dinac.checkpoint import save_checkpoint
from dinac_cli.models.dinac.config import RELEASED, from_json, to_json
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.dinac.norm_choice import choose_mode
from dinac_cli.models.dinac.norm_trial import measure_spreads
from dinac_cli.models.dinac.source import locate_checkpoint, read_config
from dinac_cli.models.dinac.tensor_names import find_part, keeps_float32
from dinac_cli.models.interface import DECODER, ENCODER

from ..semdisdiffae import CONFIG, UNCLEAR, draw_model, encode_scenes, write_checkpoint
from .conftest import GOLDEN, read_json
from .test_fast_autoencoder import draw_images, draw_pixels
from .test_golden import BFLOAT16_FACTOR, FLOAT32_TOLERANCE, relative_error

MODES = ("disabled", "channel_wise")
FILES = {"semdisdiffae": "semdisdiffae", "semdisdiffae-p32": "semdisdiffae_p32_v2"}
SETTINGS = DinacAEInferenceConfig(seed=1)


@pytest.fixture(scope="module")
def models() -> dict[str, DinacAE]:
    """A network of each mode; the statistics fit the mode. Patch 16 and 32."""
    return {
        "disabled": draw_model("disabled"),
        "channel_wise": draw_model("channel_wise", patch_size=32),
    }


@pytest.fixture
def forbid_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> dict[str, float]:
        raise AssertionError("the model was tried")

    monkeypatch.setattr(norm_choice, "_measure", fail)


class TestNetwork:
    @pytest.mark.parametrize("name", FILES)
    def test_tensors_are_those_of_the_manifest(self, name: str) -> None:
        manifest = read_json(GOLDEN / f"{FILES[name]}.manifest.json")
        shapes = list_shapes(RELEASED[name])
        assert {key: list(shape) for key, shape in shapes.items()} == manifest["tensors"]
        with torch.device("meta"):
            counts = DinacAE(RELEASED[name]).count_parameters()
        assert counts == manifest["parameters"]
        assert (len(shapes), counts["total"]) in [(140, 88_771_328), (176, 156_636_928)]

    @pytest.mark.parametrize("mode", MODES)
    @torch.inference_mode()
    def test_encoder_computes_what_the_description_says(
        self, mode: str, models: dict[str, DinacAE]
    ) -> None:
        plain = models[mode]
        model = DinacAE(replace(plain.config, bottleneck_norm_mode=mode))
        model.load_state_dict(plain.state_dict())
        images = draw_images(2, 96, 64)
        posterior = model.encode_posterior(images)
        mean, logsnr = encode_simply(images, plain.state_dict(), norm=mode == "channel_wise")
        assert relative_error(posterior.mean, mean) <= FLOAT32_TOLERANCE
        assert relative_error(posterior.logsnr, logsnr) <= FLOAT32_TOLERANCE
        state = plain.state_dict()
        raw = torch.sqrt(torch.sigmoid(logsnr)) * mean
        shift, variance = (
            state[f"latent_norm_running_{x}"][:, None, None] for x in ("mean", "var")
        )
        expected = (raw - shift) / torch.sqrt(variance + 1e-4)
        assert relative_error(model.encode(images), expected) <= FLOAT32_TOLERANCE

    @pytest.mark.parametrize("mode", MODES)
    @torch.inference_mode()
    def test_fast_network_in_float32(self, mode: str, models: dict[str, DinacAE]) -> None:
        plain = set_mode(models[mode], mode)
        fast, pixels = accelerate(plain), draw_pixels(2, 96, 64)
        posterior, expected = fast.encode_pixels(pixels), plain.encode_pixels(pixels)
        assert relative_error(posterior.mean, expected.mean) <= FLOAT32_TOLERANCE
        assert relative_error(posterior.logsnr, expected.logsnr) <= FLOAT32_TOLERANCE
        latents = plain.whiten(expected.mode())
        decoded = fast.decode(latents, 96, 64, SETTINGS)
        assert relative_error(decoded, plain.decode(latents, 96, 64, SETTINGS)) <= 1e-5
        levels = fast.decode_pixels(latents, SETTINGS).int()
        assert (levels - plain.decode_pixels(latents, SETTINGS).int()).abs().max() <= 1

    @torch.inference_mode()
    def test_fast_encoder_with_triton(
        self, models: dict[str, DinacAE], interpreted_operations: Operations
    ) -> None:
        plain, pixels = models["channel_wise"], draw_pixels(1, 64, 32)
        posterior = accelerate(plain, interpreted_operations).encode_pixels(pixels)
        expected = plain.encode_pixels(pixels)
        assert relative_error(posterior.mean, expected.mean) <= FLOAT32_TOLERANCE
        assert relative_error(posterior.logsnr, expected.logsnr) <= FLOAT32_TOLERANCE

    @torch.inference_mode()
    def test_bfloat16_gate(self, models: dict[str, DinacAE], tmp_path: Path) -> None:
        """The fast network's error in bfloat16 is at most the plain one's, pooled."""
        exact = models["disabled"]
        folder = write_checkpoint(tmp_path / "m", exact)
        plain = DinacAE.from_pretrained(folder, dtype=torch.bfloat16)
        plain.validate_inference_storage()
        assert plain.encoder.blocks[0].layer_scale.dtype == torch.float32
        fast, images = accelerate(plain), draw_images(4, 96, 80)
        latents = exact.encode(images)
        decoded = exact.decode(latents, 96, 80, SETTINGS)
        tasks: list[tuple[Callable[[DinacAE], Tensor], Tensor]] = [
            (lambda model: model.encode(images), latents),
            (lambda model: model.decode(latents, 96, 80, SETTINGS), decoded),
        ]
        for compute, wanted in tasks:
            ours, theirs = ((compute(model) - wanted).norm() for model in (fast, plain))
            assert 0 < ours <= BFLOAT16_FACTOR * theirs
            assert theirs <= 0.05 * wanted.norm()

    def test_layer_scale_stays_float32(self) -> None:
        assert keeps_float32("encoder.blocks.3.layer_scale")
        assert find_part("encoder.blocks.3.layer_scale") == ENCODER


def encode_simply(images: Tensor, state: dict[str, Tensor], *, norm: bool) -> tuple[Tensor, Tensor]:
    """Computes the encoder from its description, channels first, with torch's own layers."""

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        weight, bias = state[f"encoder.{name}.weight"], state[f"encoder.{name}.bias"]
        return F.conv2d(x, weight, bias, **options)

    patch = state["encoder.patchify.proj.weight"].shape[-1]
    x = conv(images, "patchify.proj", stride=patch)
    for index in range(2):
        block = f"blocks.{index}"
        u = conv(x, f"{block}.dwconv", padding=3, groups=x.shape[1])
        u = u / torch.sqrt((u**2).mean(dim=1, keepdim=True) + 1e-6)
        u = F.gelu(conv(u, f"{block}.pwconv1"))
        size = (u**2).sum(dim=(2, 3), keepdim=True).sqrt()
        relative = size / (size.mean(dim=1, keepdim=True) + 1e-6)
        gamma, beta = state[f"encoder.{block}.grn.gamma"], state[f"encoder.{block}.grn.beta"]
        u = conv(gamma * (u * relative) + beta + u, f"{block}.pwconv2")
        x = x + state[f"encoder.{block}.layer_scale"].reshape(-1, 1, 1) * u
    moments = conv(x, "to_bottleneck")
    mean, logsnr = moments.chunk(2, dim=1)
    if norm:
        mean = mean / torch.sqrt((mean**2).mean(dim=1, keepdim=True) + 1e-6)
    return mean, logsnr


def set_mode(model: DinacAE, mode: str) -> DinacAE:
    """Returns the same network with another norm of the posterior's mean."""
    copy = DinacAE(replace(model.config, bottleneck_norm_mode=mode)).eval().requires_grad_(False)
    copy.load_state_dict(model.state_dict())
    return copy


class TestConfiguration:
    def test_published_configurations_are_read(self) -> None:
        p16 = CONFIG | {
            "model_dim": 896,
            "encoder_depth": 4,
            "decoder_depth": 8,
            "decoder_start_blocks": 2,
            "decoder_end_blocks": 2,
            "bottleneck_dim": 128,
            "mlp_ratio": 4.0,
            "adaln_low_rank_rank": 128,
        }
        del p16["latent_running_stats_eps"]
        assert from_json(p16) == RELEASED["semdisdiffae"]
        p32: dict[str, Any] = {
            "patch_size": 32,
            "model_dim": 1024,
            "encoder_depth": 8,
            "bottleneck_dim": 384,
        }
        p32 |= {"bottleneck_patchify_mode": "off"}
        assert from_json(p16 | p32) == RELEASED["semdisdiffae-p32"]

    @pytest.mark.parametrize("name", FILES)
    def test_configuration_is_saved_and_loaded(self, name: str, tmp_path: Path) -> None:
        for mode in MODES:
            config = replace(RELEASED[name], bottleneck_norm_mode=mode)
            config.save(tmp_path / "config.json")
            assert DinacAEConfig.load(tmp_path / "config.json") == config

    @pytest.mark.parametrize("name", FILES)
    def test_sizes_are_inferred_from_a_bare_file(self, name: str, tmp_path: Path) -> None:
        shapes = list_shapes(RELEASED[name])
        write_empty(tmp_path / "bare.safetensors", shapes)
        assert DinacModel(tmp_path / "bare.safetensors", "").read_config() == RELEASED[name]

    def test_configuration_gives_the_constants(
        self, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        constants: dict[str, Any] = {
            "logsnr_max": 9.0,
            "latent_running_stats_eps": 1e-3,
            "pixel_noise_std": 0.5,
        }
        folder = write_checkpoint(tmp_path / "m", models["disabled"], constants)
        expected = replace(models["disabled"].config, **constants)
        assert DinacModel(folder, "").read_config() == expected

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model_dim": 128}, "model_dim is 128, but the tensors have 64; use the config.json"),
            ({"encoder_depth": 8}, "encoder_depth is 8, but the tensors have 2"),
            ({"mlp_ratio": [[]]}, "mlp_ratio is a list, but the tensors have 2.0"),
            ({"encoder_type": "none"}, "encoder_type is 'none', but the tensors have fcdm"),
            ({"bottleneck_norm_mode": "batch"}, "bottleneck_norm_mode is 'batch'; it must be 'dis"),
            ({"bottleneck_norm_mode": [1]}, "bottleneck_norm_mode is a list; it must be"),
            ({"bottleneck_posterior_kind": "none"}, "bottleneck_posterior_kind is 'none'; only"),
            ({"bottleneck_patchify_mode": "patch_2x2"}, "'patch_2x2'; the order of its channels"),
            ({"bottleneck_patchify_mode": {}}, "bottleneck_patchify_mode is a dict"),
            ({"encoder_type": []}, "encoder_type is a list, but the tensors have fcdm"),
            ({"logsnr_min": "low"}, "logsnr_min is 'low'"),
            ({"latent_running_stats_eps": 0}, "latent_running_stats_eps is 0"),
        ],
    )
    def test_wrong_configurations_are_refused(
        self,
        change: dict[str, Any],
        message: str,
        models: dict[str, DinacAE],
        tmp_path: Path,
    ) -> None:
        folder = write_checkpoint(tmp_path / "m", models["disabled"], CONFIG | change)
        model = DinacModel(folder, "m")
        for read in (model.read_traits, model.identify):
            with pytest.raises(ModelError, match=re.escape(message)) as refusal:
                read()
            assert str(refusal.value).startswith(str(folder / "config.json"))
            assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"encoder_type": "dico"}, "encoder_type is 'dico'; it must be"),
            ({"encoder_type": []}, "encoder_type is a list; it must be"),
            ({"encoder_type": "none"}, "encoder_depth is 2, but encoder_type is 'none'"),
            ({"encoder_depth": 0}, "encoder_depth is 0, but encoder_type is 'fcdm'"),
            ({"has_latent_statistics": "no"}, "has_latent_statistics is 'no'; it must be"),
        ],
    )
    def test_wrong_fields_are_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ModelError, match=re.escape(message)):
            from_json(CONFIG | change)

    def test_configuration_of_another_encoder_is_refused(
        self, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        folder = write_checkpoint(
            tmp_path / "m", models["disabled"], CONFIG | {"encoder_mlp_type": "gelu"}
        )
        with pytest.raises(CheckpointError, match=r"use the config\.json that belongs to these"):
            DinacAE.from_pretrained(folder)

    def test_errors_name_the_file_that_is_wrong(
        self, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        """A tensor that is missing or unreadable is no fault of the config.json."""
        folder = write_checkpoint(tmp_path / "m", models["disabled"])
        weights = folder / "model.safetensors"
        tensors = load_file(weights)
        up = tensors.pop("decoder.latent_up.weight")
        save_file(tensors, weights)
        message = (
            "the network's sizes cannot be inferred: tensor decoder.latent_up.weight is missing"
        )
        with pytest.raises(ModelError) as refusal:
            DinacModel(folder, "").read_traits()
        assert str(refusal.value).startswith(f"{weights}: {message}; ")
        variances = tensors["latent_norm_running_var"].double()
        changed = {"decoder.latent_up.weight": up, "latent_norm_running_var": variances}
        save_file(tensors | changed, weights)
        (folder / "config.json").unlink()
        with pytest.raises(ModelError) as refusal:
            DinacModel(folder, "").read_traits()
        assert str(refusal.value).startswith(f"{weights}: tensor latent_norm_running_var has type")

    def test_folded_latents_are_refused(self, models: dict[str, DinacAE], tmp_path: Path) -> None:
        tensors = dict(models["disabled"].state_dict())
        for name in ("latent_norm_running_mean", "latent_norm_running_var"):
            tensors[name] = torch.ones(4 * 8)
        save_file(tensors, tmp_path / "p32.safetensors")
        message = (
            "bottleneck_patchify_mode is 'patch_2x2'; the order of its channels is not published"
        )
        with pytest.raises(ModelError, match=message):
            DinacModel(tmp_path / "p32.safetensors", "").read_traits()

    def test_transformer_without_its_key_is_still_read(self, tmp_path: Path) -> None:
        values = read_json(GOLDEN / "tiny" / "config.json")
        tensors = load_file(GOLDEN / "tiny" / "model.safetensors")
        head = [key for key in values if key.startswith("class_head_")]
        for key in (*head, "encoder_mlp_type"):
            del values[key]
        kept = {k: x for k, x in tensors.items() if not k.startswith("dino_token")}
        save_file(kept, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(values), "utf-8")
        config = DinacModel(tmp_path, "").read_config()
        assert (config.encoder_type, config.class_head) == ("transformer", None)


def write_empty(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Writes a checkpoint without content: a sparse file. Its variances are 1."""
    header, offset = {}, 0
    for name, shape in sorted(
        shapes.items(), key=lambda item: item[0] != "latent_norm_running_var"
    ):
        size_bytes = 4 * int(torch.Size(shape).numel())
        offsets = [offset, offset + size_bytes]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
        offset += size_bytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(torch.ones(shapes["latent_norm_running_var"]).numpy().tobytes())
        file.truncate(8 + len(text) + offset)


class TestNorm:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("stated", MODES)
    def test_trial_decides_the_norm(
        self, mode: str, stated: str, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        """Whatever the configuration says."""
        patch = models[mode].config.patch_size
        config = CONFIG | {"bottleneck_norm_mode": stated, "patch_size": patch}
        folder = write_checkpoint(tmp_path / "m", models[mode], config)
        model = DinacAE.from_pretrained(folder)
        assert model.config.bottleneck_norm_mode == mode
        assert DinacModel(folder, "").identify() == self._hash(folder, mode, patch)

    @staticmethod
    def _hash(folder: Path, mode: str, patch: int) -> object:
        from dinac_cli.models.dinac.model import make_rule
        from dinac_cli.models.identity import compute_identity

        config = from_json(CONFIG | {"bottleneck_norm_mode": mode, "patch_size": patch})
        return compute_identity(folder / "model.safetensors", make_rule(config))

    def test_norm_and_epsilon_are_part_of_both_identities(
        self, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        found = []
        for mode, eps in (("disabled", 1e-4), ("channel_wise", 1e-4), ("disabled", 1e-3)):
            config = CONFIG | {"bottleneck_norm_mode": mode, "latent_running_stats_eps": eps}
            config |= {"bottleneck_norm_confirmed": True}
            folder = write_checkpoint(tmp_path / f"{mode}-{eps}", models["disabled"], config)
            found.append(DinacModel(folder, "").identify())
        assert len({identity.latent_space for identity in found}) == 3
        assert len({identity.weights for identity in found}) == 3

    def test_model_is_tried_once(
        self,
        models: dict[str, DinacAE],
        tmp_path: Path,
        own_cache: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder = write_checkpoint(tmp_path / "m", models["disabled"])
        tried, measure = [], norm_choice._measure

        def count(*arguments: Any) -> dict[str, float]:
            tried.append(arguments)
            return measure(*arguments)

        monkeypatch.setattr(norm_choice, "_measure", count)
        identity = DinacModel(folder, "").identify()
        for _ in range(2):
            assert DinacModel(folder, "").identify() == identity
            DinacAE.from_pretrained(folder)
            DinacAE.from_pretrained(folder, parts={DECODER})
            DinacModel(folder, "").read_traits()
        assert len(tried) == 1
        document = json.loads((own_cache / "identities.json").read_text("utf-8"))
        [spreads] = document["measurements"].values()
        assert choose_mode(spreads) == "disabled"
        damages: list[Any] = [{"disabled": 1}, {"disabled": "x"}, [], None]
        for damage in damages:  # then it is tried again
            document["measurements"] = dict.fromkeys(document["measurements"], damage)
            (own_cache / "identities.json").write_text(json.dumps(document), "utf-8")
            assert DinacModel(folder, "").identify() == identity
        assert len(tried) == 5
        os.utime(folder / "model.safetensors", ns=(1, 1))
        assert DinacModel(folder, "").identify() == identity
        assert len(tried) == 6

    def test_unclear_norm_is_refused_and_remembered(
        self, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        unclear = draw_model("disabled", UNCLEAR)
        folder = write_checkpoint(tmp_path / "m", unclear)
        message = (
            rf"{re.escape(str(folder / 'model.safetensors'))}: bottleneck_norm_mode is in doubt: "
            r"the spread of the latents of sample images is [\d.]+ \(disabled\) and [\d.]+ "
            r"\(channel_wise\), and must be near 1 for exactly one of them; if you know which is "
            r'right, add it and "bottleneck_norm_confirmed": true to the config\.json in a folder '
            "with these weights"
        )
        for act in (DinacModel(folder, "").identify, lambda: DinacAE.from_pretrained(folder)):
            with pytest.raises(ModelError) as refusal:
                act()
            assert re.fullmatch(message, str(refusal.value))
            request.getfixturevalue("forbid_trials")
        DinacAE.from_pretrained(folder, parts={DECODER})  # the decoder has no norm

    @pytest.mark.usefixtures("forbid_trials")
    @pytest.mark.parametrize("mode", MODES)
    def test_confirmed_norm_is_not_tried(
        self, mode: str, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        config = CONFIG | {"bottleneck_norm_mode": mode, "bottleneck_norm_confirmed": True}
        folder = write_checkpoint(tmp_path / "m", models["disabled"], config)
        assert DinacAE.from_pretrained(folder).config.bottleneck_norm_mode == mode
        DinacModel(folder, "").identify()

    @pytest.mark.usefixtures("forbid_trials")
    def test_saved_network_is_not_in_doubt(
        self, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        model = set_mode(models["disabled"], "channel_wise")
        save_checkpoint(model.state_dict(), model.config, tmp_path / "m")
        loaded = DinacAE.from_pretrained(tmp_path / "m")
        assert loaded.config == model.config

    def test_wrong_statistics_are_refused(self, models: dict[str, DinacAE], tmp_path: Path) -> None:
        changes: list[Callable[[Tensor, Tensor], object]] = [
            lambda mean, var: var.mul_(100),
            lambda mean, var: var.mul_(0.0001),
            lambda mean, var: mean.add_(5),
            lambda mean, var: mean.fill_(float("nan")),
        ]
        for number, change in enumerate(changes):
            model = set_mode(models["disabled"], "disabled")
            change(model.latent_norm_running_mean, model.latent_norm_running_var)
            folder = write_checkpoint(tmp_path / str(number), model)
            with pytest.raises(ModelError, match="bottleneck_norm_mode is in doubt"):
                DinacModel(folder, "").identify()

    @pytest.mark.parametrize(
        ("disabled", "channel_wise", "mode"),
        [
            (1.0, 20.0, "disabled"),
            (0.05, 1.1, "channel_wise"),
            (2.9, 9.0, "disabled"),
            (2.9, 8.0, None),  # not three times farther
            (1.0, 2.9, None),  # both are near
            (0.34, 0.01, "disabled"),
            (0.3, 0.01, None),  # neither is near
            (1.0, float("nan"), "disabled"),
            (float("nan"), float("nan"), None),
            (float("inf"), 1.0, "channel_wise"),
            (0.0, 1.0, "channel_wise"),
            (-1.0, 5.0, None),
        ],
    )
    def test_rule(self, disabled: float, channel_wise: float, mode: str | None) -> None:
        assert choose_mode({"disabled": disabled, "channel_wise": channel_wise}) == mode

    @pytest.mark.parametrize("patch", [1, 24])
    def test_any_patch_can_be_tried(
        self, patch: int, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        """256 is not divisible by 24."""
        odd = DinacAE(replace(models["disabled"].config, patch_size=patch))
        files = locate_checkpoint(write_checkpoint(tmp_path / "m", odd))
        spreads = measure_spreads(files, read_config(files))
        assert sorted(spreads) == sorted(MODES)
        assert all(0 < spread < 1 for spread in spreads.values())

    @torch.inference_mode()
    def test_sample_images_are_like_photographs(self) -> None:
        """The latents of nano, whose statistics come from photographs, have a spread near 1."""
        nano = DinacAE.from_pretrained("nano", parts={ENCODER})
        latents = [nano.whiten(posterior.mode()) for posterior in encode_scenes(nano)]
        spread = torch.cat(latents, dim=3).var(dim=(0, 2, 3))
        low, middle, high = spread.quantile(torch.tensor([0.1, 0.5, 0.9]))
        assert 0.5 < low < middle < high < 2

    def test_small_variances_need_an_epsilon(self, tmp_path: Path) -> None:
        small = draw_model("disabled", 0.05)
        config = {key: value for key, value in CONFIG.items() if key != "latent_running_stats_eps"}
        folder = write_checkpoint(tmp_path / "small", small, config)
        with pytest.raises(ModelError) as refusal:
            DinacModel(folder, "").identify()
        assert "the constant latent_running_stats_eps must be known; put it into" in str(
            refusal.value
        )
        known = write_checkpoint(tmp_path / "known", small, {"latent_running_stats_eps": 1e-4})
        assert DinacAE.from_pretrained(known).config.bottleneck_norm_mode == "disabled"

    def test_large_variances_need_none(self, models: dict[str, DinacAE], tmp_path: Path) -> None:
        config = {key: value for key, value in CONFIG.items() if key != "latent_running_stats_eps"}
        config["patch_size"] = 32
        folder = write_checkpoint(tmp_path / "m", models["channel_wise"], config)
        assert models["channel_wise"].latent_norm_running_var.min() >= 0.01
        assert DinacModel(folder, "").read_config().latent_running_stats_eps == 1e-4

    @pytest.mark.usefixtures("forbid_trials")
    def test_other_families_are_not_tried(self) -> None:
        for path in (GOLDEN / "tiny", GOLDEN / "pair" / "model.safetensors"):
            DinacModel(path, "").identify()
            DinacAE.from_pretrained(path)


class TestDecoderOnly:
    def test_decoder_takes_whitened_latents_as_they_are(
        self, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        whole = models["disabled"]
        folder = write_checkpoint(tmp_path / "decoder", whole, {}, part="decoder.")
        model = DinacAE.from_pretrained(folder)
        assert model.config.encoder_type == "none"
        assert model.traits.parts == {DECODER}
        assert not model.traits.has_posterior
        latents = torch.randn(1, 8, 2, 3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(model.dewhiten(latents), latents)
        with torch.inference_mode():
            expected = whole.decode(whole.whiten(latents), 32, 48, SETTINGS)
            for decoder in (model, accelerate(model)):
                decoded = decoder.decode(latents, 32, 48, SETTINGS)
                assert relative_error(decoded, expected) <= FLOAT32_TOLERANCE
        with pytest.raises(ModelError, match="this model has no encoder; use a model that has one"):
            model.encode(torch.zeros(1, 3, 32, 32))
        with pytest.raises(UsageError, match="it expects"):
            model.decode(latents[:, :4], 32, 48)

    def test_stored_statistics_are_used(self, models: dict[str, DinacAE], tmp_path: Path) -> None:
        whole = models["disabled"]
        tensors = {k: x for k, x in whole.state_dict().items() if not k.startswith("encoder.")}
        save_file(tensors, tmp_path / "decoder.safetensors")
        model = DinacAE.from_pretrained(tmp_path / "decoder.safetensors")
        latents = torch.randn(1, 8, 2, 3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(model.dewhiten(latents), whole.dewhiten(latents))

    def test_configuration_of_the_whole_network_fits(
        self, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        folder = write_checkpoint(tmp_path / "m", models["disabled"], CONFIG, part="decoder.")
        config = DinacModel(folder, "").read_config()
        assert (config.encoder_type, config.encoder_depth) == ("none", 0)
        assert from_json(to_json(config)) == config

    def test_its_latent_space_is_its_own(self, models: dict[str, DinacAE], tmp_path: Path) -> None:
        whole, other = models["disabled"], set_mode(models["disabled"], "disabled")
        other.decoder.fuse_in.weight.add_(1)
        folders = [
            write_checkpoint(tmp_path / str(number), model, {}, part="decoder.")
            for number, model in enumerate((whole, other))
        ]
        first, second = (DinacModel(folder, "").identify() for folder in folders)
        assert first.latent_space != second.latent_space
        assert first.weights != second.weights

    def test_what_does_not_fit_is_named_in_one_line(
        self, models: dict[str, DinacAE], tmp_path: Path
    ) -> None:
        whole = models["disabled"]
        tensors = {k: x for k, x in whole.state_dict().items() if k.startswith("decoder.")}
        save_file(tensors | {"bn.running_mean": torch.zeros(8)}, tmp_path / "m.safetensors")
        with pytest.raises(CheckpointError, match=r"1 unexpected \(bn\.running_mean\)"):
            DinacAE.from_pretrained(tmp_path / "m.safetensors")
        del tensors["decoder.latent_up.weight"]
        save_file(tensors, tmp_path / "n.safetensors")
        with pytest.raises(ModelError, match=r"tensor decoder\.latent_up\.weight is missing"):
            DinacAE.from_pretrained(tmp_path / "n.safetensors")
