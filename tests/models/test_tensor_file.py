"""Tensor tables: names, and every way in which a safetensors file can be damaged."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.tensor_names import canonical_name, keeps_float32
from dinac_cli.models.tensor_file import (
    MAX_HEADER_BYTES,
    TensorEntry,
    map_bytes,
    read_tensor_table,
)

from .conftest import Golden


def make_file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def describe(start: int, stop: int, dtype: str = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_table_has_types_shapes_and_positions(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "b": describe(0, 4, "BF16", (1, 2)),
        "a": describe(4, 8),
        "odd": describe(8, 9, "U8"),
        "none": describe(9, 9, "F32", (0, 3)),
    }
    path.write_bytes(make_file(header, b"abcdefghi"))
    table = read_tensor_table(path)
    first = path.stat().st_size - 9
    assert table.entries["b"] == TensorEntry("b", "BF16", (1, 2), first, first + 4)
    assert list(table.canonical_shapes) == ["a", "b", "none", "odd"]
    assert map_bytes(path, table.entries["a"]).tobytes() == b"efgh"
    assert map_bytes(path, table.entries["none"]).tobytes() == b""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no header of a plausible length"),
        (b"\x10\0\0\0\0\0\0", "no header of a plausible length"),
        (b"PK\x03\x04" + b"\0" * 100, "no header of a plausible length"),
        (struct.pack("<Q", 1) + b"{", "no header of a plausible length"),
        (struct.pack("<Q", 50) + b"{}", "no header of a plausible length"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", "no header of a plausible length"),
        (make_file(b"{]"), "its header is not valid JSON"),
        (make_file(b"\xff\xfe{}"), "its header is not valid JSON"),
        (make_file(b"[" * 100_000), "its header is not valid JSON"),
        (make_file(b'{"a": 1, "a": 1}'), "a key occurs twice"),
        (make_file([1]), "its header is not a JSON object"),
        (make_file({"a": 1}), "an invalid entry for tensor a"),
        (make_file({"a\x1b[2J": 1}), r"an invalid entry for tensor 'a\x1b[2J'"),
        (make_file({"a": {"dtype": "F32", "shape": [1]}}), "an invalid entry for tensor a"),
        (make_file({"a": describe(0, 4, shape=[1.0])}, b"1234"), "an invalid entry for tensor a"),
        (make_file({"a": describe(0, 4, shape=[-1])}, b"1234"), "an invalid entry for tensor a"),
        (make_file({"a": describe(0, 4, shape=[True])}, b"1234"), "an invalid entry for tensor a"),
        (make_file({"a": describe(0, 4, shape=[1] * 9)}, b"1234"), "an invalid entry for tensor a"),
        (make_file({"a": describe(-4, 0)}, b"1234"), "an invalid entry for tensor a"),
        (make_file({"a": describe(0, 2**60)}), "an invalid entry for tensor a"),
        (make_file({"a": describe(0, 8)}, b"12345678"), "tensor a has a size that does not match"),
        (make_file({"a": describe(4, 0)}, b"1234"), "tensor a has a size that does not match"),
        (make_file({"a": describe(4, 0, "U8")}, b"1234"), "tensor a leaves a gap or overlaps"),
        (make_file({"a": describe(1, 5)}, b"12345"), "tensor a leaves a gap or overlaps"),
        (
            make_file({"a": describe(0, 4), "b": describe(2, 6)}, b"123456"),
            "tensor b leaves a gap or overlaps",
        ),
        (make_file({"a": describe(0, 4)}, b"123"), "it is truncated"),
        (make_file({"a": describe(0, 4)}, b"12345"), "longer than its header says"),
    ],
)
def test_damaged_file_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError) as refusal:
        DinacAE.from_pretrained(path)
    message = str(refusal.value)
    assert message.startswith(f"{path} is not a complete safetensors file: ")
    assert reason in " ".join([message, *refusal.value.details])
    assert "\n" not in message


def test_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n")
    with pytest.raises(ModelError) as refusal:
        DinacAE.from_pretrained(path)
    assert str(refusal.value) == f"{path} is a Git LFS pointer, not the weights; run: git lfs pull"


@pytest.mark.parametrize("keep", [0.0001, 0.5, 0.9999])
def test_truncated_checkpoint_is_one_error(keep: float, tiny: Golden, tmp_path: Path) -> None:
    content = tiny.weights.read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError, match="is not a complete safetensors file"):
        DinacAE.from_pretrained(path)


def test_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read_tensor_table(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("encoder.blocks.3.qkv.weight", "encoder.blocks.3.attn_core.qkv.weight"),
        (
            "dino_token_alignment_head.class_readout.kv_proj.weight",
            "dino_token_alignment_head.class_readout.attn_core.kv_proj.weight",
        ),
        ("decoder.out_proj.weight", "decoder.out_proj.weight"),
        ("encoder.blocks.3.qkv.bias", "encoder.blocks.3.qkv.bias"),
        (
            "dino_token_alignment_head.class_readout.q_proj.weight",
            "dino_token_alignment_head.class_readout.q_proj.weight",
        ),
    ],
)
def test_canonical_names(alias: str, name: str) -> None:
    assert canonical_name(alias) == name
    assert canonical_name(name) == name


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("latent_norm_running_mean", True),
        ("encoder.blocks.0.attn_norm1._impl.weight", True),
        ("dino_token_alignment_head.class_readout.attn_core.q_norm_heads._impl.weight", True),
        ("decoder.start_blocks.0.grn.gamma", True),
        ("decoder.out_proj.bias", True),
        ("decoder.path_drop_mask_feature", True),
        ("decoder.time_embed.freqs", True),
        ("decoder.time_embed.proj_out.weight", False),
        ("dino_token_alignment_head.class_readout.attn_core.out_proj.weight", False),
        ("dino_token_alignment_head.register_tokens", False),
        ("encoder.to_bottleneck.bias", False),
    ],
)
def test_tensors_that_stay_float32(name: str, stays: bool) -> None:
    assert keeps_float32(name) is stays


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02\x8a\n"])
def test_a_pickle_is_not_downloaded_again_in_vain(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(start + b"\0\1\2\3" * 25)
    with pytest.raises(ModelError, match=r"; dinac loads no pickles; convert it to safetensors$"):
        read_tensor_table(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="pipe is not a regular file"):
        read_tensor_table(tmp_path / "pipe")
