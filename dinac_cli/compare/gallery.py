"""The pictures of a comparison: originals, reconstructions and records of a few images in OUT.

The images that are shown are spread over the set. Everything is lossless. The files of images that
are shown no longer are removed, so that OUT does not grow with the set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dinac_cli.compare.result_files import Measure
from dinac_cli.compare.variants import Variant, name_safely
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.stamp import read_stamp
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.freshness import WantedImage, is_latent_file, is_stamped_image, list_files
from dinac_cli.storage.naming import name_latents
from dinac_cli.storage.output import Output, OutputKind

SHOWN = "shown"
"""The folder of the pictures in OUT."""

_ORIGINALS = "originals"
_SOURCE_KEY, _READING_KEY = "source", "reading"


def choose_shown(names: Sequence[str], count: int, is_usable: Callable[[str], bool]) -> list[str]:
    """Returns up to `count` of the names that are usable, spread evenly, in their order.

    An unusable name is replaced by the next usable one, so that a failure changes little.
    """
    places = range(len(names)) if count >= len(names) else _spread(len(names), count)
    chosen: dict[int, None] = {}
    for place in places:
        for candidate in range(place, place + len(names)):
            index = candidate % len(names)
            if index not in chosen and is_usable(names[index]):
                chosen[index] = None
                break
    return [names[index] for index in sorted(chosen)]


def _spread(total: int, count: int) -> Iterator[int]:
    """Yields `count` whole numbers below `total`, as evenly spread as possible."""
    for number in range(count):
        yield (2 * number + 1) * total // (2 * count)


class Gallery:
    """Writes and finds the pictures in OUT. Several threads may use it.

    Files of other programs are replaced only if `overwrite` is set.
    `reading` describes how originals are read (geometry, background…): pictures of another reading
    are stale.
    """

    def __init__(self, out: str, reading: str, *, overwrite: bool = False) -> None:
        folder = os.path.join(out, SHOWN)
        self._output = Output(folder, OutputKind.FOLDER, _is_ours, overwrite)
        self._reading = reading

    @property
    def folds_case(self) -> bool:
        """True if two names that differ only in case name the same file in OUT."""
        return self._output.folds_case

    def locate_original(self, name: str) -> str:
        """Returns the path of the picture of an original."""
        return self._output.locate(f"{_ORIGINALS}/{_name_picture(name)}")

    def locate_picture(self, variant: Variant, name: str) -> str:
        """Returns the path of a reconstruction."""
        return self._output.locate(f"{variant.slug}/{_name_picture(name)}")

    def locate_record(self, variant: Variant, name: str) -> str:
        """Returns the path of a record. Variants that differ only in steps share it."""
        return self._output.locate(f"{_name_records(variant)}/{name_latents(name)}")

    def has(self, variant: Variant, name: str, measure: Measure) -> bool:
        """True if all pictures of an image in a variant are there, and show what was measured."""
        original = read_stamp(Path(self.locate_original(name))) or {}
        is_same = original.get(_SOURCE_KEY) == measure.source_sha256
        if not is_same or original.get(_READING_KEY) != self._reading:
            return False
        wanted = want_picture(variant, measure.record_sha256)
        picture = read_stamp(Path(self.locate_picture(variant, name)))
        if picture is None or any(picture.get(key) != text for key, text in wanted.stamp.items()):
            return False
        return is_latent_file(self.locate_record(variant, name))

    def keep_original(self, name: str, pixels: Pixels, source_sha256: str) -> None:
        """Writes the picture of an original. Raises OutputError."""
        stamp = {_SOURCE_KEY: source_sha256, _READING_KEY: self._reading}
        self._write(self.locate_original(name), write_image(pixels, "png", stamp=stamp))

    def keep(
        self, variant: Variant, name: str, pixels: Pixels, record: bytes, record_sha256: str
    ) -> None:
        """Writes a reconstruction and its record. Raises OutputError."""
        stamp = want_picture(variant, record_sha256).stamp
        self._write(self.locate_record(variant, name), record)
        self._write(self.locate_picture(variant, name), write_image(pixels, "png", stamp=stamp))

    def remove_others(self, shown: Collection[str]) -> None:
        """Removes the pictures and records of images that are not among `shown`."""
        wanted = {_name_picture(name) for name in shown}
        wanted |= {name_latents(name) for name in shown}
        if not os.path.isdir(self._output.path):
            return
        for path in list(list_files(self._output.path)):
            name = os.path.relpath(path, self._output.path).replace(os.sep, "/").partition("/")[2]
            if name not in wanted and _is_ours(path):
                with suppress(OSError):  # a leftover does no harm
                    os.unlink(path)

    def _write(self, path: str, data: bytes) -> None:
        self._output.write(path, data)


def want_picture(variant: Variant, record_sha256: str) -> WantedImage:
    """Returns what the stamp of a reconstruction says; `decode` writes the same."""
    weights = variant.model.handle.identity.weights
    return WantedImage(record_sha256, weights, variant.decoding)


def _name_picture(name: str) -> str:
    """Returns the name of a picture, which no other image has: `a.png` becomes `a.png.png`."""
    return f"{name}.png"


def _name_records(variant: Variant) -> str:
    label = f"{variant.model.label}-{variant.precision}-latents"
    return name_safely(label, variant.record_digest)


def _is_ours(path: str) -> bool:
    return is_stamped_image(path) or is_latent_file(path)
