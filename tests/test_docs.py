"""The README agrees with the program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

import dinac_cli
from dinac_cli import cli
from dinac_cli.container.header import PRECISIONS, RecordHeader
from dinac_cli.container.record import pack_encoded
from dinac_cli.container.tensors import Encoded

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
FILE_BLOCKS = [block for block in PYTHON_BLOCKS if "_files(" in block]


@pytest.fixture
def record_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The latents of the files that the README's examples read in the working folder."""
    latents = np.random.default_rng(0).standard_normal((128, 2, 3)).astype(np.float32)
    header = RecordHeader(
        shape=(128, 2, 3),
        height=32,
        width=48,
        patch=16,
        latent_space="0" * 16,
        weights="0" * 16,
        precision="bf16",
        name="trip/a.jpg",
    )
    record = pack_encoded(header, Encoded(latents, logsnr=5 + latents))
    for folder in ("latents/trip", "sampled"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg.dinac").write_bytes(record)
    (tmp_path / "a.dinac").write_bytes(record)
    monkeypatch.chdir(tmp_path)
    return latents


def test_first_two_commands_are_one_line_each() -> None:
    commands = re.findall(r"^    (python3 -m venv .*)$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith(".venv/bin/dinac demo")
    assert commands[1] in (ROOT / ".ci/run").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", [block for block in PYTHON_BLOCKS if block not in FILE_BLOCKS])
def test_python_example_runs(block: str, record_files: np.ndarray) -> None:
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    latents = names["latents"]
    if not isinstance(latents, np.ndarray):
        return  # latents of a random image
    np.testing.assert_allclose(latents, record_files, rtol=2**-8)


def test_python_examples_of_whole_folders_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos/trip").mkdir(parents=True)
    Image.new("RGB", (40, 30), (200, 90, 10)).save(tmp_path / "photos/trip/a.png")
    monkeypatch.chdir(tmp_path)
    for block in FILE_BLOCKS:
        exec(compile(block, "README.md", "exec"), {})
    encoded, decoded = capsys.readouterr().out.splitlines()
    assert encoded == "trip/a.png written latents/trip/a.png.dinac"
    assert decoded == "trip/a.png.dinac written None"
    assert (tmp_path / "decoded/trip/a.png").is_file()


def test_exported_names_exist_and_are_documented() -> None:
    for name in dinac_cli.__all__:
        assert getattr(dinac_cli, name) is not None
        assert name == "__version__" or name in README


def _list_options(command: Any) -> Iterator[str]:
    """Lists the options of a command and of its subcommands."""
    for parameter in command.params:
        yield from parameter.opts
    for child in getattr(command, "commands", {}).values():
        yield from _list_options(child)


def test_every_option_named_in_the_readme_exists() -> None:
    known = set(_list_options(get_command(cli.app)))
    # `python -m tests.…` has options of its own.
    lines = [line for line in README.splitlines() if "python -m tests." not in line]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)))
    assert len(named) > 10
    assert named <= known | {"--help"}, named - known


def test_precision_help_matches_the_measured_table() -> None:
    rows = re.search(
        r"^\| precision \| (f32 .*) \|\n.*\n"
        r"\| mean PSNR, dB \| (.*) \|\n\| bits a pixel \| (.*) \|",
        README,
        re.MULTILINE,
    )
    assert rows is not None
    names, decibels, bits = (cells.split(" | ") for cells in rows.groups())
    group = get_command(cli.app)
    assert isinstance(group, TyperGroup)
    [option] = [p for p in group.commands["encode"].params if p.name == "precision"]
    assert isinstance(option, TyperOption)
    assert option.help
    shown = dict(re.findall(r"\b(f32|bf16|q\d)\s+([\d.]+ +[\d.]+)", option.help))
    assert list(names) == sorted(shown, key=PRECISIONS.index) == list(PRECISIONS)
    for name, decibel, size in zip(names, decibels, bits, strict=True):
        size_shown, loss_shown = map(float, shown[name].split())
        assert size_shown == pytest.approx(float(size), abs=0.051)
        assert loss_shown == pytest.approx(float(decibels[1]) - float(decibel), abs=0.011)
