"""SemDisDiffAE, with patches of 16 and 32, and a decoder without an encoder, in the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dinac_cli import read_latents
from dinac_cli.models.dinac import norm_choice

from ..semdisdiffae import UNCLEAR, draw_model, write_checkpoint
from .conftest import list_files, save
from .processes import run

PATCHES = {"p16": 16, "p32": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs and models; p16 and p32 have encoded and decoded."""
    folder = tmp_path_factory.mktemp("semdis")
    save(folder / "photos/a.png", 70, 50)
    save(folder / "photos/sub/b.jpg", 33, 64, 3)
    p16 = draw_model()
    write_checkpoint(folder / "p16", p16)
    write_checkpoint(folder / "p32", draw_model("channel_wise", patch_size=32))
    write_checkpoint(folder / "decoder", p16, {}, part="decoder.")
    for name in PATCHES:
        assert run("encode", "photos", name + "-latents", "--model", name, cwd=folder).code == 0
        done = run("decode", name + "-latents", name + "-decoded", "--model", name, cwd=folder)
        assert (done.code, done.err) == (0, "")
    return folder


@pytest.mark.parametrize("name", PATCHES)
def test_records_have_the_grid_of_the_patch(name: str, folder: Path) -> None:
    latents, header = read_latents(folder / f"{name}-latents/a.png.dinac")
    patch = PATCHES[name]
    assert header.patch == patch
    assert latents.shape == (8, -(-50 // patch), -(-70 // patch))
    described = run("info", f"{name}-latents/a.png.dinac", cwd=folder).out
    rows, columns = latents.shape[1:]
    assert f"8 channels, {rows}x{columns} positions, patch {patch}" in described
    assert 0.3 < latents.std() < 3


@pytest.mark.parametrize("name", PATCHES)
def test_commands_know_the_model(name: str, folder: Path, tmp_path: Path) -> None:
    model = ("--model", name)
    again = run("encode", "photos", f"{name}-latents", *model, cwd=folder)
    assert again.summary == f"0 encoded with {name}, 2 already done\n"
    planned = run("plan", "photos", f"{name}-latents", *model, "--exit-code", cwd=folder)
    assert planned.code == 0
    verified = run(
        "verify", f"{name}-latents", "--source", "photos", "--reencode", "100%", *model, cwd=folder
    )
    assert (verified.code, verified.err) == (0, "")
    assert verified.out.startswith("2 verified; 2 re-encoded, largest |Δ| 0")
    assert list_files(folder / f"{name}-decoded") == ["a.png", "sub/b.jpg.png"]
    assert run("psnr", "photos", f"{name}-decoded", cwd=folder).code == 0
    exported = run("export", f"{name}-latents", str(tmp_path / "npz"), "--to", "npz", cwd=folder)
    assert (exported.code, exported.err) == (0, "")
    page = str(tmp_path / "page.html")
    reported = run("report", "photos", f"{name}-decoded", "-o", page, cwd=folder)
    assert (reported.code, reported.err) == (0, "")
    shown = json.loads(run("models", "show", name, "--json", cwd=folder).out)
    assert (shown["patch"], shown["channels"]) == (PATCHES[name], 8)


@pytest.mark.usefixtures("forks")
def test_worker_processes_read_the_cached_trial(folder: Path, tmp_path: Path) -> None:
    """If the cache says that the other mode is right, workers believe it: they try no model."""
    cache = tmp_path / "cache/identities.json"

    def encode(processes: int, out: str) -> bytes:
        done = run(
            "encode", "photos", str(tmp_path / out), "--model", "p32",
            "--processes", str(processes), cwd=folder,
            environment={"DINAC_CACHE": str(cache.parent)},
        )  # fmt: skip
        assert (done.code, done.err) == (0, "")
        return (tmp_path / out / "a.png.dinac").read_bytes()

    right = encode(1, "right")
    document = json.loads(cache.read_text("utf-8"))
    [key] = document["measurements"]
    document["measurements"] = {key: {"disabled": 1.0, "channel_wise": 99.0}}
    cache.write_text(json.dumps(document), "utf-8")
    assert encode(1, "forged") == encode(2, "forged-by-workers") != right


def test_cached_model_is_found_for_its_records(folder: Path, tmp_path: Path) -> None:
    """The Hub's cache holds p16 under its short name; records find it by their latent space."""
    repository = tmp_path / "home/hub/models--data-archetype--semdisdiffae"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder / "p16", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    home = {"HF_HOME": str(tmp_path / "home")}
    out = tmp_path / "latents"
    encode = ("encode", "photos", str(out), "--model", "semdisdiffae")
    assert run(*encode, cwd=folder, environment=home).code == 0
    _, header = read_latents(out / "a.png.dinac")
    _, direct = read_latents(folder / "p16-latents/a.png.dinac")
    assert (header.latent_space, header.weights) == (direct.latent_space, direct.weights)
    decoded = run("decode", str(out), str(tmp_path / "decoded"), cwd=folder, environment=home)
    assert (decoded.code, decoded.err) == (0, "")


def test_other_patch_or_class_head_is_refused(folder: Path, tmp_path: Path) -> None:
    mixed = run("encode", "photos", "p16-latents", "--model", "p32", cwd=folder)
    assert mixed.code == 2
    assert "p16-latents holds latents of model p16" in mixed.err
    other = run(
        "decode", "p16-latents", str(tmp_path), "--model", "p32", "--allow-other-model", cwd=folder
    )
    assert other.code == 3
    assert "latents of 8 channels at patch 16 do not fit model p32 (8 at 32)" in other.err
    features = run("features", "p16-latents", "f.safetensors", "--model", "p16", cwd=folder)
    assert (features.code, "has no class head" in features.err) == (2, True)


def test_decoder_without_encoder_decodes_only(folder: Path, tmp_path: Path) -> None:
    refusal = (
        "dinac: model decoder has no encoder: it only decodes latents of another model; "
        "encode with a model that has one, such as d2\n"
    )
    for command in ("encode", "plan"):
        done = run(command, "photos", str(tmp_path / "latents"), "--model", "decoder", cwd=folder)
        assert (done.code, done.err) == (2, refusal)
    decode = ("decode", "p16-latents", str(tmp_path / "decoded"), "--model", "decoder")
    refused = run(*decode, cwd=folder)
    assert refused.code == 3
    assert "give the --model it was encoded with, or --allow-other-model" in refused.err
    done = run(*decode, "--allow-other-model", cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert list_files(tmp_path / "decoded") == ["a.png", "sub/b.jpg.png"]
    timed = run("bench", "--model", "decoder", "--only", "network", "--device", "cpu", cwd=folder)
    line = "dinac: --model decoder: it has no encoder; bench times whole models only\n"
    assert (timed.code, timed.err) == (2, line)


def test_model_in_doubt_is_refused_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "unclear", draw_model("disabled", UNCLEAR))
    path = str(tmp_path / "unclear")
    encode = ("encode", "photos", str(tmp_path / "out"), "--model", path)
    done = run(*encode, cwd=folder)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "bottleneck_norm_mode is in doubt" in done.err
    monkeypatch.setattr(norm_choice, "_measure", lambda *_: pytest.fail("tried again"))
    assert run(*encode, cwd=folder).err == done.err
