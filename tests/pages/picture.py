"""Draws the picture at the top of the README with the program and its sample images.

`python -m tests.pages.picture` rewrites `picture.png` beside this module, or the named file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dinac_cli import cli, read_latents
from dinac_cli.commands.demo import write_samples
from dinac_cli.report.latents import find_colors

TARGET = Path(__file__).with_suffix(".png")
MAX_BYTES = 120_000

_PATCH = 16
_SIDE = 192  # width and height of a panel, in pixels of the image
_GAP = 40
_TOP = 84
_BOTTOM = 12
_GAIN = 8
_SHOWN = (("leaves.png", 64, 64), ("sunset.jpg", 16, 96))
"""Name of a sample, and the row and column where its panel begins."""

_INK, _GRAY = (28, 30, 34), (104, 108, 116)
_HEADINGS = (
    ("image", "original"),
    (".dinac", "latents as colours"),
    ("image", "decoded with 1 step"),
    ("difference", f"amplified {_GAIN} times"),
)
_ARROWS = ("encode", "decode")

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """The images of one sample, uint8 [H, W, 3]; `latents` has one pixel per patch."""

    original: Pixels
    latents: Pixels
    decoded: Pixels


def make_examples(folder: Path) -> Iterator[Example]:
    """Encodes and decodes the samples in `folder` with the commands."""
    images, latents, decoded = (folder / name for name in ("images", "latents", "decoded"))
    write_samples(str(images))
    for command, source, out in (("encode", images, latents), ("decode", latents, decoded)):
        code = cli.run([command, str(source), str(out), "--model", "nano", "--quiet"])
        assert code == 0, command
    read = {path: read_latents(path)[0] for path in sorted(latents.rglob("*.dinac"))}
    colors = find_colors(read.values())
    assert colors is not None
    for name, row, column in _SHOWN:
        output = name if name.endswith(".png") else f"{name}.png"
        painted = colors.paint(read[latents / f"{name}.dinac"])
        yield Example(
            _cut(_read(images / name), row, column),
            _cut(painted, row // _PATCH, column // _PATCH, _SIDE // _PATCH),
            _cut(_read(decoded / output), row, column),
        )


def draw_picture(examples: list[Example]) -> Image.Image:
    """Draws one row per example, under the headings image, `.dinac`, image."""
    width = 4 * _SIDE + 3 * _GAP + 24
    height = _TOP + len(examples) * (_SIDE + _BOTTOM)
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    for number, (heading, label) in enumerate(_HEADINGS):
        middle = _place(number) + _SIDE // 2
        pen.text((middle, 26), heading, _INK, ImageFont.load_default(24), anchor="mm")
        pen.text((middle, 62), label, _GRAY, ImageFont.load_default(17), anchor="mm")
    for number, label in enumerate(_ARROWS):
        _draw_arrow(pen, _place(number + 1) - _GAP // 2, label)
    for row, example in enumerate(examples):
        y = _TOP + row * (_SIDE + _BOTTOM)
        for number, panel in enumerate(_list_panels(example)):
            shown = Image.fromarray(panel).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            picture.paste(shown, (_place(number), y))
    return picture


def write_picture(target: Path) -> None:
    """Draws the picture and writes it as a PNG file."""
    with tempfile.TemporaryDirectory() as folder:
        picture = draw_picture(list(make_examples(Path(folder))))
    target.parent.mkdir(exist_ok=True)
    # 256 colours take a third of the bytes and look the same.
    small = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(target, optimize=True)


def _list_panels(example: Example) -> tuple[Pixels, ...]:
    difference = np.abs(example.original.astype(np.int16) - example.decoded)
    amplified = np.minimum(_GAIN * difference, 255).astype(np.uint8)
    return example.original, example.latents, example.decoded, amplified


def _place(number: int) -> int:
    return 12 + number * (_SIDE + _GAP)


def _draw_arrow(pen: ImageDraw.ImageDraw, middle: int, label: str) -> None:
    pen.text((middle, 12), label, _GRAY, ImageFont.load_default(15), anchor="mm")
    pen.line((middle - 44, 28, middle + 40, 28), _INK, 2)
    pen.polygon(((middle + 46, 28), (middle + 36, 23), (middle + 36, 33)), _INK)


def _cut(pixels: Pixels, row: int, column: int, side: int = _SIDE) -> Pixels:
    return pixels[row : row + side, column : column + side]


def _read(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    write_picture(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
