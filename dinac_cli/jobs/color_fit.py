"""Fits the map from latents to colours over a set of images. See `color_map`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.compute import refuse_devices
from dinac_cli.codec.handle import ModelHandle
from dinac_cli.codec.records import name_creator
from dinac_cli.errors import DinacError, ImageError, InputError, UsageError
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.geometry import Geometry
from dinac_cli.images.pixels import Pixels, pad_pixels
from dinac_cli.images.reading import WHITE, read_shaped
from dinac_cli.jobs.color_map import ColorMap, is_own_map, keep_map
from dinac_cli.jobs.executor.budget import map_bounded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.model_choice import ModelChoice, choose_encoder
from dinac_cli.jobs.preview import open_file
from dinac_cli.jobs.request import IMAGES, Announce, InputRequest, Request, Run, keep_quiet
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.output import Output

RIDGE = 1e-4
"""The weight of the squared factors, beside the mean squared error of the colours."""

MAX_SIDE = 1024
"""Larger images are scaled down to this many pixels, so that they do not outweigh the others."""


class ColorSums:
    """The sums that a fit needs. Their size does not depend on the number of images.

    `images` and `positions` count the images and their latent vectors.
    """

    def __init__(self) -> None:
        self.images = self.positions = 0
        self._products = np.zeros((0, 0))  # [C + 1, C + 1], of the latents and a constant 1
        self._colored = np.zeros((0, 3))  # [C + 1, 3], latents times colours
        self._squares = np.zeros(3)
        self._totals = np.zeros(3)

    def add(self, latents: npt.NDArray[np.float32], pixels: Pixels, patch: int) -> None:
        """Adds latents [C, h, w] and their image, uint8 [H, W, 3]. `patch` is in pixels."""
        channels, rows, columns = latents.shape
        ones = np.ones((1, rows * columns))
        x = np.concatenate([latents.reshape(channels, -1).astype(np.float64), ones])  # [C + 1, N]
        y = average_patches(pixels, patch).reshape(-1, 3)  # [N, 3]
        if not self.images:
            self._products, self._colored = np.zeros((len(x), len(x))), np.zeros((len(x), 3))
        self._products += x @ x.T
        self._colored += x @ y
        self._squares += np.square(y).sum(axis=0)
        self._totals += y.sum(axis=0)
        self.images += 1
        self.positions += rows * columns

    def solve(self, latent_space: str, model: str, ridge: float = RIDGE) -> ColorMap:
        """Returns the map with the least mean squared error plus `ridge` times squared factors.

        The bias is free. At least one image was added.
        """
        normal = self._products / self.positions
        damped = normal + np.diag([ridge] * (len(normal) - 1) + [0.0])
        target = self._colored / self.positions
        solution = np.asarray(np.linalg.lstsq(damped, target, rcond=None)[0], np.float64)
        error = self._measure_error(solution)
        variance = self._squares / self.positions - np.square(self._totals / self.positions)
        return ColorMap(
            solution[:-1].astype(np.float32),
            solution[-1].astype(np.float32),
            latent_space=latent_space,
            model=model,
            images=self.images,
            positions=self.positions,
            ridge=ridge,
            rmse=float(np.sqrt(error.mean())),
            r2=float(1 - error.sum() / max(float(variance.sum()), 1e-12)),
        )

    def _measure_error(self, solution: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the mean squared error of each colour channel, [3]."""
        mixed = (solution * self._colored).sum(axis=0)
        own = (solution * (self._products @ solution)).sum(axis=0)
        error: npt.NDArray[np.float64] = (self._squares - 2 * mixed + own) / self.positions
        return np.maximum(error, 0.0)


def average_patches(pixels: Pixels, patch: int) -> npt.NDArray[np.float64]:
    """Returns the mean colours in [-1, 1], [h, w, 3], of the patches of an image [H, W, 3].

    The image is padded to whole patches, as an encoder does.
    """
    padded = pad_pixels(pixels, patch)
    rows, columns = padded.shape[0] // patch, padded.shape[1] // patch
    grid = padded.reshape(rows, patch, columns, patch, 3)  # [h, P, w, P, 3]
    means: npt.NDArray[np.float64] = grid.mean(axis=(1, 3), dtype=np.float64)
    return means / 127.5 - 1


@dataclass(frozen=True, kw_only=True)
class ColorFitRequest(Request["ColorFitRun"]):
    """A request to fit the map of a model over the images of `inputs`.

    The map is written to the file OUT. If `out` is None, dinac's cache keeps the map.
    """

    inputs: InputRequest
    out: str | None = None
    model: ModelChoice = field(default_factory=ModelChoice)
    overwrite: bool = False

    command: ClassVar[str] = "preview"

    def open(self, announce: Announce = keep_quiet) -> ColorFitRun:
        refuse_devices(self.model.device, self.command)
        selection = self.inputs.select(IMAGES, self.out)
        if selection.reads_stdin:
            raise UsageError("--fit reads no standard input; name a folder of images")
        output = None if self.out is None else open_file(self.out, is_own_map, self.overwrite)
        model, fit = choose_encoder(self.model, None, announce), ColorFit()
        work = partial(fit_images, selection, output, model, fit)
        return ColorFitRun(work=work, selection=selection, output=output, fit=fit)


@dataclass
class ColorFit:
    """The result of a fit: the map and its file. Both are None if no image was readable."""

    color_map: ColorMap | None = None
    path: str | None = None


@dataclass(kw_only=True)
class ColorFitRun(Run):
    """A fit that is ready to start. The run fills `fit`."""

    fit: ColorFit


def fit_images(
    inputs: Iterable[Input],
    output: Output | None,
    model: ModelHandle,
    fit: ColorFit,
    control: RunControl,
) -> Generator[FileResult, None, None]:
    """Encodes images one by one, in order, and fits the map. Equal images give an equal map.

    Writes nothing if the run was stopped or if no image was readable. Raises DinacError.
    """
    sums = ColorSums()
    with closing(map_bounded(inputs, _read, control)) as images:
        for entry, image in images:
            yield _add(entry, image, model, sums)
    if control.stop or not sums.images:
        return
    fit.color_map = sums.solve(model.identity.latent_space, model.label)
    if output is None:
        fit.path = str(keep_map(fit.color_map, name_creator()))
    else:
        output.write(output.path, fit.color_map.to_json(name_creator()).encode())
        fit.path = output.path


def _add(
    entry: Input, image: Pixels | DinacError, model: ModelHandle, sums: ColorSums
) -> FileResult:
    if isinstance(image, DinacError):
        return FileResult.fail(entry.label, image, name=entry.name)
    height, width, _ = image.shape
    try:
        model.engine.check_size(height, width)
    except ImageError as exc:
        return FileResult.fail(entry.label, exc, name=entry.name)
    [latents] = model.engine.encode([image])
    sums.add(latents, image, model.traits.patch)
    return FileResult(entry.label, Status.READ, width=width, height=height, name=entry.name)


def _read(entry: Input, hold: Callable[[int], None]) -> tuple[Input, Pixels | DinacError]:
    try:
        if entry.problem or entry.path is None:
            raise InputError(entry.problem or "is no file; name a folder of images")
        image = read_shaped(
            read_content(entry.path).data,
            hold,
            background=WHITE,
            max_pixels=MAX_PIXELS,
            geometry=Geometry(max_side=MAX_SIDE),
        )
        return entry, image.pixels
    except DinacError as exc:
        return entry, exc
