"""dinac: a batch image codec. Folders of images to small files of whitened latents, and back.

from dinac_cli import DinacAE, DinacAEInferenceConfig   # the network, needs torch
from dinac_cli import LatentFolder                      # a folder of latents as a PyTorch dataset
from dinac_cli import read_latents                      # a record's latents, without torch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinac_cli.container.record import read_latents
    from dinac_cli.latent_folder import LatentFolder
    from dinac_cli.models.dinac.autoencoder import DinacAE
    from dinac_cli.models.dinac.config import DinacAEInferenceConfig

__version__ = "0.1.0"

__all__ = ["DinacAE", "DinacAEInferenceConfig", "LatentFolder", "__version__", "read_latents"]

_HOMES = {
    "DinacAE": "dinac_cli.models.dinac.autoencoder",
    "DinacAEInferenceConfig": "dinac_cli.models.dinac.config",
    "LatentFolder": "dinac_cli.latent_folder",
    "read_latents": "dinac_cli.container.record",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch must not slow down `dinac --help`."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
