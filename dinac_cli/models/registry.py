"""Resolves `--model` to files on disk: the embedded model, aliases, Hub repositories, local paths.

Free of torch. The Hub's client is imported only if a Hub model is asked for. A record never causes
a download: it is matched against the models that are already local.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dinac_cli.errors import ModelError, UsageError
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.source import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    locate_checkpoint,
    read_config,
    read_settings,
)
from dinac_cli.models.identity import ModelIdentity, read_identity

NANO = "nano"
_INSTEAD = f"use --model {NANO} (embedded)"
NANO_REVISION = "4"
AUTO = "auto"
HUB_ALIASES = {
    "d2": "data-archetype/dinac_ae_d2",
    "dinac-ae": "data-archetype/dinac_ae",
}

_NANO_FOLDER = Path(__file__).parent.parent / "weights" / NANO
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED_FILES = [CONFIG_NAME, "*.safetensors", "README.md"]


@dataclass(frozen=True)
class ResolvedModel:
    """A checkpoint on disk.

    `path` is a folder or a .safetensors file. `label` is the model's name in records and messages.
    `revision` is the Hub commit or the embedded model's number, "" for a local path.
    """

    path: Path
    label: str
    revision: str = ""

    @property
    def is_public(self) -> bool:
        """True if every dinac knows the label, so that it reveals nothing about the user."""
        return bool(self.revision) and self.label in (NANO, *HUB_ALIASES.values())

    def read_config(self) -> DinacAEConfig:
        """Returns the network's sizes and constants. Raises ModelError."""
        return read_config(locate_checkpoint(self.path))

    def read_settings(self) -> Mapping[str, object]:
        """Returns all of `config.json`, or {} if there is none. Raises ModelError."""
        return read_settings(locate_checkpoint(self.path))

    def identify(self) -> ModelIdentity:
        """Returns the identities, cached by path, size and modification time. Raises ModelError."""
        files = locate_checkpoint(self.path)
        return read_identity(files.weights, read_config(files))


def resolve_model(
    source: str,
    revision: str | None = None,
    *,
    announce: Callable[[str], None] | None = None,
) -> ResolvedModel:
    """Finds the model that `source` names: an alias, folder, .safetensors file or Hub repository.

    If a Hub model is not cached, calls `announce` with a message and downloads it. Raises
    ModelError with a remedy if the download fails, UsageError if `source` is none of the above.
    """
    if source == NANO:
        _refuse_revision(source, revision, NANO_REVISION)
        return ResolvedModel(_NANO_FOLDER, NANO, NANO_REVISION)
    if source not in HUB_ALIASES and os.path.exists(os.path.expanduser(source)):
        _refuse_revision(source, revision, "")
        path = Path(os.path.expanduser(source))
        return ResolvedModel(path, path.resolve().name)
    repository = HUB_ALIASES.get(source, source)
    # A missing .safetensors file is a typo: do not ask the Hub about it.
    if not _REPOSITORY.fullmatch(repository) or repository.endswith(".safetensors"):
        known = ", ".join([NANO, *HUB_ALIASES])
        raise UsageError(
            f"--model {source}: no such file or folder, and neither an alias ({known}) "
            "nor a Hub repository (owner/name)"
        )
    cached = find_cached(repository, revision)
    return cached or _download(repository, revision, announce)


def find_local(source: str, revision: str | None = None) -> ResolvedModel:
    """Resolves like `resolve_model`, but never downloads.

    Raises ModelError, with the command to fetch it, if a Hub model is not cached.
    """
    repository = HUB_ALIASES.get(source, source)
    is_path = source not in HUB_ALIASES and os.path.exists(os.path.expanduser(source))
    if source == NANO or is_path or not _REPOSITORY.fullmatch(repository):
        return resolve_model(source, revision)
    cached = find_cached(repository, revision)
    if cached is None:
        raise ModelError(f"model {repository} is not cached; run: dinac models pull {source}")
    return cached


def pull_model(source: str, revision: str | None = None) -> ResolvedModel:
    """Downloads the files of a Hub model that are not cached; resumes an interrupted download.

    If HF_HUB_OFFLINE is set, uses the cached files. Raises ModelError if the download fails,
    UsageError if `source` does not name a Hub repository.
    """
    if source == NANO:
        raise UsageError(f"model {NANO} is embedded: nothing to download")
    repository = HUB_ALIASES.get(source, source)
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(
            f"{source}: neither an alias ({', '.join(HUB_ALIASES)}) nor a Hub repository "
            "(owner/name)"
        )
    return _download(repository, revision, None)


def choose_default(device: str) -> str:
    """Returns the model for `--model auto` without latents: `nano` on a CPU, `d2` on CUDA and MPS.

    `device` is the `--device` option. Torch is imported only if there may be a GPU.
    """
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return NANO
    from dinac_cli.models.device import resolve_device

    return NANO if resolve_device(device).type == "cpu" else "d2"


def find_model(latent_space: str) -> ResolvedModel | None:
    """Returns the embedded or cached model with this latent space, or None."""
    for candidate in _list_local():
        try:
            if candidate.identify().latent_space == latent_space:
                return candidate
        except ModelError:  # skip a damaged cache entry
            continue
    return None


def find_cached(repository: str, revision: str | None = None) -> ResolvedModel | None:
    """Returns a repository's checkpoint from the Hub's cache, or None if absent or incomplete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=_WANTED_FILES,
                local_files_only=True,
            )
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None
    return ResolvedModel(folder, repository, folder.name) if _is_complete(folder) else None


def _is_complete(folder: Path) -> bool:
    """Whether a snapshot in the Hub's cache has weights and configuration.

    The client may return the folder of an interrupted download. Without their configuration,
    weights would be read with the released constants, which may be wrong. While a blob beside the
    snapshots is incomplete, another weights file would be taken for the missing one.
    """
    if not (folder / CONFIG_NAME).is_file():
        return False
    if (folder / WEIGHTS_NAME).is_file():
        return True
    has_other_weights = any(path.is_file() for path in folder.glob("*.safetensors"))
    return has_other_weights and not any(folder.parent.parent.glob("blobs/*.incomplete"))


def _list_local() -> Iterator[ResolvedModel]:
    yield ResolvedModel(_NANO_FOLDER, NANO, NANO_REVISION)
    for repository in HUB_ALIASES.values():
        cached = find_cached(repository)
        if cached is not None:
            yield cached


def _download(
    repository: str, revision: str | None, announce: Callable[[str], None] | None
) -> ResolvedModel:
    from huggingface_hub import constants, snapshot_download

    at = f"{repository} (revision {revision or 'main'})"
    if announce is not None and not constants.HF_HUB_OFFLINE:
        announce(f"downloading {at} into {constants.HF_HUB_CACHE}")
    try:
        folder = Path(
            snapshot_download(repository, revision=revision, allow_patterns=_WANTED_FILES)
        )
    except Exception as exc:  # the client's transport errors have no common base class
        raise ModelError(
            f"model {at} is not cached in {constants.HF_HUB_CACHE} and cannot be downloaded: "
            f"{_explain_hub_error(exc)}"
        ) from exc
    if not _is_complete(folder):
        raise ModelError(
            f"model {at} has no config.json or no .safetensors file in {folder}; if its download "
            "was interrupted, go online and retry; otherwise name a DINAC-AE repository"
        )
    return ResolvedModel(folder, repository, folder.name)


def _explain_hub_error(exc: Exception) -> str:
    """Returns why a download failed and what to do, in one line."""
    from huggingface_hub import constants, errors

    if isinstance(exc, errors.GatedRepoError):
        return "the repository is gated; accept its terms on its page, then log in"
    if isinstance(exc, errors.RepositoryNotFoundError):
        return "the Hub has no such repository, or it is private; check the name, or log in"
    if isinstance(exc, errors.RevisionNotFoundError):
        return "the repository has no such revision; check --revision"
    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set; unset it once to download, or {_INSTEAD}"
    if isinstance(exc, errors.LocalEntryNotFoundError):
        return f"the Hub is unreachable; go online once, or {_INSTEAD}"
    detail = str(exc).strip().partition("\n")[0] or type(exc).__name__
    return f"the download failed ({detail}); try again, or {_INSTEAD}"


def _refuse_revision(source: str, revision: str | None, own: str) -> None:
    if revision is not None and revision != own:
        raise UsageError(f"--revision {revision}: {source} is not a Hub repository; omit it")


def _may_have_gpu() -> bool:
    """Whether to spend the second that importing torch takes to ask it for a GPU."""
    if sys.platform != "linux":
        return True
    return any(os.path.exists(node) for node in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
