"""What a run with --overwrite removes from OUT: the markers and shards of other runs."""

from __future__ import annotations

from dataclasses import dataclass

from dinac_cli.jobs.shards.contents import OutContents
from dinac_cli.jobs.shards.loose_plan import name_part
from dinac_cli.jobs.shards.run_settings import RunSettings, find_settings
from dinac_cli.jobs.shards.shard import parse_number
from dinac_cli.storage.markers import name_marker
from dinac_cli.storage.store import Store


@dataclass(frozen=True)
class Replaced:
    """What an OUT held before.

    `settings` is None if OUT has none, or if they are damaged. `marks` are the shards and
    fingerprints of the markers that are not valid any more, and `superfluous` the shards among
    these that the run does not make again.
    """

    settings: RunSettings | None
    marks: tuple[tuple[str, str], ...]
    superfluous: frozenset[str]

    @classmethod
    def find(
        cls, contents: OutContents, wanted: RunSettings, planned: set[str], *, has_loose: bool
    ) -> Replaced:
        """Finds what a run with the settings `wanted` replaces, if it makes the shards `planned`.

        Shards with the same settings stay, but for numbered ones if the run has loose images: those
        are numbered anew. Raises StorageError.
        """
        held = find_settings(contents.store)
        is_other = held is None or held.digest != wanted.digest
        superfluous = frozenset(
            shard
            for shard in contents.marks.keys() - planned
            if is_other or (has_loose and parse_number(shard) is not None)
        )
        marks = (
            (shard, mark)
            for shard in sorted(contents.marks if is_other else superfluous)
            for mark in sorted(contents.marks[shard])
        )
        return cls(held, tuple(marks), superfluous)

    def remove(self, store: Store) -> None:
        """Removes the markers and the superfluous shards, unless another process has done so.

        The other tars stay until they are replaced. Raises OutputError, StorageError.
        """
        if not self.marks or store.stat(name_marker(*self.marks[-1])) is None:
            return
        for shard, mark in self.marks:
            if shard in self.superfluous:
                store.remove(f"{shard}.tar")
                if parse_number(shard) is not None:
                    store.remove(name_part(shard))
            # Last: a run that is killed here leaves the marker to the next one, which removes both.
            store.remove(name_marker(shard, mark))
