"""The records that reconstructions came from: their bits a pixel, their latents as pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dinac_cli.container.record import declared_bytes, read_latents, unpack_record
from dinac_cli.errors import DinacError
from dinac_cli.files.content import read_content
from dinac_cli.files.naming import name_latents
from dinac_cli.images.writing import write_image
from dinac_cli.report.latents import LatentColors, find_colors
from dinac_cli.report.page import make_data_url


def locate_record(folder: str, name: str) -> str:
    """Where below `folder` the record of the image called `name` is, if it is there."""
    return os.path.join(folder, *name_latents(name).split("/"))


@dataclass(frozen=True)
class ShownRecord:
    """What a page shows of a record: its size, and its latents as the URL of a picture."""

    size_bytes: int
    picture: str | None


def choose_colors(paths: Iterable[str]) -> LatentColors | None:
    """The colours of all these records; what is not there or damaged is passed over."""
    return find_colors(_read_all(paths))


def show_record(
    path: str, colors: LatentColors | None, hold: Callable[[int], None]
) -> ShownRecord | None:
    """Read a whole record and, where there are colours, paint it; None where it is not there.

    `hold(size_bytes)` waits until that much may be in memory. Raises DinacError.
    """
    if not os.path.lexists(path):
        return None
    data = read_content(path).data
    hold(len(data) + 3 * declared_bytes(data))  # colours are found in float64
    latents = unpack_record(data).latents
    picture = None
    if colors is not None:
        picture = make_data_url(write_image(colors.paint(latents), "png"), "png")
    return ShownRecord(len(data), picture)


def _read_all(paths: Iterable[str]) -> Iterator[npt.NDArray[np.float32]]:
    for path in paths:
        try:
            yield read_latents(path)[0]
        except (DinacError, OSError):  # what is damaged is named where it is shown
            continue
