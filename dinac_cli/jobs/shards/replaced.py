"""What a run with --overwrite removes from OUT: shards of earlier runs that it does not make."""

from __future__ import annotations

from dataclasses import dataclass

from dinac_cli.errors import UsageError
from dinac_cli.jobs.shards.contents import OutContents
from dinac_cli.jobs.shards.loose_plan import name_part
from dinac_cli.jobs.shards.run_settings import RunSettings, read_settings
from dinac_cli.jobs.shards.shard import parse_number
from dinac_cli.storage.markers import name_marker
from dinac_cli.storage.shard_layout import INDEX_NAME
from dinac_cli.storage.store import Store


@dataclass(frozen=True)
class Replaced:
    """The settings and the superfluous shards of an OUT, with the fingerprints of their markers.

    `settings` is None if OUT has none, or if they are damaged.
    """

    settings: RunSettings | None
    shards: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def find(
        cls, contents: OutContents, wanted: RunSettings, planned: set[str], *, has_loose: bool
    ) -> Replaced:
        """Finds what a run with the settings `wanted` replaces, if it makes the shards `planned`.

        Shards with the same settings stay, but for numbered ones if the run has loose images: those
        are numbered anew. Raises StorageError.
        """
        held = _read_settings(contents.store)
        is_other = held is None or held.digest != wanted.digest
        superfluous = (
            shard
            for shard in sorted(contents.marks.keys() - planned)
            if is_other or (has_loose and parse_number(shard) is not None)
        )
        shards = tuple((shard, tuple(sorted(contents.marks[shard]))) for shard in superfluous)
        return cls(held, shards)

    def remove(self, store: Store) -> None:
        """Removes the shards, and the index. Raises OutputError, StorageError."""
        store.remove(INDEX_NAME)
        for shard, marks in self.shards:
            for mark in marks:  # first: they say that the shard is complete
                store.remove(name_marker(shard, mark))
            store.remove(f"{shard}.tar")
            if parse_number(shard) is not None:
                store.remove(name_part(shard))


def _read_settings(store: Store) -> RunSettings | None:
    try:
        return read_settings(store)
    except UsageError:
        return None
