"""A folder with what the README's commands take, and a PATH with what they call."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dinac_cli.images.samples import draw_clouds, draw_leaves

from ..cli.processes import DEADLINE_SECONDS, make_environment
from ..cli.test_models import fill_cache
from .commands import ROOT, Command, substitute

PHOTOS = ("photos/a.jpg", "photos/b.jpg", "photos/c.png", "photos/trip/a.jpg", "photos/trip/b.jpg")
EVALUATION = ("eval/0.jpg", "eval/1.jpg")

_STUB = "#!/bin/sh\n"

STUBS = {
    "ssh": (f'{_STUB}shift\nexec "$@"\n', "there is no other machine: it is done on this one"),
}
"""Programs that are always replaced: name → script, and why."""

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
"""Programs that a machine may lack: name → what does of them what the README needs."""


class Sandbox:
    """Runs commands in `folder`, with the tree's `dinac` and a small d2 in the Hub's cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tools = folder / ".tools"
        self._environment = make_environment(
            {
                "PATH": f"{self._tools}:{make_environment()['PATH']}",
                "PYTHONPATH": str(ROOT),
                "ROOT": str(ROOT),
                "HF_HOME": str(folder / ".huggingface"),
                "HF_HUB_OFFLINE": "1",
            }
        )

    def fill(self) -> None:
        """Make the tools, the images and what the main job makes of them."""
        self._tools.mkdir(parents=True)
        self._add_tool("dinac", f'{_STUB}exec "{sys.executable}" -m dinac_cli "$@"\n')
        self._add_tool("python", f'{_STUB}exec "{sys.executable}" "$@"\n')
        for name, (script, _) in STUBS.items():
            self._add_tool(name, script)
        for name, program in STAND_INS.items():
            if shutil.which(name) is None:
                self.add_stand_in(name, program)
        fill_cache(self.folder / ".huggingface", ROOT / "tests/golden/tiny")
        for number, name in enumerate((*PHOTOS, *EVALUATION, "a.png")):
            self._draw(name, number)
        self.check(Command("", "dinac encode photos/ latents/ --model nano"))
        self.check(Command("", "dinac decode latents/ decoded/"))
        shutil.copy(self.folder / "latents/a.jpg.dinac", self.folder / "a.dinac")

    def add_stand_in(self, name: str, program: str) -> None:
        """Put a program in Python on the PATH, before any other of that name."""
        self._add_tool(name, f"#!{sys.executable}{program}")

    def check(self, command: Command) -> str:
        """Run one command as bash or Python would, to exit code 0; gives what it printed."""
        if command.is_python:
            program = [sys.executable, "-c", command.text]
        else:
            program = ["bash", "-c", f"set -o pipefail; {substitute(command.text)}"]
        done = subprocess.run(
            program,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.folder,
            env=self._environment,
            timeout=DEADLINE_SECONDS,
        )
        said = done.stdout.decode() + done.stderr.decode()
        assert done.returncode == 0, f"exit code {done.returncode}: {command.text}\n{said}"
        return done.stdout.decode()

    def _add_tool(self, name: str, script: str) -> None:
        path = self._tools / name
        path.write_text(script)
        path.chmod(0o755)

    def _draw(self, name: str, number: int) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        draw = draw_leaves if number % 2 else draw_clouds
        pixels = np.roll(draw(112, 128), 31 * number, axis=(0, 1))
        Image.fromarray(pixels).save(path)


def copy_sandbox(filled: Sandbox, folder: Path) -> Sandbox:
    """A sandbox of its own for one section; modification times are kept."""
    shutil.copytree(filled.folder, folder, symlinks=True)
    return Sandbox(folder)
