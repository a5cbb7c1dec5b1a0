"""From what `--model` names to files on disk: the embedded model, aliases, the Hub, local paths.

Free of torch. The Hub's client is imported only when a Hub model is asked for, and nothing is
fetched because a record says so: records are matched against what is here already.
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
_INSTEAD = f"take {NANO}, which is embedded"
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

    `path` is a folder or a .safetensors file, `label` what records and messages call it,
    `revision` the Hub commit or the embedded model's number ("" for a local path).
    """

    path: Path
    label: str
    revision: str = ""

    @property
    def is_public(self) -> bool:
        """True where the label is one that every dinac knows, and tells nothing of its user."""
        return bool(self.revision) and self.label in (NANO, *HUB_ALIASES.values())

    def read_config(self) -> DinacAEConfig:
        """Its sizes and constants. Raises ModelError."""
        return read_config(locate_checkpoint(self.path))

    def read_settings(self) -> Mapping[str, object]:
        """All of its `config.json`, {} where it has none. Raises ModelError."""
        return read_settings(locate_checkpoint(self.path))

    def identify(self) -> ModelIdentity:
        """Its two identities, cached by path, size and time. Raises ModelError."""
        files = locate_checkpoint(self.path)
        return read_identity(files.weights, read_config(files))


def resolve_model(
    source: str,
    revision: str | None = None,
    *,
    announce: Callable[[str], None] | None = None,
) -> ResolvedModel:
    """Find the model that `source` names: alias, folder, .safetensors file or Hub repository.

    A Hub model that is not cached is downloaded, after `announce` was told so. Raises ModelError
    with the remedy where it is not to be had, UsageError where `source` can be nothing of these.
    """
    if source == NANO:
        _refuse_revision(source, revision, NANO_REVISION)
        return ResolvedModel(_NANO_FOLDER, NANO, NANO_REVISION)
    if source not in HUB_ALIASES and os.path.exists(os.path.expanduser(source)):
        _refuse_revision(source, revision, "")
        path = Path(os.path.expanduser(source))
        return ResolvedModel(path, path.resolve().name)
    repository = HUB_ALIASES.get(source, source)
    # A file that is not there is a slip of the pen, and its name nothing to ask the Hub about.
    if not _REPOSITORY.fullmatch(repository) or repository.endswith(".safetensors"):
        known = ", ".join([NANO, *HUB_ALIASES])
        raise UsageError(
            f"--model {source}: no such file or folder, and neither an alias ({known}) "
            "nor a Hub repository (owner/name)"
        )
    cached = find_cached(repository, revision)
    return cached or _download(repository, revision, announce)


def resolve_checkpoint(source: str, revision: str | None = None) -> Path:
    """The local folder or file of the model that `source` names; see `resolve_model`."""
    return resolve_model(source, revision).path


def find_local(source: str, revision: str | None = None) -> ResolvedModel:
    """What `resolve_model` gives, of what is on this machine already.

    Raises ModelError, with how to fetch it, for a Hub model that is not cached.
    """
    repository = HUB_ALIASES.get(source, source)
    is_path = source not in HUB_ALIASES and os.path.exists(os.path.expanduser(source))
    if source == NANO or is_path or not _REPOSITORY.fullmatch(repository):
        return resolve_model(source, revision)
    cached = find_cached(repository, revision)
    if cached is None:
        raise ModelError(f"model {repository} is not cached: dinac models pull {source}")
    return cached


def pull_model(source: str, revision: str | None = None) -> ResolvedModel:
    """Ask the Hub for a model and fetch what of it is not in the cache; goes on where it stopped.

    Where HF_HUB_OFFLINE is set, what is cached is taken as it is. Raises ModelError where it is not
    to be had, UsageError where `source` is no name of a Hub repository.
    """
    if source == NANO:
        raise UsageError(f"model {NANO} is embedded: there is nothing to fetch")
    repository = HUB_ALIASES.get(source, source)
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(
            f"{source}: neither an alias ({', '.join(HUB_ALIASES)}) nor a Hub repository "
            "(owner/name)"
        )
    return _download(repository, revision, None)


def choose_default(device: str) -> str:
    """What `--model auto` is where no latents decide: `nano` on a CPU, `d2` on CUDA and MPS.

    `device` is the `--device` option. Torch is imported only where a graphics card seems to be.
    """
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return NANO
    from dinac_cli.models.device import resolve_device

    return NANO if resolve_device(device).type == "cpu" else "d2"


def find_model(latent_space: str) -> ResolvedModel | None:
    """The model at hand, embedded or cached from the Hub, whose latents these are; or None."""
    for candidate in _list_local():
        try:
            if candidate.identify().latent_space == latent_space:
                return candidate
        except ModelError:  # a damaged cache entry is not the model that is looked for
            continue
    return None


def find_cached(repository: str, revision: str | None = None) -> ResolvedModel | None:
    """The Hub repository's checkpoint as it lies, whole, in the Hub's cache; or None."""
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
    return ResolvedModel(folder, repository, folder.name) if _is_whole(folder) else None


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot in the Hub's cache has its weights and its configuration.

    The client may give the folder of a download that was cut short. Weights without their
    configuration would be read with the released constants, which need not be theirs; and other
    weights would stand in for those whose blob, beside the snapshots, is still incomplete.
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
    except Exception as exc:  # the client's transport errors have no base of their own
        raise ModelError(
            f"model {at} is not in the cache {constants.HF_HUB_CACHE} and not to be had: "
            f"{_explain_hub_error(exc)}"
        ) from exc
    if not _is_whole(folder):
        raise ModelError(
            f"model {at} has no config.json or no .safetensors file in {folder}; name a DINAC-AE "
            "repository or, where its download was cut short, let it reach the Hub once more"
        )
    return ResolvedModel(folder, repository, folder.name)


def _explain_hub_error(exc: Exception) -> str:
    """What stopped a download and what to do, in one line."""
    from huggingface_hub import constants, errors

    if isinstance(exc, errors.GatedRepoError):
        return "the repository wants its terms accepted: do so on its page, then log in"
    if isinstance(exc, errors.RepositoryNotFoundError):
        return "the Hub has no such repository, or it is private: check the name, or log in"
    if isinstance(exc, errors.RevisionNotFoundError):
        return "the repository has no such revision: check --revision"
    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set: unset it once to download, or {_INSTEAD}"
    if isinstance(exc, errors.LocalEntryNotFoundError):
        return f"the Hub cannot be reached: run it once with a network, or {_INSTEAD}"
    detail = str(exc).strip().partition("\n")[0] or type(exc).__name__
    return f"the download failed ({detail}): try again, or {_INSTEAD}"


def _refuse_revision(source: str, revision: str | None, own: str) -> None:
    if revision is not None and revision != own:
        raise UsageError(f"--revision {revision}: {source} is no Hub repository; leave it out")


def _may_have_gpu() -> bool:
    """Whether it is worth the second that importing torch takes to ask it for a GPU."""
    if sys.platform != "linux":
        return True
    return any(os.path.exists(node) for node in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
