"""Removes models from the Hub's cache. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dinac_cli.errors import ModelError, OutputError, UsageError
from dinac_cli.models.registry import find_repository, split_repository

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, CachedRevisionInfo, DeleteCacheStrategy, HFCacheInfo

_CARD = "README.md"  # downloaded with every model
_SHORTEST_COMMIT = 7
"""A shorter revision is only compared with branches, tags and whole commits."""


@dataclass(frozen=True)
class Removal:
    """Revisions of one model that `execute` removes from the Hub's cache.

    `revisions` holds full commits. `size_bytes` is the disk space that the removal frees: it leaves
    out files that other revisions use. `cache` is the folder of the Hub's cache.
    """

    repository: str
    revisions: tuple[str, ...]
    size_bytes: int
    cache: Path
    _strategy: DeleteCacheStrategy

    def execute(self) -> None:
        """Removes the files. Raises OutputError if some of them cannot be removed."""
        from logging import ERROR

        from huggingface_hub.utils import logging

        verbosity = logging.get_verbosity()
        logging.set_verbosity(ERROR)  # the client only logs a refusal, with a traceback
        try:
            self._strategy.execute()
        except OSError as exc:
            raise _refuse_removal(exc.filename, f": {exc.strerror}") from exc
        finally:
            logging.set_verbosity(verbosity)
        for path in _list_paths(self._strategy):
            if path.exists():
                raise _refuse_removal(path)


def plan_removal(source: str, revision: str | None = None) -> Removal:
    """Finds what to remove: all cached revisions of a Hub model, or one.

    `revision` is a branch, a tag, or a commit of at least 7 characters. Raises UsageError if
    `source` is not a Hub model or `revision` is ambiguous, and ModelError if it is not cached.
    """
    from huggingface_hub import constants

    repository, folder = split_repository(find_repository(source, "cannot be removed"))
    cache = Path(constants.HF_HUB_CACHE).resolve()
    scan, repo = _scan(repository, cache)
    chosen = [_choose(repo, revision)] if revision is not None else list(repo.revisions)
    if folder:
        _demand_nothing_else(repository, folder, chosen)
    # Forks share commits, and the client deletes by commit alone: show it this repository only.
    only = replace(scan, repos=frozenset([repo]))
    strategy = only.delete_revisions(*(one.commit_hash for one in chosen))
    for path in _list_paths(strategy):
        if not path.resolve().is_relative_to(cache):
            raise ModelError(f"{path}: leads out of the Hub's cache {cache}; remove it by hand")
    return Removal(
        repository=repository,
        revisions=tuple(sorted(one.commit_hash for one in chosen)),
        size_bytes=strategy.expected_freed_size,
        cache=cache,
        _strategy=strategy,
    )


def _scan(repository: str, cache: Path) -> tuple[HFCacheInfo, CachedRepoInfo]:
    """Finds a repository in the cache. Raises ModelError if it is not cached, or damaged."""
    from huggingface_hub import scan_cache_dir

    folder = cache / f"models--{repository.replace('/', '--')}"
    if not folder.exists():
        raise ModelError(f"model {repository} is not cached in {cache}; nothing to remove")
    scan = scan_cache_dir(cache)
    for repo in scan.repos:
        if repo.repo_type == "model" and repo.repo_id == repository and repo.revisions:
            return scan, repo
    raise ModelError(
        f"model {repository}: {folder} holds an interrupted download or damaged files; "
        "remove this folder by hand"
    )


def _demand_nothing_else(
    repository: str, folder: str, revisions: Sequence[CachedRevisionInfo]
) -> None:
    """Raises UsageError if the revisions hold files outside the folder that the user named."""
    for revision in revisions:
        for file in revision.files:
            inner = file.file_path.relative_to(revision.snapshot_path)
            if inner.parts[0] != folder and inner.as_posix() != _CARD:
                raise UsageError(
                    f"{repository}: the cache also holds {inner.as_posix()}, which is not in "
                    f"{folder}; to remove the whole repository, name {repository}"
                )


def _choose(repo: CachedRepoInfo, revision: str) -> CachedRevisionInfo:
    for one in repo.revisions:
        if revision in one.refs or revision == one.commit_hash:
            return one
    is_commit = len(revision) >= _SHORTEST_COMMIT
    found = [one for one in repo.revisions if is_commit and one.commit_hash.startswith(revision)]
    if len(found) > 1:
        raise UsageError(
            f"--revision {revision} matches several cached commits; give more characters"
        )
    if not found:
        cached = ", ".join(sorted(map(_name_revision, repo.revisions)))
        raise ModelError(
            f"model {repo.repo_id}: revision {revision} is not cached; cached: {cached}"
        )
    return found[0]


def _name_revision(revision: CachedRevisionInfo) -> str:
    """Returns e.g. `0123456789ab (main)`."""
    refs = ", ".join(sorted(revision.refs))
    return revision.commit_hash[:12] + (f" ({refs})" if refs else "")


def _refuse_removal(path: Path | str, reason: str = "") -> OutputError:
    return OutputError(f"{path}: cannot be removed{reason}; check its permissions, then retry")


def _list_paths(strategy: DeleteCacheStrategy) -> Iterator[Path]:
    """Yields all files and folders that a strategy removes."""
    for paths in (strategy.repos, strategy.snapshots, strategy.refs, strategy.blobs):
        yield from sorted(paths)
