"""Small images, small models and outputs for the tests of the jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import pack_record
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.freshness import is_latent_file, is_stamped_image
from dinac_cli.jobs.request import IMAGES, LATENTS, Selection
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.storage.inputs import InputScan
from dinac_cli.storage.output import Output, OutputKind
from dinac_cli.storage.source_memory import MEMORY_NAME

T = TypeVar("T")

GOLDEN = Path(__file__).parent.parent / "golden"


def make_handle(name: str, part: str, dtype: str = "f32") -> ModelHandle:
    """Returns the model of a golden folder, not loaded yet."""
    choice = DeviceChoice(device="cpu", dtype=dtype)
    return ModelHandle(DinacModel(GOLDEN / name, name), part, choice)


def draw(seed: int, height: int = 20, width: int = 30) -> npt.NDArray[np.uint8]:
    """Draws a smooth picture, different for each seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    resized = Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def write_images(folder: Path, *names: str, height: int = 20, width: int = 30) -> None:
    """Writes images with these names below `folder`, each with another picture."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(number, height, width)).save(path)


def select_images(*paths: Path | str, out: Path | None = None) -> Selection:
    """Returns the inputs of an encode run."""
    named = tuple(str(path) for path in paths)
    return Selection(InputScan(IMAGES, named, skipped_folder=None if out is None else str(out)))


def select_latents(*paths: Path | str) -> Selection:
    """Returns the inputs of a decode run."""
    return Selection(InputScan(LATENTS, tuple(str(path) for path in paths)))


def latents_out(path: Path, kind: OutputKind = OutputKind.FOLDER, **options: bool) -> Output:
    """Returns OUT of an encode run."""
    return Output(str(path), kind, is_latent_file, **options)


def images_out(path: Path, kind: OutputKind = OutputKind.FOLDER, **options: bool) -> Output:
    """Returns OUT of a decode run."""
    return Output(str(path), kind, is_stamped_image, **options)


def run_control(
    workers: int = 2,
    in_flight: int = 4,
    *,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
) -> RunControl:
    """Returns a new control, which serves one run."""
    return RunControl(workers=workers, in_flight=in_flight, stdin=stdin, stdout=stdout)


def statuses(results: Iterable[FileResult]) -> dict[str, Status]:
    """Maps the last part of each input's path to its status."""
    return {result.file.rpartition("/")[2]: result.status for result in results}


def reasons(results: Iterable[FileResult]) -> dict[str, str | None]:
    """Maps the last part of each input's path to its reason."""
    return {result.file.rpartition("/")[2]: result.reason for result in results}


def read_tree(folder: Path) -> dict[str, bytes]:
    """Reads all files below a folder, by relative name, except the memory of `encode`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    paths = sorted(path for path in files if path.name != MEMORY_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def make_header(model: ModelHandle, name: str, **fields: object) -> RecordHeader:
    """Returns the header of a record of 20x30 pixels of this model."""
    patch = model.traits.patch
    header = RecordHeader(
        name=name,
        model=model.label,
        latent_space=model.identity.latent_space,
        weights=model.identity.weights,
        precision="f32",
        patch=patch,
        height=20,
        width=30,
        shape=(model.traits.channels, -(-20 // patch), -(-30 // patch)),
    )
    return dataclasses.replace(header, **fields)  # type: ignore[arg-type]


def make_record(model: ModelHandle, name: str, seed: int = 0, **fields: object) -> bytes:
    """Returns a record of random latents."""
    header = make_header(model, name, **fields)
    latents = np.random.default_rng(seed).standard_normal(header.shape).astype(np.float32)
    return pack_record(header, latents)


class Counted(Iterator[T]):
    """Yields items and counts in `taken` how many were taken."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self.taken = 0

    def __next__(self) -> T:
        item = next(self._items)
        self.taken += 1
        return item
