"""Resolves `--model` to files on disk: the embedded model, aliases, Hub repositories, local paths.

Importing this module does not import torch. The Hub's client is imported only if a Hub model is
requested. To read a record, dinac looks for the model only on disk and never downloads a model.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from dinac_cli.errors import ModelError, UsageError, quote_error
from dinac_cli.models.aliases import HUB_ALIASES, NANO
from dinac_cli.models.checkpoint_files import CONFIG_NAME
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.dinac.source import WEIGHTS_NAME
from dinac_cli.models.families import open_checkpoint
from dinac_cli.models.interface import LatentModel

NANO_REVISION = "4"
DOWNLOAD_BYTES = {
    "d2": 617_000_000,
    "flux2": 249_000_000,
    "semdisdiffae": 355_000_000,
    "semdisdiffae-p32": 627_000_000,
}
"""Approximate sizes of published weights, for models whose size is known without the internet."""

_NANO_FOLDER = Path(__file__).parent.parent / "weights" / NANO
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/([A-Za-z0-9][\w.-]*))?")
_HUB_NAMES = "a Hub repository (owner/name, or owner/name/folder)"
_INSTEAD = f"use --model {NANO} (embedded)"


def resolve_model(
    source: str,
    revision: str | None = None,
    *,
    announce: Callable[[str], None] | None = None,
) -> LatentModel:
    """Finds the model that `source` names: an alias, folder, .safetensors file or Hub repository.

    The model may be in a folder of a repository: `owner/name/folder`. If a Hub model is not cached,
    calls `announce` with a message and downloads the model. Raises ModelError if the download
    fails, and UsageError if `source` names no model.
    """
    if source == NANO:
        _refuse_revision(source, revision, NANO_REVISION)
        return open_nano()
    if _is_path(source):
        _refuse_revision(source, revision, "")
        path = Path(os.path.expanduser(source))
        return open_checkpoint(path, path.resolve().name)
    repository = HUB_ALIASES.get(source, source)
    # A name that ends in .safetensors means a file. If the file is missing, do not ask the Hub.
    if not _HUB_NAME.fullmatch(repository) or repository.endswith(".safetensors"):
        known = ", ".join([NANO, *HUB_ALIASES])
        raise UsageError(
            f"--model {source}: no such file or folder, and neither an alias ({known}) "
            f"nor {_HUB_NAMES}"
        )
    return find_cached(repository, revision) or _download(repository, revision, announce)


def open_nano() -> DinacModel:
    """Returns the embedded model."""
    return DinacModel(_NANO_FOLDER, NANO, NANO_REVISION)


def find_local(source: str, revision: str | None = None) -> LatentModel:
    """Finds a model as `resolve_model` does, but raises ModelError if it must be downloaded."""
    repository = HUB_ALIASES.get(source, source)
    if source == NANO or _is_path(source) or not _HUB_NAME.fullmatch(repository):
        return resolve_model(source, revision)
    cached = find_cached(repository, revision)
    if cached is None:
        raise ModelError(f"model {repository} is not cached; run: dinac models pull {source}")
    return cached


def pull_model(source: str, revision: str | None = None) -> LatentModel:
    """Downloads the missing files of a Hub model; resumes an interrupted download.

    If HF_HUB_OFFLINE is set, uses the cached files. Raises ModelError if the download fails, and
    UsageError if `source` is not a Hub model.
    """
    return _download(find_repository(source, "nothing to download"), revision, None)


def find_repository(source: str, refusal: str) -> str:
    """Returns the Hub repository of an alias or a repository, or the folder in a repository.

    Raises UsageError for other names. `refusal` ends the error for the embedded model.
    """
    if source == NANO:
        raise UsageError(f"model {NANO} is embedded: {refusal}")
    repository = HUB_ALIASES.get(source, source)
    if not _HUB_NAME.fullmatch(repository):
        raise UsageError(f"{source}: neither an alias ({', '.join(HUB_ALIASES)}) nor {_HUB_NAMES}")
    return repository


def has_short_name(name: str) -> bool:
    """False for a Hub repository, or a folder in one, that `find_model` does not look for."""
    return not _HUB_NAME.fullmatch(name) or name in HUB_ALIASES.values()


def split_repository(name: str) -> tuple[str, str]:
    """Splits `owner/name/folder` into the repository and the folder, which may be ""."""
    match = _HUB_NAME.fullmatch(name)
    assert match is not None, "the caller has checked the name"
    return match[1], match[2] or ""


def choose_default(device: str) -> str:
    """Returns the model that `--model auto` selects for images: `nano` on a CPU, otherwise `d2`.

    `device` is the value of `--device`. Torch is imported only if there may be a GPU.
    """
    if not may_use_gpu(device):
        return NANO
    from dinac_cli.models.device import resolve_device

    return NANO if resolve_device(device).type == "cpu" else "d2"


def find_model(latent_space: str) -> LatentModel | None:
    """Finds the embedded or cached model with this latent space; returns None if there is none."""
    cached = map(find_cached, HUB_ALIASES.values())
    for candidate in itertools.chain([resolve_model(NANO)], cached):
        with suppress(ModelError):  # skip a damaged cache entry
            if candidate is not None and candidate.identify().latent_space == latent_space:
                return candidate
    return None


def find_cached(repository: str, revision: str | None = None) -> LatentModel | None:
    """Returns a complete checkpoint from the Hub's cache, or None if there is none."""
    try:
        model = _fetch(repository, revision, only_cached=True)
    except (OSError, ValueError):  # all errors that the client defines derive from these two
        return None
    return model if _is_complete(model) else None


def _fetch(repository: str, revision: str | None, *, only_cached: bool) -> LatentModel:
    """Calls the Hub's client, which may return the folder of an interrupted download.

    `repository` may name a folder in a repository. A repository may hold much more than the model.
    Therefore the configuration comes first, and decides which weights to download.
    """
    from huggingface_hub import snapshot_download

    owner_name, folder = split_repository(repository)
    prefix = f"{folder}/" if folder else ""
    fetch = partial(snapshot_download, owner_name, revision=revision, local_files_only=only_cached)
    wanted = [prefix + CONFIG_NAME, "README.md"]
    snapshot = Path(fetch(allow_patterns=wanted))
    if not only_cached and (snapshot / folder / CONFIG_NAME).is_file():
        weights = type(open_checkpoint(snapshot / folder, repository)).weights_pattern
        snapshot = Path(fetch(allow_patterns=[*wanted, prefix + weights]))
    return open_checkpoint(snapshot / folder, repository, snapshot.name)


def _is_complete(model: LatentModel) -> bool:
    """Whether the folder of a model in the Hub's cache contains a configuration and weights.

    Without a configuration, the network would get the constants of the published models. These
    constants may be wrong for the network. If the weights file has not the usual name of the
    family, all downloads of the repository must also be complete.
    """
    folder, pattern = model.path, model.weights_pattern
    if not (folder / CONFIG_NAME).is_file():
        return False
    if any((folder / name).is_file() for name in (WEIGHTS_NAME, pattern)):
        return True
    has_other_weights = any(path.is_file() for path in folder.glob(pattern))
    snapshot = folder.parent if split_repository(model.label)[1] else folder
    return has_other_weights and not any(snapshot.parent.parent.glob("blobs/*.incomplete"))


def _download(
    repository: str, revision: str | None, announce: Callable[[str], None] | None
) -> LatentModel:
    from huggingface_hub import constants

    at = f"{repository} (revision {revision or 'main'})"
    if announce is not None and not constants.HF_HUB_OFFLINE:
        announce(f"downloading {at} into {constants.HF_HUB_CACHE}")
    try:
        model = _fetch(repository, revision, only_cached=False)
    except Exception as exc:  # network errors in the client have no common base class
        raise ModelError(
            f"model {at} is not cached in {constants.HF_HUB_CACHE} and cannot be downloaded: "
            f"{_explain_hub_error(exc)}",
            [quote_error(exc)],
        ) from exc
    if not _is_complete(model):
        raise ModelError(
            f"model {at} has no config.json or no .safetensors file in {model.path}; if its "
            "download was interrupted, go online and retry. Otherwise, name a DINAC-AE repository, "
            "or the folder of a FLUX.2 VAE (owner/name/vae)"
        )
    return model


def _explain_hub_error(exc: Exception) -> str:
    """Returns one line that says why a download failed and what the user can do."""
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
    if isinstance(exc, errors.HfHubHTTPError) and exc.response is not None:
        return f"the Hub answered with status {exc.response.status_code}; try later, or {_INSTEAD}"
    if isinstance(exc, OSError) and exc.strerror:  # such as a full disk
        return f"{exc.strerror}; try again, or {_INSTEAD}"
    return f"the download failed; try again, or {_INSTEAD}"


def _is_path(source: str) -> bool:
    return source not in HUB_ALIASES and os.path.exists(os.path.expanduser(source))


def _refuse_revision(source: str, revision: str | None, own: str) -> None:
    if revision is not None and revision != own:
        raise UsageError(
            f"--revision {revision}: {source} is not a Hub repository; omit --revision"
        )


def may_use_gpu(device: str) -> bool:
    """True if `--device` may be a GPU. Does not import torch."""
    return device != "cpu" and (device != "auto" or _may_have_gpu())


def _may_have_gpu() -> bool:
    """Whether there may be a GPU. Does not import torch, because the import takes a second."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"  # torch uses the GPUs of Apple's own chips only
    signs = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
    if sys.platform == "win32":
        signs = (os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), r"System32\nvcuda.dll"),)
    return any(map(os.path.exists, signs))
