"""Latents as pictures: their first three principal components over a whole set, as colours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dinac_cli.container.record import open_record, read_latents
from dinac_cli.errors import DinacError
from dinac_cli.images.writing import write_image
from dinac_cli.report.page import make_data_url
from dinac_cli.storage.content import read_content
from dinac_cli.storage.naming import name_latents

_DEVIATIONS_SHOWN = 2.5  # a component reaches black and white so far from its mean


class LatentColors:
    """Three axes in the space of latents, and how far along each the colours go.

    `mean` [C], `axes` [C, 3], `scale` [3]: the deviation along each axis.
    """

    def __init__(
        self,
        mean: npt.NDArray[np.float64],
        axes: npt.NDArray[np.float64],
        scale: npt.NDArray[np.float64],
    ) -> None:
        self._mean = mean
        self._axes = axes
        self._scale = scale

    def paint(self, latents: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """The picture uint8 [h, w, 3] of latents [C, h, w]; equal latents get equal colours."""
        values = np.moveaxis(latents, 0, -1) - self._mean  # [h, w, C]
        places = values @ self._axes / (self._scale * _DEVIATIONS_SHOWN)  # [h, w, 3] in about ±1
        return np.rint((np.clip(places, -1, 1) + 1) * 127.5).astype(np.uint8)


def find_colors(latents: Iterable[npt.NDArray[np.float32]]) -> LatentColors | None:
    """The axes of the largest variance over all positions of all latents [C, h, w].

    Those of another number of channels than the first are passed over. None where there are none.
    """
    count, total, products = 0, np.zeros(0), np.zeros((0, 0))
    for one in latents:
        values = one.reshape(len(one), -1).astype(np.float64)  # [C, N]
        if count == 0:
            total, products = np.zeros(len(one)), np.zeros((len(one), len(one)))
        if len(one) != len(total):
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
    # An axis has no direction of its own: its largest part points up, so that colours repeat.
    largest = np.abs(chosen).argmax(axis=0)
    chosen *= np.where(chosen[largest, np.arange(3)] < 0, -1.0, 1.0)
    scale = np.ones(3)
    scale[:kept] = np.sqrt(np.maximum(variances[::-1][:kept], 1e-12))
    return LatentColors(mean, chosen, scale)


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
    record = open_record(data)
    hold(len(data) + 3 * record.declared_bytes())  # colours are found in float64
    latents = record.unpack().latents
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
