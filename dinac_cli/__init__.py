"""dinac: a batch image codec. Encodes folders of images into small files of whitened latents.

from dinac_cli import encode_files, decode_files, verify_files   # the work of the commands
from dinac_cli import DinacAE, DinacAEInferenceConfig   # the model; needs torch
from dinac_cli import LatentFolder                      # a folder of latents as a PyTorch dataset
from dinac_cli import BucketSampler                     # its batches of one size
from dinac_cli import LatentShards                      # the same for shards, also of a bucket
from dinac_cli import read_latents                      # a record's latents; needs no torch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinac_cli.bucket_sampler import BucketSampler
    from dinac_cli.container.record import read_latents
    from dinac_cli.jobs.decode import decode_files
    from dinac_cli.jobs.encode import encode_files
    from dinac_cli.jobs.results import FileResult
    from dinac_cli.jobs.verify import verify_files
    from dinac_cli.latent_folder import LatentFolder
    from dinac_cli.latent_shards import LatentShards
    from dinac_cli.models.dinac.autoencoder import DinacAE
    from dinac_cli.models.dinac.config import DinacAEConfig
    from dinac_cli.models.interface import DinacAEInferenceConfig

__version__ = "0.1.0"

__all__ = [
    "BucketSampler",
    "DinacAE",
    "DinacAEConfig",
    "DinacAEInferenceConfig",
    "FileResult",
    "LatentFolder",
    "LatentShards",
    "__version__",
    "decode_files",
    "encode_files",
    "read_latents",
    "verify_files",
]

_HOMES = {
    "BucketSampler": "dinac_cli.bucket_sampler",
    "DinacAE": "dinac_cli.models.dinac.autoencoder",
    "DinacAEConfig": "dinac_cli.models.dinac.config",
    "DinacAEInferenceConfig": "dinac_cli.models.interface",
    "FileResult": "dinac_cli.jobs.results",
    "LatentFolder": "dinac_cli.latent_folder",
    "LatentShards": "dinac_cli.latent_shards",
    "decode_files": "dinac_cli.jobs.decode",
    "encode_files": "dinac_cli.jobs.encode",
    "read_latents": "dinac_cli.container.record",
    "verify_files": "dinac_cli.jobs.verify",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that `dinac --help` does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
