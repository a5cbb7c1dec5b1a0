"""The training step, and the saved state from which a killed run resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.posterior import Posterior
from dinac_cli.models.dinac.schedule import CosineSchedule, noise_scale
from dinac_cli.models.dinac.tensor_names import keeps_float32
from dinac_cli.storage.output import Output, OutputKind
from dinac_cli.training.dataset import CropSource
from dinac_cli.training.depthwise import use_matrices
from dinac_cli.training.losses import (
    alignment_loss,
    expansion_loss,
    measure_mse,
    reconstruction_loss,
)
from dinac_cli.training.optimizer import Optimizer
from dinac_cli.training.recipe import TrainRecipe
from dinac_cli.training.teacher import Teacher

STATE_NAME = "training.state"  # not named .safetensors, because it is not a model
_CLASS_HEAD = "dino_token_alignment_head."
_PEAK_DB = 10 * math.log10(4.0)  # pixels in [-1, 1] span a range of 2


@dataclass(frozen=True)
class StepReport:
    """One step. `kl` is in nats. `psnr_db` is None if t < 1 or the step skipped blocks."""

    number: int
    psnr_db: float | None
    kl: float


class Trainer:
    """Trains the encoder and decoder of a float32 network in place. Computes in `dtype`.

    With a teacher, the class head learns to predict the teacher's features. A saved state can be
    resumed only with the same recipe and the same `about`. The state includes `curve`, the
    measurements of the caller, and `seconds`, the time that the caller has spent on the training.

    The random numbers of a step depend only on the recipe's seed and the step's number. So a run of
    `recipe.steps` steps always gives the same weights on the same device with the same number of
    threads, even if it was killed and resumed.
    """

    def __init__(
        self,
        model: DinacAE,
        recipe: TrainRecipe,
        source: CropSource,
        dtype: torch.dtype = torch.float32,
        *,
        compiled: bool = False,
        teacher: Teacher | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model.train()
        self.recipe = recipe
        self._source = source
        self._dtype = dtype
        self._teacher = teacher
        self._about = dict(about or {})
        trained = ("encoder.", "decoder.", _CLASS_HEAD) if teacher else ("encoder.", "decoder.")
        self._parameters = {
            name: tensor for name, tensor in model.named_parameters() if name.startswith(trained)
        }
        self.optimizer = Optimizer(self._parameters, recipe)
        if model.device.type == "cpu":
            side = recipe.crop // model.config.patch_size
            use_matrices(model.decoder, side, side)
        self._schedule = CosineSchedule(model.config.logsnr_min, model.config.logsnr_max)
        self._reconstruct: Callable[..., tuple[Tensor, Tensor, Tensor]] = self._call_network
        if compiled:  # all crops have one size, so nothing is compiled twice
            self._reconstruct = torch.compile(self._call_network, dynamic=False)
        self.step_number = 0
        self.curve: list[dict[str, float | None]] = []
        self.seconds = 0.0

    @property
    def done(self) -> float:
        """The share of the recipe's steps that were taken, 0 to 1. The recipe must have steps."""
        assert self.recipe.steps is not None, "a time limit decides what is done"
        return self.step_number / self.recipe.steps

    def step(self, done: float | None = None) -> StepReport:
        """Takes one optimiser step on one batch of crops.

        `done` is the share of the training before this step, 0 to 1: the learning rate follows it.
        None means the share of the recipe's steps.
        """
        recipe, number = self.recipe, self.step_number
        random = torch.Generator().manual_seed(recipe.seed * 1_000_003 + number)
        crops = torch.from_numpy(self._source.draw(number, recipe.batch_size, recipe.group).copy())
        images = crops.to(self.model.device).float() / 127.5 - 1  # [B, 3, S, S]
        time, drop = self._draw_time(random)
        x_t = self._add_noise(images, time, random)
        noise = self._draw_latent_noise(random)
        # On a CPU, the MATH backend has a faster backward pass for the few tokens of a crop.
        is_cpu = self.model.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if is_cpu else nullcontext():
            mse, kl, latents = self._reconstruct(images, x_t, time, noise, drop)
        loss = reconstruction_loss(mse, recipe.group) + recipe.kl_weight * kl
        if self._teacher is not None:
            loss = loss + recipe.align_weight * self._align(self._teacher, images, latents)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(number, self.done if done is None else done)
        self.step_number += 1
        is_plain = time.item() == 1.0 and not drop
        psnr_db = float((_PEAK_DB - 10 * mse.detach().log10()).mean()) if is_plain else None
        return StepReport(number, psnr_db, float(kl.detach()))

    def average_state(self) -> dict[str, Tensor]:
        """Returns the float32 weights of the network. Trained weights are moving averages."""
        return {**self.model.state_dict(), **self.optimizer.average}

    def save(self, folder: Path) -> None:
        """Saves everything that `resume` needs, atomically. Raises OutputError."""
        metadata = {"step": str(self.step_number), "recipe": json.dumps(asdict(self.recipe))}
        metadata |= {**self._about, "curve": json.dumps(self.curve), "seconds": str(self.seconds)}
        state = save(self.optimizer.state_tensors(), metadata=metadata)
        write_file(folder, STATE_NAME, state)

    def resume(self, folder: Path) -> bool:
        """Restores the state that `save` wrote. Returns False if the folder has no state.

        Raises ModelError if the state has another recipe, another `about` or another network.
        """
        path = folder / STATE_NAME
        if not path.is_file():
            return False
        metadata = read_state_metadata(path)
        saved = TrainRecipe.from_json(metadata["recipe"])
        values = vars(self.recipe).items()
        differing = [name for name, value in values if value != getattr(saved, name)]
        differing += [name for name, text in self._about.items() if metadata.get(name) != text]
        if differing:
            raise ModelError(
                f"{folder} holds a stopped training with other {', '.join(differing)}; repeat its "
                "command to resume it, or choose another OUT"
            )
        tensors = load_file(path, device=str(self.model.device))
        try:
            self.optimizer.load_state_tensors(tensors)
        except (KeyError, RuntimeError) as exc:
            raise ModelError(f"{path} belongs to another network; choose another OUT") from exc
        self.step_number, self.curve = int(metadata["step"]), json.loads(metadata["curve"])
        self.seconds = float(metadata["seconds"])
        return True

    def _draw_time(self, random: torch.Generator) -> tuple[Tensor, bool]:
        """Draws the time t of a batch, [1], and whether the batch skips the middle blocks."""
        chance, time, drop = torch.rand(3, generator=random).tolist()
        is_full = chance < self.recipe.full_noise
        return torch.tensor([1.0 if is_full else time]), drop < self.recipe.drop

    def _add_noise(self, images: Tensor, time: Tensor, random: torch.Generator) -> Tensor:
        """Returns x_t, the noisy input that a sampler would give the decoder at this time."""
        noise = torch.randn(images.shape, generator=random).to(images.device)
        noise = self._schedule.sigma(time).item() * self.model.config.pixel_noise_std * noise
        if time.item() == 1.0:
            return noise  # a sampler starts from pure noise
        return self._schedule.alpha(time).item() * images + noise

    def _draw_latent_noise(self, random: torch.Generator) -> Tensor:
        """Draws the posterior's noise on the CPU, so that all devices get the same noise."""
        config, recipe = self.model.config, self.recipe
        side = recipe.crop // config.patch_size
        shape = (recipe.batch_size, config.bottleneck_dim, side, side)
        return torch.randn(shape, generator=random).to(self.model.device)

    def _call_network(
        self, images: Tensor, x_t: Tensor, time: Tensor, noise: Tensor, drop: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the squared errors [B] of the reconstruction, the KL in nats, and the latents."""
        weights = self._cast("encoder.")
        posterior: Posterior = functional_call(self.model.encoder, weights, (images,))
        latents = posterior.mode() + noise_scale(posterior.logsnr) * noise
        x0: Tensor = functional_call(
            self.model.decoder, self._cast("decoder."), (x_t, time.to(x_t.device), latents, drop)
        )
        return measure_mse(x0, images), expansion_loss(posterior), latents

    def _align(self, teacher: Teacher, images: Tensor, latents: Tensor) -> Tensor:
        """Returns the loss that compares the class head's features with the teacher's features."""
        targets = teacher.embed(images, *latents.shape[2:])
        head = self.model.dino_token_alignment_head
        predicted = functional_call(head, self._cast(_CLASS_HEAD), (latents,))
        losses = [alignment_loss(p, t) for p, t in zip(predicted, targets, strict=True)]
        return torch.stack(losses).mean()

    def _cast(self, prefix: str) -> dict[str, Tensor]:
        """Casts the weights of a part to `dtype`. Gradients still reach the float32 weights."""
        return {
            name.removeprefix(prefix): tensor if keeps_float32(name) else tensor.to(self._dtype)
            for name, tensor in self._parameters.items()
            if name.startswith(prefix)
        }


def read_state_metadata(path: Path) -> dict[str, str]:
    """Reads the step, recipe, curve and seconds of a state. Raises ModelError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as exc:
        raise ModelError(f"{path} is damaged ({exc}); remove it to start again") from exc
    if not {"step", "recipe", "curve", "seconds"} <= metadata.keys():
        raise ModelError(f"{path} is not a training state; choose another OUT")
    return dict(metadata)


def write_file(folder: Path, name: str, data: bytes) -> None:
    """Writes a file atomically, and creates the folder if needed.

    Raises UnwritableDiskError if the disk is full or read-only, and OutputError for other failures.
    """
    # OUT holds nothing but a training, so any file in it may be replaced.
    output = Output(str(folder), OutputKind.FOLDER, is_ours=lambda path: True, overwrite=True)
    output.deliver(name, data)
