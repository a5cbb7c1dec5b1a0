"""Identities: the tensors and constants that they cover, and how they are cached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dinac_cli.errors import ModelError
from dinac_cli.models import identity
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.model import make_rule
from dinac_cli.models.dinac.tensor_names import canonical_name, keeps_float32
from dinac_cli.models.identity import (
    IdentityRule,
    ModelIdentity,
    cache_folder,
    compute_identity,
    read_identity,
    round_to_bfloat16,
)

from .conftest import Golden

TINY = ModelIdentity(latent_space="09451f3bbe0bd239", weights="7ff7a2a267c01f76")
PAIR = ModelIdentity(latent_space="d0395ddadcd2afa0", weights="2af94b6f512d6cb3")


def test_identity_is_the_documented_hash(pair: Golden) -> None:
    config = pair.config
    tensors = {canonical_name(name): t for name, t in load_file(pair.weights).items()}
    hashes = {"latent_space": hashlib.sha256(), "weights": hashlib.sha256()}
    for name in sorted(tensors):
        tensor = tensors[name] if keeps_float32(name) else tensors[name].bfloat16()
        dtype = "F32" if keeps_float32(name) else "BF16"
        line = json.dumps([name, dtype, list(tensor.shape)]) + "\n"
        data = line.encode() + tensor.view(torch.uint8).numpy().tobytes()
        hashes["weights"].update(data)
        if name.startswith(("encoder.", "latent_norm_running_")):
            hashes["latent_space"].update(data)
    hashes["latent_space"].update(b'["latent_running_stats_eps", 0.0001]\n')
    hashes["weights"].update(
        b'["latent_running_stats_eps", 0.0001]\n["logsnr_max", 10.0]\n'
        b'["logsnr_min", -10.0]\n["pixel_noise_std", 0.558]\n'
    )
    expected = {name: digest.hexdigest()[:16] for name, digest in hashes.items()}
    assert dataclasses.asdict(compute_identity(pair.weights, make_rule(config))) == expected


def test_identities_of_the_references_are_pinned(tiny: Golden, pair: Golden) -> None:
    # Identities are written into records: a change orphans all existing latents.
    assert compute_identity(tiny.weights, make_rule(tiny.config)) == TINY
    assert compute_identity(pair.weights, make_rule(pair.config)) == PAIR


def test_bfloat16_copy_has_the_same_identity(pair: Golden) -> None:
    copy = pair.folder / "model.bf16.safetensors"
    rule = make_rule(pair.config)
    assert compute_identity(copy, rule) == compute_identity(pair.weights, rule)


def test_stored_names_do_not_matter(tiny: Golden, tmp_path: Path) -> None:
    both = load_file(tiny.weights)
    expected = compute_identity(tiny.weights, make_rule(tiny.config))
    aliases = {name for name in both if canonical_name(name) != name}
    twins = {canonical_name(name) for name in aliases}
    assert aliases
    for left_out in (aliases, twins):
        path = tmp_path / "model.safetensors"
        save_file({name: t for name, t in both.items() if name not in left_out}, path)
        assert compute_identity(path, make_rule(tiny.config)) == expected


def test_different_tensors_under_two_names_have_no_identity(tiny: Golden, tmp_path: Path) -> None:
    tensors = load_file(tiny.weights)
    tensors["encoder.blocks.0.qkv.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="name the same tensor but differ"):
        compute_identity(tmp_path / "model.safetensors", make_rule(tiny.config))


@pytest.mark.parametrize(
    ("name", "changes_space"),
    [
        ("encoder.to_bottleneck.weight", True),
        ("encoder.rope.periods", True),
        ("latent_norm_running_var", True),
        ("decoder.latent_up.bias", False),
        ("dino_token_alignment_head.in_proj.bias", False),
    ],
)
def test_tensors_that_an_identity_covers(
    name: str, changes_space: bool, pair: Golden, tmp_path: Path
) -> None:
    tensors = load_file(pair.weights)
    tensors[name] = tensors[name] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    before = compute_identity(pair.weights, make_rule(pair.config))
    after = compute_identity(tmp_path / "model.safetensors", make_rule(pair.config))
    assert after.weights != before.weights
    assert (after.latent_space != before.latent_space) == changes_space


@pytest.mark.parametrize(
    ("constant", "changes_space"),
    [
        ("latent_running_stats_eps", True),
        ("logsnr_min", False),
        ("logsnr_max", False),
        ("pixel_noise_std", False),
    ],
)
def test_constants_that_an_identity_covers(
    constant: str, changes_space: bool, pair: Golden
) -> None:
    other = dataclasses.replace(pair.config, **{constant: getattr(pair.config, constant) * 0.9})
    before = compute_identity(pair.weights, make_rule(pair.config))
    after = compute_identity(pair.weights, make_rule(other))
    assert after.weights != before.weights
    assert (after.latent_space != before.latent_space) == changes_space


def test_unsupported_types_have_no_identity(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"encoder.to_bottleneck.bias": torch.zeros(2, dtype=torch.float16)}, path)
    with pytest.raises(ModelError, match="has type F16; convert the checkpoint to F32 or BF16"):
        compute_identity(path, make_rule(DinacAEConfig()))


def test_rounding_matches_torch() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16) | 0x8000
    values = np.concatenate((bits, ties, ties - 1, ties + 1)).view(np.float32)
    expected = torch.from_numpy(values).bfloat16()
    ours = torch.from_numpy(round_to_bfloat16(values).view(np.int16)).view(torch.bfloat16)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


def test_large_tensors_are_hashed_in_chunks(pair: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compute_identity(pair.weights, make_rule(pair.config))
    monkeypatch.setattr(identity, "_CHUNK_BYTES", 4096)
    assert compute_identity(pair.weights, make_rule(pair.config)) == expected


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that have been hashed."""
    paths: list[Path] = []

    def compute(path: Path, rule: IdentityRule) -> ModelIdentity:
        paths.append(path)
        return compute_identity(path, rule)

    monkeypatch.setattr(identity, "compute_identity", compute)
    return paths


def test_identity_is_hashed_once(
    pair: Golden, tmp_path: Path, own_cache: Path, computed: list[Path]
) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(pair.weights, path)
    expected = compute_identity(path, make_rule(pair.config))
    assert [read_identity(path, make_rule(pair.config)) for _ in range(3)] == [expected] * 3
    assert computed == [path]
    os.utime(path, ns=(1, 1))  # another modification time
    read_identity(path, make_rule(pair.config))
    other = dataclasses.replace(pair.config, logsnr_min=-9)
    assert read_identity(path, make_rule(other)) != expected
    assert computed == [path] * 3
    assert [entry.name for entry in own_cache.iterdir()] == ["identities.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        "[]",
        '{"version": 0, "identities": {}}',
        '{"version": 1, "identities": {"a": {"latent_space": "../x", "weights": "y"}}}',
        '{"version": 1, "identities": {"a": {"weights": 3}}}',
    ],
)
def test_damaged_cache_is_replaced(
    text: str, pair: Golden, own_cache: Path, computed: list[Path]
) -> None:
    own_cache.mkdir()
    (own_cache / "identities.json").write_text(text)
    read_identity(pair.weights, make_rule(pair.config))
    read_identity(pair.weights, make_rule(pair.config))
    assert len(computed) == 1


def test_unwritable_cache_only_costs_time(
    pair: Golden, own_cache: Path, computed: list[Path]
) -> None:
    own_cache.touch()  # a file where the folder should be
    first = read_identity(pair.weights, make_rule(pair.config))
    assert read_identity(pair.weights, make_rule(pair.config)) == first
    assert len(computed) == 2


def test_no_home_folder_only_costs_time(
    pair: Golden, computed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DINAC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    first = read_identity(pair.weights, make_rule(pair.config))
    assert read_identity(pair.weights, make_rule(pair.config)) == first
    assert len(computed) == 2


def test_cache_forgets_the_oldest(
    pair: Golden, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "compute_identity", lambda *_: ModelIdentity("0" * 16, "1" * 16))
    for index in range(70):
        config = dataclasses.replace(pair.config, pixel_noise_std=1 + index)
        read_identity(pair.weights, make_rule(config))
    document = json.loads((own_cache / "identities.json").read_text())
    stds = [json.loads(key)[3][3] for key in document["identities"]]
    assert stds == [float(1 + index) for index in range(6, 70)]


def test_location_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DINAC_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("DINAC_CACHE")
    assert cache_folder() == tmp_path / "shared" / "dinac"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home" / ".cache" / "dinac"


def test_missing_file_has_no_identity(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read_identity(tmp_path / "absent.safetensors", make_rule(DinacAEConfig()))
