"""A shard whose images are being encoded: its tar, its counts, and at last its marker."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.shards.sample import Leftovers
from dinac_cli.jobs.shards.shard import Shard
from dinac_cli.storage.markers import Failure, Marker
from dinac_cli.storage.store import Spool, Store
from dinac_cli.storage.tars import TarWriter


@dataclass
class OpenShard:
    """The tar of one shard, while its images are encoded. The packer's thread owns the tar.

    `listed` is the number of images, once they are all listed; `error` ends the shard. If the run
    stops before an image of the shard is read, the shard `is_left` to the next run.
    """

    number: int
    shard: Shard
    left: Leftovers = field(default_factory=Leftovers)
    listed: int | None = None
    has_begun: bool = False
    is_left: bool = False
    taken: int = 0
    error: Exception | None = None
    counts: Counter[Status] = field(default_factory=Counter)
    failures: list[FileResult] = field(default_factory=list)
    failed_keys: list[str] = field(default_factory=list)
    remarked: list[FileResult] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    stack: ExitStack = field(default_factory=ExitStack)
    spool: Spool | None = None
    tar: TarWriter | None = None
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def is_taken(self) -> bool:
        """True if every image of the shard has a result."""
        return self.listed is not None and self.taken == self.listed

    def open(self, store: Store) -> TarWriter:
        """Starts the tar, unless it was started."""
        if self.tar is None:
            self.spool = self.stack.enter_context(store.spool(f"{self.shard.name}.tar"))
            self.tar = TarWriter(self._write)
        return self.tar

    def _write(self, data: bytes) -> None:
        assert self.spool is not None
        self.digest.update(data)
        self.spool.write(data)

    def count(self, result: FileResult) -> None:
        """Counts the result of one image."""
        self.counts[result.status] += 1
        self.totals["upscaled"] += result.upscaled
        self.totals["unchecked"] += result.unchecked
        self.totals["unmasked"] += result.unmasked
        if result.status is Status.WRITTEN:
            self.totals["bytes_in"] += result.bytes_in
            self.totals["bytes_out"] += result.bytes_out
            self.totals["pixels"] += result.width * result.height

    def make_result(self, output: str, reason: str | None) -> FileResult:
        """Returns the result of the whole shard; `reason` says why it was encoded again."""
        written = self.counts[Status.WRITTEN]
        shown = [result for result in self.remarked if result.status is Status.WRITTEN]
        return FileResult(
            self.shard.label,
            Status.WRITTEN,
            output=output,
            name=self.shard.name,
            reason=reason,
            images=written - len(shown),
            pixels=self.totals["pixels"] - sum(r.width * r.height for r in shown),
            bytes_in=self.totals["bytes_in"] - sum(r.bytes_in for r in shown),
            bytes_out=self.totals["bytes_out"] - sum(r.bytes_out for r in shown),
            upscaled=self.totals["upscaled"] - sum(r.upscaled for r in shown),
            unchecked=self.totals["unchecked"] - sum(r.unchecked for r in shown),
            unmasked=self.totals["unmasked"] - sum(r.unmasked for r in shown),
            parts=(*self.failures, *(replace(r, is_redone=bool(reason)) for r in self.remarked)),
            captions=self.left.images,
        )


def make_marker(pack: OpenShard, compute: str, *, anonymous: bool) -> Marker:
    """Returns the marker of a complete shard, whose records have the field `compute`.

    With `anonymous`, it tells neither names nor sizes; a reason may hold both.
    """
    assert pack.tar is not None
    failures = tuple(
        Failure(key, "", "", result.error or "")
        if anonymous
        else Failure(key, result.file, result.reason or "", result.error or "")
        for key, result in zip(pack.failed_keys, pack.failures, strict=True)
    )
    return Marker(
        shard=pack.shard.name,
        fingerprint=pack.shard.fingerprint,
        images=pack.counts[Status.WRITTEN],
        failed=len(failures),
        skipped=pack.counts[Status.SKIPPED],
        size_bytes=pack.tar.size_bytes,
        sha256=pack.digest.hexdigest(),
        bytes_in=0 if anonymous else pack.totals["bytes_in"],
        pixels=pack.totals["pixels"],
        source="" if anonymous or not pack.shard.place else pack.shard.label,
        compute=compute if pack.counts[Status.WRITTEN] else "",
        failures=failures,
    )
