"""Shows latents as pictures: the first three principal components become three colours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import hash_record, open_record, read_latents
from dinac_cli.errors import DinacError
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.color_map import round_levels
from dinac_cli.report.page import make_data_url
from dinac_cli.storage.content import read_content
from dinac_cli.storage.naming import name_latents

_DEVIATIONS_SHOWN = 2.5  # distance from the mean to the darkest and to the brightest colour


@dataclass(frozen=True, eq=False)
class LatentColors:
    """Maps latents to colours along three axes.

    The shape of `mean` is [C], and the shape of `axes` is [C, 3]. `scale` [3] is the standard
    deviation along each axis.
    """

    mean: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    def paint(self, latents: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Returns a picture, uint8 [h, w, 3], of latents [C, h, w]."""
        values = np.moveaxis(latents, 0, -1) - self.mean  # [h, w, C]
        levels = values @ self.axes / (self.scale * _DEVIATIONS_SHOWN)  # [h, w, 3] in about ±1
        return round_levels(levels)


def find_colors(latents: Iterable[npt.NDArray[np.float32]]) -> LatentColors | None:
    """Returns the three axes along which the values of all latents [C, h, w] vary most.

    Skips latents that do not have as many channels as the first latents. Returns None if there are
    no latents.
    """
    count, total, products = 0, np.zeros(0), np.zeros((0, 0))
    for array in latents:
        channels = len(array)
        values = array.reshape(channels, -1).astype(np.float64)  # [C, N]
        if count == 0:
            total, products = np.zeros(channels), np.zeros((channels, channels))
        if channels != len(total):
            continue
        count += values.shape[1]
        total += values.sum(axis=1)
        products += values @ values.T
    if count == 0:
        return None
    mean = total / count
    variances, axes = np.linalg.eigh(products / count - np.outer(mean, mean))
    chosen = np.zeros((len(mean), 3))
    kept = min(3, len(mean))
    chosen[:, :kept] = axes[:, ::-1][:, :kept]
    # The sign of an eigenvector is arbitrary. The largest component of each eigenvector is made
    # positive, so that a set of latents always has the same colours.
    largest = np.abs(chosen).argmax(axis=0)
    chosen *= np.where(chosen[largest, np.arange(3)] < 0, -1.0, 1.0)
    scale = np.ones(3)
    scale[:kept] = np.sqrt(np.maximum(variances[::-1][:kept], 1e-12))
    return LatentColors(mean, chosen, scale)


def locate_record(folder: str, name: str) -> str:
    """Returns the path of the record of image `name` in `folder`. The file may be missing."""
    return os.path.join(folder, *name_latents(name).split("/"))


@dataclass(frozen=True)
class ShownRecord:
    """A record of an image: its header, its hash, its size, and the picture of its latents.

    `picture` is a URL, or None without a picture.
    """

    header: RecordHeader
    record_hash: str
    size_bytes: int
    picture: str | None


def choose_colors(paths: Iterable[str]) -> LatentColors | None:
    """Returns colours for the records at `paths`. Skips records that are missing or damaged."""
    return find_colors(_read_all(paths))


def show_record(
    path: str, colors: LatentColors | None, hold: Callable[[int], None]
) -> ShownRecord | None:
    """Reads a record and paints its latents. Returns None if the file is missing.

    Paints nothing if `colors` is None, or if `colors` is for another number of channels.
    `hold(size_bytes)` waits until that much memory may be used. Raises DinacError.
    """
    if not os.path.lexists(path):
        return None
    data = read_content(path).data
    record = open_record(data)
    hold(len(data) + 3 * record.declared_bytes())  # latents, and their float64 copy for the picture
    latents = record.unpack().latents
    picture = None
    if colors is not None and len(latents) == len(colors.mean):
        picture = make_data_url(write_image(colors.paint(latents), "png"), "png")
    return ShownRecord(record.header, hash_record(data), len(data), picture)


def _read_all(paths: Iterable[str]) -> Iterator[npt.NDArray[np.float32]]:
    for path in paths:
        try:
            yield read_latents(path)[0]
        except (DinacError, OSError):  # `show_record` reports a damaged record
            continue
