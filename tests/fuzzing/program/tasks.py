"""The commands that mutants go through, and the mutants of each."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dinac_cli.container.record import unpack_record
from tests.cli.conftest import save
from tests.cli.processes import run
from tests.fuzzing import images, records

MAX_PIXELS = 1 << 16
"""Larger mutants are refused, so that the model needs little time for each."""

_INTACT = "intact"


@dataclass(frozen=True)
class Task:
    """A command for mutants: of files in a folder, or of records on standard input.

    `draw` makes mutant number N. `variants` are options; each run takes other ones. `check` fails
    for a damaged output. If `holds_many`, a file may hold several records, each with a result.
    """

    name: str
    command: str
    draw: Callable[[random.Random, int], bytes]
    suffix: str
    variants: tuple[tuple[str, ...], ...]
    check: Callable[[Path], None]
    holds_many: bool = False
    is_stream: bool = False

    def draw_mutants(self, rng: random.Random, start: int, stop: int) -> dict[str, bytes]:
        """Returns mutants `start` to `stop`, by the names of their files.

        Two undamaged records follow each mutant of a stream. The mutant may swallow the first one.
        """
        mutants = {}
        for number in range(start, stop):
            mutants[f"{number:06}{self.suffix}"] = self.draw(rng, number)
            for copy in "ab" if self.is_stream else "":
                name = f"{_INTACT}-{number:06}{copy}.png"
                mutants[name] = records.rename_record(list_nano_records()[0], name)
        return mutants


def must_succeed(name: str) -> bool:
    """True if the file of this name is the second undamaged record after a mutant."""
    return name.startswith(_INTACT) and name.endswith("b.png")


@functools.cache
def list_nano_records() -> list[bytes]:
    """Returns records that the embedded model can decode, of every kind."""
    with tempfile.TemporaryDirectory(prefix="dinac-fuzz-") as name:
        folder, made = Path(name), []
        for number, size in enumerate(((16, 16), (32, 16), (19, 23))):
            save(folder / f"in/{number}.png", *size, number)
        for precision in ("bf16", "f32", "q8", "q6", "q3"):
            for options in ((), ("--posterior", "--flip")):
                out = folder / "-".join(("out", precision, *options))
                line = ("encode", folder / "in", out, "--model", "nano", "--device", "cpu")
                done = run(*line, "--precision", precision, *options)
                assert done.code == 0, done.err
                made += [path.read_bytes() for path in sorted(out.glob("*.dinac"))]
    return made


def draw_image(rng: random.Random, number: int) -> bytes:
    """Makes a mutant of an image file."""
    seeds = images.list_seeds()
    return images.mutate_image(rng, rng.choice(seeds), rng.choice(seeds))[0]


def draw_record(rng: random.Random, number: int) -> bytes:
    """Makes a mutant of a record. Most can be decoded by the embedded model, if undamaged."""
    nano, seeds = list_nano_records(), records.list_seeds()
    record = rng.choice(nano if rng.random() < 0.8 else seeds)
    name = f"mutant-{number if rng.random() < 0.9 else 0:06}.png"  # some names occur twice
    record = records.rename_record(record, name)
    return records.mutate_record(rng, record, rng.choice(nano + seeds))[0]


def _check_record(path: Path) -> None:
    unpack_record(path.read_bytes())


def _check_image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


_PIXELS = ("--max-pixels", str(MAX_PIXELS))

_ONE_STEP = (("--steps", "1"),)

TASKS = (
    Task(
        "encode",
        "encode",
        draw_image,
        ".png",  # dinac looks at the content
        (
            _PIXELS,
            (*_PIXELS, "--damaged", "warn", "--hdr", "tonemap"),
            (*_PIXELS, "--crop", "16", "--flip", "--posterior", "--precision", "q6"),
        ),
        _check_record,
    ),
    Task("decode", "decode", draw_record, ".dinac", _ONE_STEP, _check_image, holds_many=True),
    Task("stream", "decode", draw_record, ".dinac", _ONE_STEP, _check_image, is_stream=True),
)
