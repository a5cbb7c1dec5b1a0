"""Configurations of a network: read, inferred from tensors, and refused."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.errors import ModelError, OutputError
from dinac_cli.models.dinac.config import DinacAEConfig, from_json, to_json
from dinac_cli.models.dinac.sizes import infer_config
from dinac_cli.models.dinac.tensor_names import read_table

from .conftest import Golden, read_json

HEAD_KEYS = [key for key in to_json(DinacAEConfig()) if key.startswith("class_head_")]
HEAD_SIZES = [key for key in HEAD_KEYS if key != "class_head_mlp_type"]


def test_defaults_are_the_released_values(manifest: dict[str, Any]) -> None:
    assert from_json(manifest["config"]) == DinacAEConfig()
    assert to_json(DinacAEConfig()) == manifest["config"]


def test_dinac_ae_differs_only_in_encoder_depth(manifest: dict[str, Any]) -> None:
    config = from_json({**manifest["config"], "encoder_depth": 6})
    assert config == dataclasses.replace(DinacAEConfig(), encoder_depth=6)


def test_config_is_inferred_from_tensors(goldens: list[Golden]) -> None:
    for golden in goldens:
        assert infer_config(read_table(golden.weights).canonical_shapes) == golden.config


def test_json_round_trip(goldens: list[Golden]) -> None:
    for golden in goldens:
        assert to_json(golden.config) == read_json(golden.folder / "config.json")


def test_saved_configuration_is_loaded(
    goldens: list[Golden], manifest: dict[str, Any], tmp_path: Path
) -> None:
    configs = [golden.config for golden in goldens]
    for config in (*configs, DinacAEConfig().without_class_head()):
        config.save(tmp_path / "saved.json")
        assert DinacAEConfig.load(str(tmp_path / "saved.json")) == config
    published = tmp_path / "config.json"
    published.write_text(json.dumps(manifest["config"]), "utf-8")
    assert DinacAEConfig.load(published) == DinacAEConfig()
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["config.json", "saved.json"]


def test_configuration_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ModelError, match=re.escape(f"{path} cannot be read")):
        DinacAEConfig.load(path)
    path.write_text('{"model_dim": 896', "utf-8")
    with pytest.raises(ModelError, match=re.escape(f"{path} is not valid JSON")):
        DinacAEConfig.load(path)
    path.write_text('{"model_dim": 896}', "utf-8")
    with pytest.raises(ModelError, match=re.escape(f"{path}: the configuration lacks")):
        DinacAEConfig.load(path)


def test_configuration_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "config.json"
    with pytest.raises(OutputError, match=re.escape(f"{path} cannot be written")):
        DinacAEConfig().save(path)


def test_sizes_of_latents() -> None:
    config = DinacAEConfig(patch_size=32, bottleneck_dim=384)
    assert (config.latent_channels, config.effective_patch_size) == (384, 32)


def test_unknown_keys_are_ignored(manifest: dict[str, Any]) -> None:
    more = {"model_type": "dinac_ae", "quantiser_steps": [0.5], "other_mode": 3}
    assert from_json({**manifest["config"], **more}) == DinacAEConfig()


def test_absent_constants_take_the_released_values(manifest: dict[str, Any]) -> None:
    sizes = {k: v for k, v in manifest["config"].items() if k not in ("logsnr_min", "logsnr_max")}
    assert from_json(sizes) == DinacAEConfig()


@pytest.mark.parametrize("absence", ["missing", "null"])
def test_no_class_head_keys_mean_no_class_head(manifest: dict[str, Any], absence: str) -> None:
    values = {k: v for k, v in manifest["config"].items() if k not in HEAD_KEYS}
    if absence == "null":
        values |= dict.fromkeys(HEAD_KEYS)
    config = from_json(values)
    assert config.class_head is None
    assert not any(key in to_json(config) for key in HEAD_KEYS)
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize("absent", HEAD_SIZES)
def test_incomplete_class_head_keys_are_refused(manifest: dict[str, Any], absent: str) -> None:
    values = {k: v for k, v in manifest["config"].items() if k != absent}
    with pytest.raises(ModelError, match=f"lacks {absent}; add them, or remove all"):
        from_json(values)


def test_class_head_type_without_sizes_is_refused(manifest: dict[str, Any]) -> None:
    values = {k: v for k, v in manifest["config"].items() if k not in HEAD_SIZES}
    with pytest.raises(ModelError, match=", ".join(HEAD_SIZES[:2])):
        from_json(values)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder_mlp_type", "swiglu", "encoder_mlp_type is 'swiglu'; only 'gelu' is supported"),
        ("class_head_mlp_type", "swiglu", "class_head_mlp_type is 'swiglu'; only 'gelu' is"),
        ("bottleneck_posterior_kind", "none", "bottleneck_posterior_kind is 'none'"),
        ("bottleneck_norm_mode", "batch", "bottleneck_norm_mode is 'batch'; only 'disabled'"),
        ("class_head_feature_dim", 384, "class_head_feature_dim 384 differs"),
        ("in_channels", 4, "in_channels is 4; it must be an integer from 3 to 3"),
        ("patch_size", 0, "patch_size is 0"),
        ("patch_size", 10**9, "patch_size is 1000000000"),
        ("model_dim", 900, "model_dim is 900; it must be divisible by 64"),
        ("model_dim", 896.0, "model_dim is 896.0; it must be an integer"),
        ("model_dim", True, "model_dim is True"),
        ("model_dim", "896", "model_dim is '896'"),
        ("model_dim", None, "model_dim is None"),
        ("model_dim", [[[]]], "model_dim is a list"),
        ("encoder_depth", 10**6, "encoder_depth is 1000000"),
        ("decoder_depth", 4, "decoder_depth 4 leaves no middle block"),
        ("depthwise_kernel_size", 6, "depthwise_kernel_size is 6; it must be odd"),
        ("mlp_ratio", "4", "mlp_ratio is '4'"),
        ("mlp_ratio", float("nan"), "mlp_ratio is nan"),
        ("mlp_ratio", 10**400, "mlp_ratio is 1000"),
        ("mlp_ratio", 3.9999, "its product with the width 896 must be an integer"),
        ("pixel_noise_std", 0, "pixel_noise_std is 0"),
        ("logsnr_min", 10, "logsnr_min 10.0 is not below logsnr_max 10.0"),
        ("latent_running_stats_eps", -1.0, "latent_running_stats_eps is -1.0"),
        ("class_head_head_dim", 50, "class_head_head_dim is 50; it must be divisible by 4"),
        ("class_head_head_dim", 80, "class_head_model_dim is 768; it must be divisible by 80"),
    ],
)
def test_wrong_values_are_refused(
    manifest: dict[str, Any], key: str, value: object, message: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(message)) as refusal:
        from_json({**manifest["config"], key: value})
    assert "\n" not in str(refusal.value)


def test_missing_sizes_are_named_together() -> None:
    with pytest.raises(
        ModelError, match="lacks adaln_low_rank_rank, bottleneck_dim, decoder_depth, …; "
    ):
        from_json({"model_dim": 896})


@pytest.mark.parametrize("values", [[], "config", None, 3])
def test_json_that_is_not_an_object_is_refused(values: object) -> None:
    with pytest.raises(ModelError, match="not a JSON object"):
        from_json(values)


def test_sizes_that_cannot_be_inferred_are_refused(tiny: Golden) -> None:
    shapes = read_table(tiny.weights).canonical_shapes
    name = "encoder.patchify.proj.weight"
    without = {key: shape for key, shape in shapes.items() if key != name}
    with pytest.raises(ModelError, match=f"tensor {re.escape(name)} is missing"):
        infer_config(without)
    with pytest.raises(ModelError, match=re.escape(f"tensor {name} has shape [64]")):
        infer_config({**shapes, name: (64,)})
