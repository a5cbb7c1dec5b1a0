"""A folder with the inputs of the pages' commands, and a PATH with the programs they call."""

from __future__ import annotations

import importlib
import io
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from typer.core import TyperGroup
from typer.main import get_command

from dinac_cli import cli
from dinac_cli.images.samples import draw_clouds, draw_leaves

from ..cli.processes import DEADLINE_SECONDS, get_fork_server, make_environment, run
from ..cli.test_models import fill_cache
from ..s3 import FaultyS3
from .commands import substitute
from .pages import ROOT

PHOTOS = ("photos/a.jpg", "photos/b.jpg", "photos/c.png", "photos/trip/a.jpg", "photos/trip/b.jpg")
EVALUATION = ("eval/0.jpg", "eval/1.jpg")
CLASSES = ("train/cat/0.jpg", "train/dog/1.jpg")
MASKS = ("masks/a.png", "masks/trip/b.png")
OUTPUTS = ("latents", "decoded")
TINY = ROOT / "tests/golden/tiny"

STUBS = {"ssh": '#!/bin/sh\nshift\nexec "$@"\n'}
"""Programs that are always replaced → script. There is no other machine: ssh runs here."""

_JQ = """
import json, sys
print(json.load(sys.stdin)[sys.argv[1].removeprefix(".")])
"""
_ZSTD = """
import sys, zstandard
with open(sys.argv[2], "rb") as file:
    sys.stdout.buffer.write(zstandard.ZstdDecompressor().decompress(file.read()[24:]))
"""
STAND_INS = {"jq": _JQ, "zstd": _ZSTD}
"""Programs that a machine may lack → a program that does what the pages need."""


class Sandbox:
    """Runs commands in `folder`, with the tree's `dinac` and a small d2 in the Hub's cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tools = folder / ".tools"
        self._environment = make_environment(
            {
                "PATH": f"{self._tools}:{make_environment()['PATH']}",
                "ROOT": str(ROOT),
                "HF_HOME": str(folder / ".huggingface"),
                "HF_HUB_OFFLINE": "1",
            }
        )

    def fill(self) -> None:
        """Makes the tools, the images, a model, and the outputs of the main job."""
        self._tools.mkdir(parents=True)
        for program in ("dinac", "python"):
            get_fork_server().write_client(self._tools / program, program)
        for name, script in STUBS.items():
            self._add_tool(name, script)
        for name, program in STAND_INS.items():
            if shutil.which(name) is None:
                self.add_stand_in(name, program)
        fill_cache(self.folder / ".huggingface", TINY)
        shutil.copytree(TINY, self.folder / "my-model")
        for number, name in enumerate((*PHOTOS, *EVALUATION, *CLASSES, "a.png")):
            self._draw(name, number)
        for name in MASKS:
            self._mask(name)
        for command in ("encode photos latents --model nano", "decode latents decoded"):
            assert run(*command.split(), cwd=self.folder).code == 0

    def add_bucket(self, server: FaultyS3) -> None:
        """Lets the commands find a server of S3, with the photographs as objects and as tars."""
        self._environment |= server.environment
        for number, name in enumerate(PHOTOS):
            server.put(name, (self.folder / name).read_bytes())
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as tar:
                tar.add(self.folder / name, "000.jpg")
            server.put(f"wds/{number:05}.tar", content.getvalue())

    def add_stand_in(self, name: str, program: str) -> None:
        """Puts a program in Python on the PATH, before any other of that name."""
        self._add_tool(name, f"#!{sys.executable}{program}")

    def check(self, text: str) -> str:
        """Runs one command in bash; returns what a terminal shows.

        Fails unless the exit code is 0.
        """
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {substitute(text)}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=self._environment,
            timeout=DEADLINE_SECONDS,
        )
        said = done.stdout.decode()
        assert done.returncode == 0, f"exit code {done.returncode}: {text}\n{said}"
        return said

    def _add_tool(self, name: str, script: str) -> None:
        path = self._tools / name
        path.write_text(script)
        path.chmod(0o755)

    def _mask(self, name: str) -> None:
        """Writes a mask of the size of the images: the right half counts."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((112, 128), np.uint8)
        mask[:, 64:] = 255
        Image.fromarray(mask).save(path)

    def _draw(self, name: str, number: int) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = draw_leaves if number % 2 else draw_clouds
        pixels = np.roll(draw(112, 128), 31 * number, axis=(0, 1))
        Image.fromarray(pixels).save(path)


def copy_sandbox(filled: Sandbox, folder: Path, *, with_outputs: bool = True) -> Sandbox:
    """Copies a sandbox for one section; modification times are kept.

    `with_outputs` also copies the outputs of the main job.
    """
    skipped = () if with_outputs else OUTPUTS
    shutil.copytree(filled.folder, folder, symlinks=True, ignore=shutil.ignore_patterns(*skipped))
    return Sandbox(folder)


def check_options(text: str) -> None:
    """Parses the options of one command and runs nothing. Raises the parser's error."""
    program, *arguments = shlex.split(text, comments=True)
    if program == "dinac":
        name, *rest = arguments
        group = get_command(cli.app)
        assert isinstance(group, TyperGroup)
        group.commands[name].make_context(name, rest)
    else:
        assert (program, arguments[0]) == ("python", "-m")
        importlib.import_module(f"{arguments[1]}.__main__").parse_options(arguments[2:])
