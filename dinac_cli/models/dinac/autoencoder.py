"""The whole network: from images to whitened latents, and from latents to images and features."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dinac_cli.errors import ModelError, UsageError
from dinac_cli.models.checkpoint_files import CheckpointFiles
from dinac_cli.models.device import resolve_device
from dinac_cli.models.dinac.checkpoint import choose_type
from dinac_cli.models.dinac.class_head import ClassHead
from dinac_cli.models.dinac.config import FCDM, NO_ENCODER, DinacAEConfig
from dinac_cli.models.dinac.conv_encoder import ConvEncoder
from dinac_cli.models.dinac.decoder import Decoder
from dinac_cli.models.dinac.denoising import Denoising
from dinac_cli.models.dinac.encoder import Encoder
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.dinac.norm_choice import decide_config
from dinac_cli.models.dinac.posterior import Posterior
from dinac_cli.models.dinac.sampling import SAMPLERS, draw_noise
from dinac_cli.models.dinac.schedule import CosineSchedule, noise_scale, space_times
from dinac_cli.models.dinac.source import locate_checkpoint, read_config
from dinac_cli.models.dinac.tensor_names import (
    RUNNING_MEAN,
    RUNNING_VAR,
    STATISTICS,
    keeps_float32,
    read_table,
)
from dinac_cli.models.families import open_checkpoint
from dinac_cli.models.interface import (
    CLASS_HEAD,
    DECODER,
    ENCODER,
    DinacAEInferenceConfig,
    ModelTraits,
)
from dinac_cli.models.loading import check_tensors, demand_dtype, read_tensors
from dinac_cli.models.pixel_scaling import round_images
from dinac_cli.models.registry import resolve_model
from dinac_cli.models.tensor_file import check_aliases

ALL_PARTS = frozenset({ENCODER, DECODER, CLASS_HEAD})
"""The optional parts of a network. The whitening statistics are always present."""

_MODULES = {ENCODER: "encoder", DECODER: "decoder", CLASS_HEAD: "dino_token_alignment_head"}


class DinacAE(nn.Module):
    """The DINAC-AE autoencoder, or only the `parts` that a task needs.

    Images are [B, 3, H, W] in [-1, 1]; their sides are divisible by the patch size P. Latents are
    float32 [B, C, h, w] with h = H/P and w = W/P. A method raises ModelError if it needs a part
    that is not loaded, and UsageError if an argument does not fit the network.
    """

    encoder: Encoder | ConvEncoder
    decoder: Decoder
    dino_token_alignment_head: ClassHead
    latent_norm_running_mean: Tensor
    latent_norm_running_var: Tensor

    is_compiled = False
    """Whether the network runs code from torch.compile, which rounds differently."""

    def __init__(self, config: DinacAEConfig, parts: Collection[str] = ALL_PARTS) -> None:
        super().__init__()
        self.config = config
        if ENCODER in parts and config.encoder_type != NO_ENCODER:
            self.encoder = ConvEncoder(config) if config.encoder_type == FCDM else Encoder(config)
        if DECODER in parts:
            self.decoder = Decoder(config)
        if CLASS_HEAD in parts and config.class_head is not None:
            self.dino_token_alignment_head = ClassHead(config.class_head, config.bottleneck_dim)
        self.register_buffer("latent_norm_running_mean", torch.zeros(config.bottleneck_dim))
        self.register_buffer("latent_norm_running_var", torch.ones(config.bottleneck_dim))

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        parts: Collection[str] = ALL_PARTS,
    ) -> DinacAE:
        """Loads a network from a folder, a .safetensors file, an alias or a Hub repository.

        `dtype` is torch.float32 or torch.bfloat16. Norms, statistics and a few other tensors are
        always float32. Checks the names and shapes of all tensors, then reads the tensors of
        `parts`. Raises DinacError if loading fails, or if the model is of another family.
        """
        place = resolve_device(str(device))
        # A string may be an alias or a repository; a path object is always a path.
        if isinstance(source, str):
            model = resolve_model(source, revision)
        else:
            model = open_checkpoint(Path(source), str(source))
        if not isinstance(model, DinacModel):
            raise ModelError(f"model {model.label} is no DINAC-AE; name one, such as nano or d2")
        return load_network(model.path, parts, place, dtype)

    @property
    def traits(self) -> ModelTraits:
        """What the network is and can do."""
        return self.config.traits

    @property
    def device(self) -> torch.device:
        """The device that holds the network."""
        return self.latent_norm_running_mean.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the matrix products: bfloat16 if a weight is bfloat16, otherwise float32."""
        types = {parameter.dtype for parameter in self.parameters()}
        return torch.bfloat16 if torch.bfloat16 in types else torch.float32

    @property
    def ordinary_weight_storage_dtype(self) -> torch.dtype:
        """The type of the weights that need not stay float32: of the decoder's patch embedding.

        Raises ModelError if the decoder is not loaded.
        """
        self._demand_part(DECODER)
        return self.decoder.patchify.proj.weight.dtype

    def validate_inference_storage(self) -> None:
        """Checks that every parameter and buffer has the type of the precision policy.

        Those that `keeps_float32` names are float32; the others have the type of
        `ordinary_weight_storage_dtype`. Raises RuntimeError that names all others, and ModelError
        if the decoder is not loaded.
        """
        ordinary, faults = self.ordinary_weight_storage_dtype, []
        for name, tensor in self.state_dict().items():
            wanted = torch.float32 if keeps_float32(name) else ordinary
            if tensor.dtype != wanted:
                faults.append(f"{name} is {tensor.dtype}, not {wanted}")
        if faults:
            raise RuntimeError(f"wrongly stored: {'; '.join(faults)}; load the model again")

    def encode(self, images: Tensor) -> Tensor:
        """Returns the whitened latents of images. These latents are the mode of the posterior."""
        return self.whiten(self.encode_posterior(images).mode())

    def encode_posterior(self, images: Tensor) -> Posterior:
        """Returns the posterior of images: a Gaussian over their unwhitened latents."""
        self._demand_part(ENCODER)
        self._demand_images(images)
        return self.encoder(images.to(self.device))

    def encode_pixels(self, pixels: Tensor) -> Posterior:
        """Returns the posterior of pixels, uint8 [B, H, W, 3]."""
        self._demand_part(ENCODER)
        self._demand_pixels(pixels)
        return self.encoder.encode_pixels(pixels.to(self.device))

    def decode(
        self,
        latents: Tensor,
        height: int,
        width: int,
        inference_config: DinacAEInferenceConfig | None = None,
    ) -> Tensor:
        """Decodes whitened latents to float32 images [B, 3, height, width]; does not clamp values.

        With a seed, the noise of an image does not depend on the rest of the batch.
        """
        settings = inference_config or DinacAEInferenceConfig()
        denoise, times, schedule = self._begin_decoding(latents, height, width, settings)
        return SAMPLERS[settings.sampler](denoise, denoise.start, times, schedule)

    def decode_pixels(
        self, latents: Tensor, inference_config: DinacAEInferenceConfig | None = None
    ) -> Tensor:
        """Decodes whitened latents to pixels, uint8 [B, H, W, 3]: clamps and rounds `decode`."""
        height, width = (self.config.patch_size * side for side in latents.shape[-2:])
        return round_images(self.decode(latents, height, width, inference_config))

    def reconstruct(
        self, images: Tensor, inference_config: DinacAEInferenceConfig | None = None
    ) -> Tensor:
        """Encodes images and decodes their latents to float32 images; does not clamp values."""
        latents = self.encode(images)
        return self.decode(latents, images.shape[2], images.shape[3], inference_config)

    def predict_class(self, latents: Tensor) -> Tensor:
        """Predicts the float32 DINO class tokens [B, D] from whitened latents."""
        head = self._class_head()
        return head.read_class_token(head.embed_tokens(self.dewhiten(latents)))

    def predict_tokens(self, latents: Tensor) -> Tensor:
        """Predicts the float32 DINO patch tokens [B, h·w, D], row-major, from whitened latents."""
        head = self._class_head()
        return head.read_patch_tokens(head.embed_tokens(self.dewhiten(latents)))

    def predict_features(self, latents: Tensor) -> Tensor:
        """Returns the tokens of `predict_class` and `predict_tokens`, at the cost of one such call.

        The result is float32 [B, 1 + h·w, D] and starts with the class token.
        """
        class_token, patch_tokens = self._class_head()(self.dewhiten(latents))
        return torch.cat((class_token[:, None], patch_tokens), dim=1)

    def encode_batch(
        self, pixels: Tensor, *, logsnr: bool = False, class_token: bool = False
    ) -> tuple[Tensor, ...]:
        """Implements `OpenModel.encode_batch`."""
        posterior = self.encode_pixels(pixels)
        parts = [self.whiten(posterior.mode())]
        if logsnr:
            parts.append(posterior.logsnr.contiguous())
        if class_token:
            parts.append(self.predict_class(parts[0]).contiguous())
        return tuple(parts)

    def decode_batch(self, latents: Tensor, settings: DinacAEInferenceConfig) -> Tensor:
        """Implements `OpenModel.decode_batch`."""
        return self.decode_pixels(latents, settings)

    def predict_batch(self, latents: Tensor, *, spatial: bool) -> Tensor:
        """Implements `OpenModel.predict_batch`."""
        if spatial:
            return self.predict_features(latents)
        return self.predict_class(latents)[:, None].contiguous()

    def whiten(self, latents_raw: Tensor) -> Tensor:
        """Shifts and scales each channel of raw latents to mean 0 and variance 1, in float32."""
        mean, std = self._latent_statistics(latents_raw)
        return (latents_raw.to(self.device, torch.float32) - mean) / std

    def dewhiten(self, latents: Tensor) -> Tensor:
        """Undoes `whiten`, in float32."""
        mean, std = self._latent_statistics(latents)
        return latents.to(self.device, torch.float32) * std + mean

    def sample_latents(
        self, latents: Tensor, logsnr: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws whitened float32 latents from a posterior.

        `latents` is the whitened mode of the posterior. `logsnr` is the log-SNR of the posterior
        before whitening. Both are [B, C, h, w]. If `logsnr` is None, because the image was encoded
        without a posterior, returns the latents as they are. The generator must be on the network's
        device.
        """
        self._latent_statistics(latents)  # raises UsageError for latents that do not fit
        if logsnr is None:
            return latents.to(self.device, torch.float32)
        if logsnr.shape != latents.shape:
            raise UsageError(
                f"the log-SNR has shape {list(logsnr.shape)}, but the latents have shape "
                f"{list(latents.shape)}"
            )
        latents = latents.to(self.device, torch.float32)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        return latents + self.measure_deviation(logsnr) * noise

    def measure_deviation(self, logsnr: Tensor) -> Tensor:
        """Returns the deviation of whitened latents [B, C, h, w], in float32.

        `logsnr` is the log-SNR of the posterior before whitening, of the same shape.
        """
        _, std = self._latent_statistics(logsnr)
        return noise_scale(logsnr.to(self.device, torch.float32)) / std

    def count_parameters(self) -> dict[str, int]:
        """Returns the number of parameters of each loaded part, and the total."""
        counts = {
            part: sum(parameter.numel() for parameter in getattr(self, module).parameters())
            for part, module in _MODULES.items()
            if hasattr(self, module)
        }
        return {**counts, "total": sum(counts.values())}

    def list_constants(self) -> list[Tensor]:
        """Returns the tensors that are cached between calls. This class caches no tensors."""
        return []

    def forget_starts(self) -> None:
        """Frees cached starting noises. This class caches none."""

    def _begin_decoding(
        self, latents: Tensor, height: int, width: int, settings: DinacAEInferenceConfig
    ) -> tuple[Denoising, Tensor, CosineSchedule]:
        """Returns the denoiser, the N + 1 times and the schedule for a sampler."""
        self._demand_part(DECODER)
        latents_raw = self.dewhiten(latents)
        self._demand_size(latents, height, width)
        schedule = CosineSchedule(self.config.logsnr_min, self.config.logsnr_max)
        times = space_times(settings.num_steps, settings.schedule, settings.strength)
        sigma = float(schedule.sigma(times[0]))
        start, embedded = self._draw_start(len(latents), height, width, settings.seed, sigma)
        denoise = Denoising(
            decoder=self.decoder,
            latents_raw=latents_raw,
            start=start,
            embedded=embedded,
            guidance=settings.pdg_strength if settings.pdg else None,
        )
        return denoise, times, schedule

    def _draw_start(
        self, batch: int, height: int, width: int, seed: int | None, sigma: float
    ) -> tuple[Tensor, Tensor]:
        """Returns the starting noise [B, 3, height, width] and its embedding by the decoder.

        With a seed, all images start from the same noise, so the noise is embedded only once.
        """
        noise = draw_noise(batch, height, width, seed).to(self.device)
        x = sigma * self.config.pixel_noise_std * noise
        return x, self.decoder.embed(x if seed is None else x[:1])

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.config.bottleneck_dim
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise UsageError(
                f"latents of shape {list(latents.shape)} do not fit this model; "
                f"it expects [batch, {channels}, height, width]"
            )
        has_eps = self.config.has_latent_statistics  # otherwise, nothing is whitened
        eps = self.config.latent_running_stats_eps if has_eps else 0.0
        variance = self.latent_norm_running_var.float() + eps
        mean = self.latent_norm_running_mean.float()
        return mean[:, None, None], variance.sqrt()[:, None, None]

    def _class_head(self) -> ClassHead:
        if self.config.class_head is None:
            raise ModelError("this model has no class head; use a model that has one, such as d2")
        self._demand_part(CLASS_HEAD)
        return self.dino_token_alignment_head

    def _demand_part(self, part: str) -> None:
        if part not in self.traits.parts:
            raise ModelError(f"this model has no {part}; use a model that has one")
        if not hasattr(self, _MODULES[part]):
            raise ModelError(f"the model was loaded without its {part}; add {part!r} to `parts`")

    def _demand_images(self, images: Tensor) -> None:
        patch = self.config.patch_size
        fits = images.ndim == 4 and images.shape[1] == self.config.in_channels
        fits = fits and all(side > 0 and side % patch == 0 for side in images.shape[2:])
        if not (fits and images.is_floating_point()):
            raise UsageError(
                f"images of shape {list(images.shape)} and type {images.dtype} do not fit this "
                f"model; it expects floats [batch, 3, height, width] with sides divisible by "
                f"{patch}"
            )

    def _demand_pixels(self, pixels: Tensor) -> None:
        patch = self.config.patch_size
        fits = pixels.ndim == 4 and pixels.shape[3] == self.config.in_channels
        fits = fits and all(side > 0 and side % patch == 0 for side in pixels.shape[1:3])
        if not (fits and pixels.dtype == torch.uint8):
            raise UsageError(
                f"pixels of shape {list(pixels.shape)} and type {pixels.dtype} do not fit this "
                f"model; it expects uint8 [batch, height, width, 3] with sides divisible by {patch}"
            )

    def _demand_size(self, latents: Tensor, height: int, width: int) -> None:
        patch = self.config.patch_size
        rows, columns = latents.shape[2:]
        if (height, width) != (rows * patch, columns * patch):
            raise UsageError(
                f"latents of {rows} rows and {columns} columns decode to height {rows * patch} "
                f"and width {columns * patch}, not to {height} and {width}"
            )


def load_network(
    path: Path, parts: Collection[str], device: torch.device, dtype: torch.dtype
) -> DinacAE:
    """Loads the parts of a checkpoint; see `DinacAE.from_pretrained`. Raises DinacError."""
    demand_dtype(dtype)
    if unknown := sorted(set(parts) - ALL_PARTS):
        known = ", ".join(sorted(ALL_PARTS))
        raise UsageError(f"the part {unknown[0]!r} is unknown; the known parts are {known}")
    files = locate_checkpoint(path)
    config = decide_config(files) if ENCODER in parts else read_config(files)
    return load_parts(files, config, parts, device, dtype)


def load_parts(
    files: CheckpointFiles,
    config: DinacAEConfig,
    parts: Collection[str],
    device: torch.device,
    dtype: torch.dtype,
) -> DinacAE:
    """Loads the parts of a checkpoint whose configuration is known. Raises ModelError."""
    table, shapes = read_table(files.weights), list_shapes(config)
    check_tensors(table, shapes)
    model = _build_on_meta(config, parts)
    names = [name for name in model.state_dict() if name in shapes]
    check_aliases(table, names)
    types = {name: choose_type(name, dtype) for name in names}
    tensors = read_tensors(table, types, device)
    if not config.has_latent_statistics:
        zeros = torch.zeros(config.bottleneck_dim, device=device)
        tensors |= {RUNNING_MEAN: zeros, RUNNING_VAR: zeros + 1}
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def build_model(model: DinacAE, state: Mapping[str, Tensor], dtype: torch.dtype) -> DinacAE:
    """Builds a network with the configuration of `model`, but without a class head.

    The tensors come from `state`. The network computes in `dtype`.
    """
    copy = _build_on_meta(model.config, (ENCODER, DECODER))
    tensors = {name: state[name].detach() for name in copy.state_dict()}
    cast = {name: x.clone() if keeps_float32(name) else x.to(dtype) for name, x in tensors.items()}
    copy.load_state_dict(cast, assign=True)
    return copy.eval()


def list_shapes(config: DinacAEConfig) -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of every tensor in a checkpoint with this configuration."""
    state = _build_on_meta(config, ALL_PARTS).state_dict()
    absent = () if config.has_latent_statistics else STATISTICS
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name not in absent}


def _build_on_meta(config: DinacAEConfig, parts: Collection[str]) -> DinacAE:
    with torch.device("meta"):
        return DinacAE(config, parts)
