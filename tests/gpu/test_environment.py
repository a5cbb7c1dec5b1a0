"""Machines that lack something: each ends on a lower step, says so in one line, and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dinac_cli.container.record import read_header

pytestmark = pytest.mark.needs_gpu


def encode(images: Path, out: Path, **variables: str) -> tuple[str, str]:
    """Encodes with `nano` on the GPU; returns standard error, and how a record was computed."""
    arguments = ("encode", "--model", "nano", "--device", "cuda", "--processes", "1")
    command = [sys.executable, "-m", "dinac_cli", *arguments, str(images), str(out)]
    environment = {**os.environ, "TRITON_INTERPRET": "0", **variables}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    record = next(out.glob("*.dinac"))
    return ended.stderr, read_header(record.read_bytes()).compute


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.effect_noise((96, 80), 40).convert("RGB").save(folder / "a.png")
    return folder


def test_a_whole_machine_says_nothing(images: Path, tmp_path: Path) -> None:
    stderr, compute = encode(images, tmp_path / "out", TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert compute in ("cuda/bf16", "cuda/f32")
    assert "slower" not in stderr


def test_no_compiler(images: Path, tmp_path: Path) -> None:
    stderr, compute = encode(
        images, tmp_path / "out", CC="/nonexistent/cc", TRITON_CACHE_DIR=str(tmp_path / "cache")
    )
    assert compute.endswith("/torch")
    assert stderr.count("the GPU computes with torch's operations, which is slower") == 1
    assert "install a C compiler and the headers of Python" in stderr


def test_a_cache_that_cannot_be_written(images: Path, tmp_path: Path) -> None:
    stderr, compute = encode(images, tmp_path / "out", TRITON_CACHE_DIR=os.devnull)
    assert compute.endswith("/torch")
    assert "set TRITON_CACHE_DIR to another folder" in stderr


@pytest.mark.parametrize("step", ["triton", "torch", "plain"])
def test_a_named_step(step: str, images: Path, tmp_path: Path) -> None:
    stderr, compute = encode(images, tmp_path / "out", DINAC_CUDA=step)
    assert "slower" not in stderr
    assert compute.endswith(f"/{step}") == (step != "triton")
