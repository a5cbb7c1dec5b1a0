"""Finds the record that a renamed source left behind, so that it need not be encoded again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace

from dinac_cli.codec.records import Source, build_header
from dinac_cli.container.record import OpenRecord, open_record, pack_encoded, read_header
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import DinacError, FormatError
from dinac_cli.jobs.freshness import State, WantedLatents, check_latents
from dinac_cli.jobs.image_masks import NO_MASK, FoundMask
from dinac_cli.jobs.orphans import find_orphans
from dinac_cli.jobs.request import Selection
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.content import read_content
from dinac_cli.storage.output import Output

WAS = "was "
"""The reason of a result with the status RENAMED: this word, then the path of the old record."""

_MOST_ORPHANS = 2**16  # bounds the memory; the sources of further orphans are encoded again


class RenamedRecords:
    """The orphans in OUT by their source, for a run whose sources may have new names.

    Used by several threads. The orphans are listed when the first source is looked up.
    """

    def __init__(self, selection: Selection, output: Output) -> None:
        self._selection = selection
        self._output = output
        self._lock = threading.Lock()
        self._by_source: dict[tuple[int, str], str] | None = None
        self._sizes: set[int] = set()
        self._moved: dict[str, str] = {}

    def __getstate__(self) -> dict[str, object]:
        """Another process lists the orphans itself."""
        return {**vars(self), "_lock": None, "_by_source": None, "_moved": {}}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def take(self, size_bytes: int, hash_source: Callable[[], str]) -> str | None:
        """Returns the orphan whose source had this size and hash, or None.

        Returns each orphan only once. Calls `hash_source` only if an orphan's source had this size.
        """
        with self._lock:
            if self._by_source is None:
                self._by_source = self._list_orphans()
                self._sizes = {size for size, _ in self._by_source}
            if size_bytes not in self._sizes:
                return None
        source = size_bytes, hash_source()
        with self._lock:
            return self._by_source.pop(source, None)

    def note_moved(self, orphan: str, target: str) -> None:
        """Notes that `target` holds the record of `orphan` under its new name."""
        with self._lock:
            self._moved[orphan] = target

    def note_result(self, entry: object, result: FileResult) -> None:
        """Notes what another process has moved."""
        if result.status is Status.RENAMED and result.reason and result.output:
            self.note_moved(result.reason.removeprefix(WAS), result.output)

    def is_moved(self, orphan: str) -> bool:
        """True if the record of `orphan` exists under its new name."""
        return orphan in self._moved and os.path.lexists(self._moved[orphan])

    def _list_orphans(self) -> dict[tuple[int, str], str]:
        found: dict[tuple[int, str], str] = {}
        for path in find_orphans(self._selection, self._output):
            try:
                with open(path, "rb") as file:
                    header = read_header(file)
            except (FormatError, OSError):
                continue
            if header.source_bytes is not None and header.source_sha256 is not None:
                found.setdefault((header.source_bytes, header.source_sha256), path)
            if len(found) == _MOST_ORPHANS:
                break
        return found


def rename_record(
    orphan: str,
    image: str,
    name: str,
    wanted: WantedLatents,
    hold: Callable[[int], None] = lambda _: None,
    mask: FoundMask = NO_MASK,
) -> bytes | None:
    """Returns the record that a fresh encoding of `image` under `name` gives, made from `orphan`.

    `orphan` is the path of a record of the same image. `mask` is what --masks has for the new name.
    Returns None if it is not certain that all
    bytes are equal: the record has other settings, is damaged, or comes from another version, model
    or arithmetic. `hold(size_bytes)` waits until this much memory may be used.
    """
    try:
        verdict = check_latents(orphan, image, wanted, checksum=True, mask=mask)
        if verdict.state is not State.DONE:
            return None
        data = read_content(orphan).data
        opened = open_record(data)
        hold(len(data) + opened.declared_bytes(wanted.tensors, with_twin=wanted.geometry.flip))
        return _pack_again(opened, data, name, wanted)
    except (DinacError, OSError):
        return None


def _pack_again(opened: OpenRecord, data: bytes, name: str, wanted: WantedLatents) -> bytes | None:
    """Packs a record under another name. Returns None if a fresh encoding gives other bytes."""
    old = opened.header
    assert old.source_bytes is not None
    assert old.source_sha256 is not None
    source = Source(name, old.source_bytes, old.source_sha256, old.image, old.height, old.width)
    fresh = build_header(source, old.shape, wanted.model, old.compute, wanted.precision)
    if replace(old, name=fresh.name) != fresh or old.compute != wanted.model.compute:
        return None
    record = opened.unpack(wanted.tensors, with_twin=wanted.geometry.flip)
    encoded = Encoded(record.latents, record.logsnr, record.class_token, record.mask)
    steps = wanted.model.choose_steps(wanted.precision)
    # If the old record has other steps or more tensors, packing it again gives other bytes.
    if pack_encoded(old, encoded, steps, record.flipped) != data:
        return None
    return pack_encoded(fresh, encoded, steps, record.flipped)
