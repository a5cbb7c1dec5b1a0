"""Checkpoints: read whole or in parts, refused if wrong, and written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinac_cli.errors import CheckpointError, DeviceError, ModelError, OutputError, UsageError
from dinac_cli.models import loading
from dinac_cli.models.dinac.autoencoder import DinacAE, list_shapes
from dinac_cli.models.dinac.checkpoint import save_checkpoint
from dinac_cli.models.dinac.config import DinacAEConfig, from_json, to_json
from dinac_cli.models.dinac.tensor_names import canonical_name, keeps_float32, read_table

from .conftest import Golden, read_json

QKV = "encoder.blocks.0.qkv.weight"
CANONICAL_QKV = "encoder.blocks.0.attn_core.qkv.weight"
HEAD = "dino_token_alignment_head."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    path.mkdir()
    return path


@pytest.fixture
def tensors(pair: Golden) -> dict[str, Tensor]:
    """The tensors of `pair`, which stores those of the attention only under their alias."""
    return load_file(pair.weights)


def write(folder: Path, tensors: dict[str, Tensor], config: DinacAEConfig | None) -> Path:
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(to_json(config)))
    return folder


def assert_same_network(first: DinacAE, second: DinacAE) -> None:
    expected = second.state_dict()
    assert first.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in first.state_dict().items())


def test_names_shapes_and_counts_of_the_full_checkpoint(manifest: dict[str, Any]) -> None:
    shapes = list_shapes(from_json(manifest["config"]))
    assert {canonical_name(name) for name in manifest["tensors"]} == shapes.keys()
    for name, shape in manifest["tensors"].items():
        assert list(shapes[canonical_name(name)]) == shape
    found = {name: canonical_name(name) for name in manifest["tensors"]}
    assert {k: v for k, v in found.items() if k != v} == manifest["aliases"]
    with torch.device("meta"):
        assert DinacAE(DinacAEConfig()).count_parameters() == manifest["parameters"]


def test_float32_tensors_are_those_of_the_bfloat16_file(pair: Golden) -> None:
    stored = read_table(pair.folder / "model.bf16.safetensors").by_canonical_name
    for name, entry in stored.items():
        assert keeps_float32(name) == (entry.dtype == "F32"), name
        assert pair.bfloat16.state_dict()[name].dtype == (
            torch.float32 if keeps_float32(name) else torch.bfloat16
        )
    assert all(keeps_float32(name) for name, _ in pair.bfloat16.named_buffers())
    assert (pair.float32.dtype, pair.bfloat16.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("names", ["alias", "canonical", "both"])
def test_attention_tensors_load_under_either_name(
    names: str, pair: Golden, tensors: dict[str, Tensor], folder: Path
) -> None:
    canonical = {canonical_name(name): tensor for name, tensor in tensors.items()}
    stored = {
        "alias": tensors,
        "canonical": canonical,
        "both": {**{k: v.clone() for k, v in canonical.items()}, **tensors},
    }[names]
    assert (QKV in stored, CANONICAL_QKV in stored) == (names != "canonical", names != "alias")
    assert_same_network(DinacAE.from_pretrained(write(folder, stored, pair.config)), pair.float32)


@pytest.mark.parametrize("change", ["value", "type"])
def test_different_tensors_under_two_names_are_refused(
    change: str, pair: Golden, tensors: dict[str, Tensor], folder: Path
) -> None:
    twin = tensors[QKV].clone()
    twin[0, 0] += 1
    tensors[CANONICAL_QKV] = twin if change == "value" else tensors[QKV].bfloat16()
    write(folder, tensors, pair.config)
    with pytest.raises(ModelError, match=f"{re.escape(QKV)} and .* name the same tensor but"):
        DinacAE.from_pretrained(folder)
    assert DinacAE.from_pretrained(folder, parts={"decoder"}).count_parameters().keys() == {
        "decoder",
        "total",
    }


@pytest.mark.parametrize("part", ["encoder", "decoder", "class_head"])
def test_loading_a_part_reads_only_its_tensors(
    part: str, tiny: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    class Recorder:
        def __init__(self, file: Any) -> None:
            self._file = file

        def get_tensor(self, name: str) -> Tensor:
            read.append(name)
            tensor: Tensor = self._file.get_tensor(name)
            return tensor

    @contextmanager
    def open_recorded(*args: Any, **kwargs: Any) -> Iterator[Recorder]:
        with safe_open(*args, **kwargs) as file:
            yield Recorder(file)

    monkeypatch.setattr(loading, "safe_open", open_recorded)
    model = DinacAE.from_pretrained(tiny.folder, parts=(part,))
    prefix = HEAD if part == "class_head" else f"{part}."
    expected = {name for name in tiny.float32.state_dict() if name.startswith(prefix)}
    statistics = {"latent_norm_running_mean", "latent_norm_running_var"}
    assert sorted(read) == sorted(expected | statistics)
    assert model.count_parameters()[part] == tiny.float32.count_parameters()[part]


def test_methods_of_absent_parts_are_refused(tiny: Golden) -> None:
    z, image = tiny.cases["latents.0"], tiny.cases["image.0"]
    encoder = DinacAE.from_pretrained(tiny.folder, parts={"encoder"})
    assert torch.equal(encoder.encode(image), tiny.float32.encode(image))
    with pytest.raises(ModelError, match="loaded without its decoder"):
        encoder.decode(z, 32, 48)
    with pytest.raises(ModelError, match="loaded without its class_head"):
        encoder.predict_tokens(z)
    with pytest.raises(ModelError, match="loaded without its encoder"):
        DinacAE.from_pretrained(tiny.folder, parts={"decoder"}).encode(image)


def test_checkpoint_without_class_head(
    tensors: dict[str, Tensor], pair: Golden, folder: Path
) -> None:
    values = {k: v for k, v in to_json(pair.config).items() if not k.startswith("class_head_")}
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)}
    model = DinacAE.from_pretrained(write(folder, rest, from_json(values)))
    assert model.count_parameters().keys() == {"encoder", "decoder", "total"}
    for predict in (model.predict_class, model.predict_tokens):
        with pytest.raises(ModelError, match="has no class head"):
            predict(pair.cases["latents.0"])
    (folder / "config.json").unlink()
    assert DinacAE.from_pretrained(folder).config == model.config


def test_class_head_keys_and_tensors_belong_together(
    tensors: dict[str, Tensor], pair: Golden, folder: Path
) -> None:
    values = {k: v for k, v in to_json(pair.config).items() if not k.startswith("class_head_")}
    write(folder, tensors, from_json(values))
    with pytest.raises(CheckpointError, match="25 unexpected") as refusal:
        DinacAE.from_pretrained(folder)
    assert len(refusal.value.details) == 25
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)}
    write(folder, rest, pair.config)
    with pytest.raises(CheckpointError, match="25 missing"):
        DinacAE.from_pretrained(folder)


def test_all_faults_are_listed_in_one_line(
    tensors: dict[str, Tensor], pair: Golden, folder: Path
) -> None:
    for index in range(6):
        tensors[f"extra.{index}\n"] = torch.zeros(1)
    del tensors["encoder.to_bottleneck.bias"]
    tensors["decoder.latent_up.bias"] = torch.zeros(3)
    tensors["decoder.fuse_in.bias"] = torch.zeros(128, dtype=torch.float16)
    write(folder, tensors, pair.config)
    with pytest.raises(CheckpointError) as refusal:
        DinacAE.from_pretrained(folder)
    assert str(refusal.value) == (
        f"{folder / 'model.safetensors'} does not fit its configuration: "
        "1 missing (encoder.to_bottleneck.bias); "
        r"6 unexpected ('extra.0\n', 'extra.1\n', 'extra.2\n', 'extra.3\n', 'extra.4\n', …); "
        "1 wrongly shaped (decoder.latent_up.bias [3], not [128]); "
        "1 wrongly typed (decoder.fuse_in.bias F16, not F32 or BF16); "
        "use the config.json that belongs to these weights"
    )
    assert len(refusal.value.details) == 9
    assert r"unexpected: 'extra.5\n'" in refusal.value.details


def test_other_types_have_their_own_advice(
    tensors: dict[str, Tensor], pair: Golden, folder: Path
) -> None:
    tensors["decoder.fuse_in.bias"] = torch.zeros(128, dtype=torch.float16)
    write(folder, tensors, pair.config)
    with pytest.raises(CheckpointError) as refusal:
        DinacAE.from_pretrained(folder)
    assert str(refusal.value).endswith(
        "1 wrongly typed (decoder.fuse_in.bias F16, not F32 or BF16); "
        "convert the weights to F32 or BF16"
    )


def test_bare_file_needs_no_config(goldens: list[Golden], tmp_path: Path) -> None:
    for golden in goldens:
        path = tmp_path / f"{golden.folder.name}.safetensors"
        shutil.copy(golden.weights, path)
        model = DinacAE.from_pretrained(path)
        assert model.config == golden.config
        assert_same_network(model, golden.float32)


def test_config_beside_a_bare_file_counts_only_if_it_describes_such_a_network(
    pair: Golden, tensors: dict[str, Tensor], folder: Path
) -> None:
    write(folder, tensors, None)
    path = folder / "model.safetensors"
    (folder / "config.json").write_text('{"model_type": "clip", "hidden_size": 3}')
    assert DinacAE.from_pretrained(path).config == pair.config
    (folder / "config.json").write_text(json.dumps({**to_json(pair.config), "logsnr_min": -9}))
    assert DinacAE.from_pretrained(path).config.logsnr_min == -9


def test_folder_with_one_weights_file_of_another_name(pair: Golden, folder: Path) -> None:
    shutil.copy(pair.folder / "config.json", folder)
    shutil.copy(pair.weights, folder / "pair.safetensors")
    assert_same_network(DinacAE.from_pretrained(folder), pair.float32)
    shutil.copy(pair.weights, folder / "other.safetensors")
    with pytest.raises(ModelError, match=r"holds 2 weights files \(other.*, pair.*\)"):
        DinacAE.from_pretrained(folder)


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt"])
def test_pickle_is_never_loaded(suffix: str, folder: Path) -> None:
    path = folder / f"pytorch_model.{suffix}"
    path.write_bytes(b"\x80\x04N.")
    for source in (path, folder):
        with pytest.raises(ModelError, match="pickle is never loaded"):
            DinacAE.from_pretrained(source)


def test_paths_without_a_checkpoint_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        DinacAE.from_pretrained(folder)
    (folder / "weights.gguf").touch()
    with pytest.raises(ModelError, match=r"is not a \.safetensors file"):
        DinacAE.from_pretrained(folder / "weights.gguf")
    with pytest.raises(ModelError, match="does not exist"):
        DinacAE.from_pretrained(folder / "absent")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"model_dim": 64}', "lacks "),
        (" " * (2 << 20), "too large for a config.json; download"),
    ],
)
def test_damaged_configurations_are_refused(
    text: str, message: str, tiny: Golden, folder: Path
) -> None:
    shutil.copy(tiny.weights, folder)
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message) as refusal:
        DinacAE.from_pretrained(folder)
    assert str(folder / "config.json") in str(refusal.value)


def test_config_of_another_network_allocates_nothing(tiny: Golden, folder: Path) -> None:
    huge = {"model_dim": 8192, "encoder_depth": 8, "decoder_depth": 8, "mlp_ratio": 64}
    shutil.copy(tiny.weights, folder)
    config = {**read_json(tiny.folder / "config.json"), **huge}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="missing"):
        DinacAE.from_pretrained(folder)


def test_arguments_out_of_range_are_refused(tiny: Golden) -> None:
    with pytest.raises(UsageError, match=r"dtype is torch\.float16"):
        DinacAE.from_pretrained(tiny.folder, dtype=torch.float16)
    with pytest.raises(UsageError, match="part 'head' is unknown; the known parts are class_head"):
        DinacAE.from_pretrained(tiny.folder, parts={"encoder", "head"})
    with pytest.raises(DeviceError, match="cuda:99 is not available"):
        DinacAE.from_pretrained(tiny.folder, device=torch.device("cuda:99"))


def test_string_may_be_an_alias_but_a_path_object_is_a_path(
    tiny: Golden, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").symlink_to(tiny.folder)
    assert_same_network(DinacAE.from_pretrained(Path("nano")), tiny.float32)
    assert DinacAE.from_pretrained("nano", parts=()).config.bottleneck_dim == 128
    with pytest.raises(UsageError, match="--revision main: nano is not a Hub repository"):
        DinacAE.from_pretrained("nano", revision="main")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_checkpoint_loads_again(dtype: torch.dtype, pair: Golden, folder: Path) -> None:
    save_checkpoint(pair.float32.state_dict(), pair.config, folder, dtype)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "model.safetensors"]
    assert read_json(folder / "config.json") == read_json(pair.folder / "config.json")
    table = read_table(folder / "model.safetensors")
    assert table.entries.keys() == pair.float32.state_dict().keys()
    expected = pair.float32 if dtype == torch.float32 else pair.bfloat16
    assert_same_network(DinacAE.from_pretrained(folder, dtype=dtype), expected)


def test_writing_twice_gives_the_same_bytes(tiny: Golden, tmp_path: Path) -> None:
    files = []
    for name in ("first", "second"):
        save_checkpoint(tiny.float32.state_dict(), tiny.config, tmp_path / name)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_unwritable_folder_is_one_error(tiny: Golden, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written to"):
        save_checkpoint(tiny.float32.state_dict(), tiny.config, tmp_path / "file")
