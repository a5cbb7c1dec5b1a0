"""A checkpoint of the DINAC-AE family on disk. Does not import torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dinac_cli.models.dinac import tensor_names
from dinac_cli.models.dinac.config import FCDM, NO_ENCODER, DinacAEConfig
from dinac_cli.models.dinac.norm_choice import decide_config
from dinac_cli.models.dinac.source import locate_checkpoint, read_config, read_settings
from dinac_cli.models.identity import IdentityRule, ModelIdentity, read_identity
from dinac_cli.models.interface import GpuStep, LatentModel, ModelTraits
from dinac_cli.models.tensor_file import TensorTable

if TYPE_CHECKING:
    import torch

    from dinac_cli.models.dinac.autoencoder import DinacAE
    from dinac_cli.models.dinac.fast.ladder import Choice

_EPS = "latent_running_stats_eps"
_CONSTANTS = (_EPS, "logsnr_max", "logsnr_min", "pixel_noise_std")


class DinacModel(LatentModel):
    """A DINAC-AE, of any size, in a folder or a .safetensors file."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return True  # the errors of this family say what is wrong with any other file

    def read_config(self) -> DinacAEConfig:
        """Returns the network's sizes and constants. Raises ModelError if this fails."""
        return read_config(locate_checkpoint(self.path))

    def read_traits(self) -> ModelTraits:
        return self.read_config().traits

    def identify(self) -> ModelIdentity:
        files = locate_checkpoint(self.path)
        return read_identity(files.weights, make_rule(decide_config(files)))

    def open(
        self,
        parts: Collection[str],
        device: torch.device,
        dtype: torch.dtype,
        step: GpuStep | None = None,
        *,
        compiled: bool = False,
    ) -> DinacAE:
        from dinac_cli.models.dinac.autoencoder import load_network
        from dinac_cli.models.dinac.fast.autoencoder import accelerate
        from dinac_cli.models.dinac.fast.ladder import find_operations

        model = load_network(self.path, parts, device, dtype)
        operations = find_operations(step)
        return model if operations is None else accelerate(model, operations, compiled=compiled)

    def read_table(self) -> TensorTable:
        return tensor_names.read_table(locate_checkpoint(self.path).weights)

    def find_part(self, tensor: str) -> str | None:
        return tensor_names.find_part(tensor)

    def keeps_float32(self, tensor: str) -> bool:
        return tensor_names.keeps_float32(tensor)

    def read_settings(self) -> Mapping[str, object]:
        return read_settings(locate_checkpoint(self.path))

    def choose_step(
        self, device: torch.device, dtype: torch.dtype, *, compiled: bool = False
    ) -> Choice:
        from dinac_cli.models.dinac.fast.ladder import choose_step

        return choose_step(self.read_config(), device, dtype, compiled=compiled)


def make_rule(config: DinacAEConfig) -> IdentityRule:
    """Returns what the identity of a checkpoint with this configuration covers.

    A network without an encoder does not know the latent space that it decodes. Its latent space is
    its own: the identity covers all tensors.
    """
    constants: tuple[tuple[str, object], ...]
    constants = tuple((name, getattr(config, name)) for name in _CONSTANTS)
    latent_constants, latent_space = {_EPS}, tensor_names.LATENT_SPACE_TENSORS
    if config.encoder_type == FCDM:
        constants += (("bottleneck_norm_mode", config.bottleneck_norm_mode),)
        latent_constants |= {"bottleneck_norm_mode"}
    elif config.encoder_type == NO_ENCODER:
        latent_space = tensor_names.ALL_TENSORS
    return IdentityRule(
        canonical=tensor_names.canonical_name,
        keeps_float32=tensor_names.keeps_float32,
        latent_space=latent_space,
        constants=constants,
        latent_constants=frozenset(latent_constants),
    )
