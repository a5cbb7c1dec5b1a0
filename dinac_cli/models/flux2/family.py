"""A FLUX.2 VAE on disk. Imports neither torch nor diffusers."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from dinac_cli.errors import UsageError
from dinac_cli.models.flux2.diffusers_library import demand_diffusers
from dinac_cli.models.flux2.vae_config import UNSHUFFLE, Flux2Config
from dinac_cli.models.flux2.vae_files import (
    COUNTER,
    VAE_WEIGHTS_NAME,
    find_vae_part,
    is_vae,
    keeps_vae_float32,
    locate_vae,
    read_vae_config,
    read_vae_table,
)
from dinac_cli.models.identity import IdentityRule, ModelIdentity, read_identity
from dinac_cli.models.interface import GpuStep, LatentModel, ModelTraits
from dinac_cli.models.tensor_file import TensorTable

if TYPE_CHECKING:
    import torch

    from dinac_cli.models.flux2.vae import Flux2VAE

_LATENT_SPACE = re.compile(r"(encoder|quant_conv|bn)\..*")


class Flux2Model(LatentModel):
    """A VAE of FLUX.2, of any width, in a folder or a .safetensors file."""

    weights_pattern = VAE_WEIGHTS_NAME

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return is_vae(path)

    def read_config(self) -> Flux2Config:
        """Returns the sizes and constants. Raises ModelError if this fails."""
        return read_vae_config(locate_vae(self.path))

    def read_traits(self) -> ModelTraits:
        return self.read_config().traits

    def identify(self) -> ModelIdentity:
        files = locate_vae(self.path)
        rule = make_vae_rule(read_vae_config(files))
        read_vae_table(files.weights)  # refuses files with the original names
        return read_identity(files.weights, rule)

    def open(
        self,
        parts: Collection[str],
        device: torch.device,
        dtype: torch.dtype,
        step: GpuStep | None = None,
        *,
        compiled: bool = False,
    ) -> Flux2VAE:
        from dinac_cli.models.flux2.vae import load_vae

        if compiled:
            raise UsageError(f"model {self.label} cannot be compiled; load it without --compile")
        files = locate_vae(self.path)
        user = f"model {self.label}"
        return load_vae(files, read_vae_config(files), parts, device, dtype, user)

    def demand_library(self) -> None:
        demand_diffusers(f"model {self.label}")

    def read_table(self) -> TensorTable:
        return read_vae_table(locate_vae(self.path).weights)

    def find_part(self, tensor: str) -> str | None:
        return find_vae_part(tensor)

    def keeps_float32(self, tensor: str) -> bool:
        return keeps_vae_float32(tensor)


def make_vae_rule(config: Flux2Config) -> IdentityRule:
    """Returns what the identity of a checkpoint with this configuration covers.

    The constants are those that the shapes of the tensors do not show.
    """
    constants = {
        "batch_norm_eps": config.batch_norm_eps,
        "norm_num_groups": config.norm_num_groups,
        "patch_size": [UNSHUFFLE, UNSHUFFLE],
    }
    return IdentityRule(
        keeps_float32=keeps_vae_float32,
        latent_space=_LATENT_SPACE,
        constants=tuple(constants.items()),
        latent_constants=frozenset(constants),
        ignored=re.compile(re.escape(COUNTER)),
    )
