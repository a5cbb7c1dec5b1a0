"""Counts the aspect-ratio buckets of the images that a run into shards would encode."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import IO

from dinac_cli.errors import (
    DecodedImageError,
    DinacError,
    InputError,
    SmallImageError,
    describe_read_error,
)
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.encode import IS_DECODED, EncodeOptions
from dinac_cli.jobs.plan import measure_original
from dinac_cli.jobs.shards.shard import LooseFile, ShardKind
from dinac_cli.jobs.shards.shard_states import PlannedShard
from dinac_cli.storage.urls import is_url


@dataclass
class BucketCounts:
    """The number of images to encode of each (width, height), from the headers of local files.

    `upscaled` images would be scaled up. `small` images are smaller than their bucket, so the run
    fails or skips them. `decoded` images are skipped because dinac decoded them. The headers of
    `unreadable` images cannot be read; `first_problem` says why for one of them. `remote` images
    lie at URLs, and `archives` is the number of shards of archives: their sizes stay unknown.
    """

    options: EncodeOptions
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter, init=False)
    upscaled: int = field(default=0, init=False)
    small: int = field(default=0, init=False)
    decoded: int = field(default=0, init=False)
    unreadable: int = field(default=0, init=False)
    first_problem: str | None = field(default=None, init=False)
    remote: int = field(default=0, init=False)
    archives: int = field(default=0, init=False)

    @property
    def is_complete(self) -> bool:
        """True if all images to encode could be counted."""
        return not (self.remote or self.archives)

    def add(self, planned: PlannedShard) -> None:
        """Counts the images of a shard, if the run would encode it. Reads their headers."""
        if planned.shard is None:
            return
        if planned.shard.kind is not ShardKind.LOOSE:
            self.archives += 1
            return
        for file in planned.shard.files:
            if file.problem is None:
                self._add_file(file)

    def _add_file(self, file: LooseFile) -> None:
        if is_url(file.path):
            self.remote += 1
            return
        try:
            self._measure(file)
        except SmallImageError:
            self.small += 1
        except DecodedImageError:
            self.decoded += 1
        except DinacError as exc:
            self._note(file, str(exc))
        except OSError as exc:
            self._note(file, describe_read_error(exc))

    def _measure(self, file: LooseFile) -> None:
        check = _refuse_decoded if file.skips_decoded else None
        size = measure_original(file.path, self.options, check)
        if size is None:
            raise InputError("its size is unknown until it is read")
        geometry = self.options.geometry
        self.sizes[geometry.measure(*size)] += 1
        self.upscaled += geometry.upscales(*size)

    def _note(self, file: LooseFile, reason: str) -> None:
        self.unreadable += 1
        self.first_problem = self.first_problem or f"{file.path}: {reason}"


def _refuse_decoded(source: IO[bytes]) -> None:
    if read_stamp(source) is not None:
        raise DecodedImageError(IS_DECODED)
