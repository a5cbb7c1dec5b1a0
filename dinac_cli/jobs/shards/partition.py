"""Divides the inputs of a run into shards: one per archive, and the others of loose images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from dinac_cli.container.names import escape_name, find_name_fault
from dinac_cli.errors import InputError, UsageError
from dinac_cli.images.formats import is_image_name
from dinac_cli.jobs.image_masks import find_mask
from dinac_cli.jobs.request import IMAGES, InputRequest
from dinac_cli.jobs.shards.captions import match_captions
from dinac_cli.jobs.shards.expansion import expand_place, list_ahead
from dinac_cli.jobs.shards.shard import LooseFile, Shard, ShardKind, find_kind, fingerprint
from dinac_cli.storage.caption_files import OtherFiles
from dinac_cli.storage.exclusion import Exclusion
from dinac_cli.storage.inputs import STDIN
from dinac_cli.storage.markers import name_marker
from dinac_cli.storage.mask_files import MaskFiles
from dinac_cli.storage.naming import NameSet, ignores_case
from dinac_cli.storage.store import Stat, Store, is_hidden, open_store, split_place
from dinac_cli.storage.tars import make_key
from dinac_cli.storage.urls import hide_secrets, is_url, join_url


def names_shards(path: str) -> bool:
    """True if an input can only be read as shards: a URL, a tar or a parquet file."""
    return is_url(path) or find_kind(path) is not ShardKind.LOOSE


@dataclass(frozen=True)
class Archive:
    """A tar or a parquet file among the inputs. `version` is empty if it cannot be found."""

    place: str
    size_bytes: int = 0
    version: str = ""
    problem: str | None = None

    @property
    def name(self) -> str:
        """The name of its tar in OUT, without `.tar`: that of the file, without its folder."""
        return escape_name(os.path.splitext(split_place(self.place)[1])[0] or "_")

    def make_shard(self, settings: str) -> Shard:
        """Returns the shard of the archive; `settings` identifies the settings of the run."""
        kind = find_kind(self.place)
        mark = fingerprint(settings, kind.value, self.name, self.size_bytes, self.version)
        return Shard(
            name=self.name,
            kind=kind,
            fingerprint=mark,
            place=self.place,
            size_bytes=self.size_bytes,
            problem=self.problem or self._find_name_fault(mark),
        )

    def _find_name_fault(self, mark: str) -> str | None:
        fault = find_name_fault(name_marker(self.name, mark))  # longer than the tar's name
        return None if fault is None else f"the name of its marker {fault}; rename it"


@dataclass
class ShardInputs:
    """The inputs of a sharded run. Listing them once is enough: `archives`, then `list_loose`.

    After `list_loose`, `others` is the number of files that are not images, without those whose
    extensions are among `keep`, and `first_archive` is a tar or parquet file in a folder. `listed`
    are the numbers of files that the listings of remote folders named, and `asked` is the number of
    remote files that were looked up one by one. `masks` is the folder of --masks: a changed mask
    changes the version of its image, and `masked` is the number of loose images that have a mask.
    """

    request: InputRequest
    out: str
    keep: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    masks: str | None = None
    masked: int = field(default=0, init=False)
    others: int = field(default=0, init=False)
    first_archive: str | None = field(default=None, init=False)
    listed: list[int] = field(default_factory=list, init=False)
    asked: int = field(default=0, init=False)

    @classmethod
    def find(
        cls,
        request: InputRequest,
        out: str,
        keep: tuple[str, ...] = (),
        masks: str | None = None,
    ) -> ShardInputs:
        """Finds the archives.

        Raises UsageError if two of them have the same name in OUT, or if the images of one have no
        names by which --masks could find their masks.
        """
        if STDIN in request.paths:
            raise UsageError("-: an image from standard input cannot go into shards; name files")
        listed: dict[str, dict[str, Stat]] = {}
        archives = tuple(dict.fromkeys(_list_archives(request.paths, listed)))
        if masks is not None:
            _require_names(archives)
        found = cls(request, out, keep, archives, masks)
        found.listed = list(map(len, listed.values()))
        remote = (archive.place for archive in archives if is_url(archive.place))
        found.asked = sum(split_place(place)[0] not in listed for place in remote)
        _refuse_same_names(found.archives, fold_case=not is_url(out) and ignores_case(out))
        return found

    @property
    def _loose_paths(self) -> tuple[str, ...]:
        return tuple(path for path in self.request.paths if find_kind(path) is ShardKind.LOOSE)

    @property
    def has_loose(self) -> bool:
        """True if some inputs are loose images or folders of them."""
        return bool(self._loose_paths) or self.request.files_from is not None

    def list_loose(self) -> Iterator[LooseFile]:
        """Yields the loose images. Raises UsageError if two of them have the same key."""
        keys = NameSet()
        for file in self._list_files():
            key = make_key(file.name)
            if not keys.add(key) and file.problem is None:
                first = next(f for f in self._list_files() if keys.equal(make_key(f.name), key))
                names = f"{hide_secrets(first.path)} and {hide_secrets(file.path)}"
                raise UsageError(
                    f"{names} would both have the key {key}; rename one, or leave it out with "
                    "--exclude"
                )
            yield file

    def make_shards(self, settings: str) -> list[Shard]:
        """Returns the shards of the archives; `settings` identifies the settings of the run.

        The names in a tar are not known before it is read, so each mask changes all tars. Raises
        InputError if the folder of the masks cannot be listed.
        """
        if self.masks is not None and self.archives:
            settings += MaskFiles(self.masks).describe_all()
        return [archive.make_shard(settings) for archive in self.archives]

    def _list_files(self) -> Iterator[LooseFile]:
        self.masked = 0
        masks = None if self.masks is None else MaskFiles(self.masks)
        for file in self._list_unmasked():
            if masks is None:
                yield file
            else:
                yield self._add_mask(file, masks)

    def _add_mask(self, file: LooseFile, masks: MaskFiles) -> LooseFile:
        """Adds the state of the mask to the version of its image, and counts the mask."""
        try:
            mask = find_mask(masks, file.name)
        except InputError:  # the image fails with this error when it is read
            self.masked += 1
            return file
        self.masked += mask.path is not None
        return file._replace(version=f"{file.version}{mask.version}")

    def _list_unmasked(self) -> Iterator[LooseFile]:
        self.others = 0
        remote = tuple(path for path in self._loose_paths if is_url(path))
        local = tuple(path for path in self._loose_paths if not is_url(path))
        if local or self.request.files_from is not None:
            yield from self._list_local(replace(self.request, paths=local, shard=None, limit=None))
        for url in remote:
            yield from self._list_remote(url)

    def _list_local(self, request: InputRequest) -> Iterator[LooseFile]:
        out = None if is_url(self.out) else self.out
        kind = replace(IMAGES, companions=self._companions)
        scan = request.select(kind, out).scan
        for entry in scan:
            path = entry.path or ""
            try:
                status = os.stat(path)
            except OSError:
                problem = entry.problem or "cannot be read; check the path and its permissions"
                yield LooseFile(path, escape_name(entry.name), 0, "", problem)
            else:
                version = f"mtime-{status.st_mtime_ns}"
                name = escape_name(entry.name)
                skips = entry.search is not None and entry.search.skips_outputs
                yield LooseFile(path, name, status.st_size, version, entry.problem, skips)
        self.others += scan.others
        self.first_archive = scan.first_archive

    def _list_remote(self, url: str) -> Iterator[LooseFile]:
        if is_image_name(url):
            folder, name = split_place(url)
            store = open_store(folder)
            stat = store.stat(name)
            self.asked += 1
            if stat is None:
                raise UsageError(f"{hide_secrets(url)}: no such file; check the URL")
            yield _make_loose(store, stat)
            return
        store, exclusion = open_store(url), Exclusion(self.request.exclude)
        self.listed.append(0)
        unusable: list[str] = []
        beside = OtherFiles()
        for stat, has_caption in match_captions(store.list(skip=unusable.append)):
            self.listed[-1] += 1
            if is_hidden(stat.name) or exclusion.excludes_any(stat.name, is_folder=False):
                continue
            if is_image_name(stat.name):
                self.others += beside.pass_image(stat.name)
                yield _make_loose(store, stat, has_caption)
            else:
                if not stat.name.lower().endswith(self._companions):
                    self.others += beside.pass_other(stat.name)
                if self.first_archive is None and find_kind(stat.name) is not ShardKind.LOOSE:
                    self.first_archive = store.locate(stat.name)
        for name in filter(is_image_name, unusable):
            problem = "its name cannot be a path; rename the object"
            yield LooseFile(join_url(store.place, name), escape_name(name), 0, "", problem)

    @property
    def _companions(self) -> tuple[str, ...]:
        return tuple(f".{extension}" for extension in self.keep)


def _make_loose(store: Store, stat: Stat, has_caption: bool = False) -> LooseFile:
    path, name = join_url(store.place, stat.name), escape_name(stat.name)
    return LooseFile(path, name, stat.size_bytes, stat.version, has_caption=has_caption)


def _list_archives(paths: Iterable[str], listed: dict[str, dict[str, Stat]]) -> Iterator[Archive]:
    """Yields the archives that the paths name. Lists each remote folder once, into `listed`."""
    for path in paths:
        if find_kind(path) is ShardKind.LOOSE:
            continue
        places = list(expand_place(path, listed))
        list_ahead(places, listed)
        for place in places:
            yield _describe(place, listed)


def _describe(place: str, listed: dict[str, dict[str, Stat]]) -> Archive:
    folder, name = split_place(place)
    stat = listed[folder].get(name) if folder in listed else open_store(folder).stat(name)
    if stat is None:
        return Archive(place, problem="no such file; check its name")
    return Archive(place, stat.size_bytes, stat.version)


def _require_names(archives: Iterable[Archive]) -> None:
    for archive in archives:
        if find_kind(archive.place) is ShardKind.PARQUET:
            raise UsageError(
                f"{hide_secrets(archive.place)}: --masks needs names, which images of parquet "
                "files lack; use --mask"
            )


def _refuse_same_names(archives: Iterable[Archive], *, fold_case: bool) -> None:
    names: dict[str, str] = {}
    for archive in archives:
        name = archive.name.casefold() if fold_case else archive.name
        other = names.setdefault(name, archive.place)
        if other != archive.place:
            raise UsageError(
                f"{hide_secrets(other)} and {hide_secrets(archive.place)} would both be written to "
                f"{archive.name}.tar; give them different OUTs or rename one"
            )
