"""The commands to kill: their arguments, and a check that an output file is whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard
from PIL import Image
from safetensors.torch import load_file

from dinac_cli.container.record import unpack_record
from dinac_cli.images.stamp import read_stamp
from dinac_cli.storage.tars import read_members

from ..processes import DINAC

TINY = Path(__file__).parents[2] / "golden/tiny"

# Training saves its state by the clock, so its content and the loss curve depend on time.
DEPENDS_ON_TIME = ("training.state", "training.json")


@dataclass(frozen=True)
class Command:
    """One command from a folder `source` to an OUT; `check` fails for a damaged file.

    `title` tells commands of one name apart.
    """

    name: str
    program: tuple[str, ...]
    source: Path
    options: tuple[str, ...]
    check: Callable[[Path], None]
    undetermined: Sequence[str] = ()
    title: str = ""

    @property
    def has_workers(self) -> bool:
        """True if the command runs in several processes."""
        return "--processes" in self.options

    @property
    def label(self) -> str:
        """The title, or the name."""
        return self.title or self.name

    def build(self, out: Path) -> list[str]:
        """Builds the command line that writes to `out`."""
        return [*self.program, self.name, str(self.source), str(out), *self.options]


def list_commands(images: Path, latents: Path, steps: int) -> list[Command]:
    """Lists encode from `images`, decode from their `latents`, and train on `images`.

    Encode writes loose records and shards. All but train also run in several processes.
    """
    training = (sys.executable, str(Path(__file__).with_name("training.py")))
    options = ("--init", str(TINY), "--crop", "32", "--batch-size", "2", "--steps", str(steps))
    on_cpu = ("--device", "cpu", "--dtype", "f32")
    several = (*on_cpu, "--processes", "2", "--threads", "2")
    shards = ("--shard-size", "3")
    return [
        Command("encode", DINAC, images, on_cpu, _check_record),
        Command("decode", DINAC, latents, on_cpu, _check_image),
        Command("encode", DINAC, images, several, _check_record, title="encode-processes"),
        Command("decode", DINAC, latents, several, _check_image, title="decode-processes"),
        Command("encode", DINAC, images, on_cpu + shards, _check_shard, title="encode-shards"),
        Command(
            "encode", DINAC, images, several + shards, _check_shard, title="encode-shards-processes"
        ),
        Command("train", training, images, options + on_cpu, _check_training, DEPENDS_ON_TIME),
    ]


def _check_record(path: Path) -> None:
    unpack_record(path.read_bytes())


def _check_image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()
    assert read_stamp(path) is not None, f"{path} has no stamp"


def _check_shard(path: Path) -> None:
    """A tar is read to its end mark."""
    if path.suffix == ".tar":
        with path.open("rb") as file:
            for member in read_members(file, lambda name: True):
                assert member.data is not None, f"{path}: {member.problem}"
                unpack_record(member.data)
    elif path.suffix == ".zst":
        assert zstandard.decompress(path.read_bytes()).endswith(b"\n")
    else:
        assert json.loads(path.read_bytes())


def _check_training(path: Path) -> None:
    if path.suffix == ".json":
        assert json.loads(path.read_bytes())
    else:
        assert load_file(path)
