"""`dinac info` of one record, a folder and a stream, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import pack_record, read_latents

from .conftest import SIZES
from .processes import run, run_noting_imports


def make_record(
    seed: int,
    scale: float = 1.0,
    latent_space: str = "0123456789abcdef",
    name: str = "",
    image: str = "",
) -> bytes:
    latents = scale * np.random.default_rng(seed).standard_normal((4, 8, 8)).astype(np.float32)
    header = RecordHeader(
        shape=(4, 8, 8),
        height=128,
        width=128,
        patch=16,
        latent_space=latent_space,
        weights="f" * 16,
        precision="f32",
        model="some",
        name=name,
        image=image,
    )
    return pack_record(header, latents)


def fill(folder: Path, scale: float = 1.0, count: int = 16, image: str = "") -> Path:
    folder.mkdir()
    for seed in range(count):
        (folder / f"{seed}.dinac").write_bytes(make_record(seed, scale, image=image))
    return folder


def test_one_record_is_described_without_torch(work: Path, tmp_path: Path) -> None:
    path = work / "latents/a.jpg.dinac"
    done, imported = run_noting_imports(tmp_path / "imports", ("torch", "PIL"), "info", str(path))
    assert (done.code, done.err, imported) == (0, "", "")
    facts = dict(
        line.split(maxsplit=1) for line in done.out.splitlines() if line[:1] != " " and line
    )
    _, header = read_latents(path)
    assert facts["name"] == "a.jpg"
    assert facts["image"] == "50x37"
    assert facts["latents"] == "128 channels, 3x4 positions, patch 16"
    assert facts["weights"] == header.weights
    assert "channels: mean " in done.out
    assert "far from" not in done.out  # one image is too few to tell


def test_json_holds_the_header_and_figures(work: Path) -> None:
    done = run("info", str(work / "latents"), "--json")
    assert (done.code, done.err) == (0, "")
    *records, summary = done.objects
    assert [record["name"] for record in records] == list(SIZES)
    latents, header = read_latents(work / "latents/a.jpg.dinac")
    first = records[0]
    assert first["shape"] == list(header.shape)
    assert first["source_sha256"] == header.source_sha256
    assert first["mean"] == pytest.approx(latents.mean(), rel=1e-4, abs=1e-6)
    assert first["std"] == pytest.approx(latents.std(), rel=1e-4)
    assert summary["records"] == 4
    assert summary["precisions"] == {"bf16": 4}
    [channels] = summary["channels"]
    assert len(channels["mean"]) == len(channels["std"]) == 128


def test_latents_that_are_not_whitened_are_noticed(tmp_path: Path) -> None:
    whitened = run("info", str(fill(tmp_path / "whitened")))
    assert (whitened.code, whitened.err) == (0, "")
    assert "records    16\n" in whitened.out
    assert "far from" not in whitened.out
    raw = run("info", str(fill(tmp_path / "raw", scale=5.0)))
    assert (
        "4 of 4 channels are far from N(0, 1): the images are very plain, "
        "or the latents are not whitened\n"
    ) in raw.out
    scaled = run("info", str(fill(tmp_path / "scaled", scale=5.0, image="resize=128")))
    assert (
        "4 of 4 channels are far from N(0, 1): the images are scaled up or far down "
        "(encode --resize), or very plain, or the latents are not whitened\n"
    ) in scaled.out
    small = run("info", str(fill(tmp_path / "small", scale=5.0, image="resize=64-down")))
    assert "(0, 1): the images are scaled far down or very plain, or the latents" in small.out


def test_mixed_models_are_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "mixed", count=2)
    (folder / "other.dinac").write_bytes(make_record(9, latent_space="fedcba9876543210"))
    done = run("info", str(folder))
    assert done.code == 0
    assert "model      2 by some (latent space 0123456789abcdef" in done.out
    assert "channels of latent space fedcba9876543210: mean " in done.out
    assert "do not mix them in one training" in done.out


def test_damaged_records_fail_alone(tmp_path: Path) -> None:
    folder = fill(tmp_path / "damaged", count=2)
    (folder / "bad.dinac").write_bytes(make_record(3)[:-1])
    done = run("info", str(folder))
    assert done.code == 3
    assert done.err.startswith(f"dinac: {folder}/bad.dinac: ")
    assert "records    2\nfailed     1\n" in done.out


def test_there_is_no_table_without_a_record(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"not a record")
    done = run("info", tmp_path / "x.png")
    assert (done.code, done.out) == (3, "")
    assert done.err == f"dinac: {tmp_path}/x.png: not a latent record: no dinac preamble\n"
    [_, summary] = run("info", tmp_path / "x.png", "--json").objects
    assert (summary["records"], summary["failed"]) == (0, 1)


def test_a_stream(tmp_path: Path) -> None:
    stream = make_record(0, name="a.png") + make_record(1, name="b.png")
    done = run("info", "-", "--json", stdin=stream)
    assert (done.code, done.err) == (0, "")
    assert [entry.get("name") for entry in done.objects[:2]] == ["a.png", "b.png"]
