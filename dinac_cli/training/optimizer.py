"""The optimiser: Muon for the matrices of the blocks, AdamW for all other weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dinac_cli.training.recipe import TrainRecipe

_BLOCK_MATRICES = re.compile(
    r".*\.(pwconv1|pwconv2|mlp\.up|mlp\.down|attn_core\.qkv|attn_core\.proj_out)\.weight"
)
_TRUNK_MAPS = re.compile(
    r".*\.(patchify\.proj|latent_up|fuse_in|fuse_skip|out_proj|to_bottleneck|in_proj)\.(weight|bias)"
)
# The coefficients of the quintic Newton-Schulz iteration. Source: Jordan et al., "Muon", 2024.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_MOMENTUM = 0.95


def orthogonalize(matrices: Tensor) -> Tensor:
    """Returns the matrices [B, m, n], m ≤ n, changed so that all singular values are nearly 1."""
    norms: Tensor = torch.linalg.matrix_norm(matrices, keepdim=True)
    x: Tensor = (matrices / (norms + 1e-7)).bfloat16()
    a, b, c = _QUINTIC
    for _ in range(5):
        gram = torch.bmm(x, x.transpose(1, 2).contiguous())
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


def split_wide(name: str, weight: Tensor) -> list[Tensor]:
    """Returns views [m, n], m ≤ n, of a block's matrix: three views of a qkv matrix, else one."""
    matrix = weight.flatten(1)
    parts = matrix.chunk(3) if name.endswith(".qkv.weight") else (matrix,)
    return [part.T if part.shape[0] > part.shape[1] else part for part in parts]


class Optimizer:
    """Updates float32 weights in place. `average` is the weights' exponential moving average."""

    def __init__(self, parameters: Mapping[str, Tensor], recipe: TrainRecipe) -> None:
        self._recipe = recipe
        self._parameters = dict(parameters)
        self._momentum = {
            name: torch.zeros_like(parameter)
            for name, parameter in parameters.items()
            if _BLOCK_MATRICES.fullmatch(name)
        }
        trunk = [p for name, p in self._others() if _TRUNK_MAPS.fullmatch(name)]
        rest = [p for name, p in self._others() if not _TRUNK_MAPS.fullmatch(name)]
        self._peaks = (recipe.linear_rate, recipe.rate)
        self._adam = torch.optim.AdamW(
            [{"params": trunk}, {"params": rest}], betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.average = {name: p.detach().clone() for name, p in parameters.items()}

    def _others(self) -> list[tuple[str, Tensor]]:
        return [item for item in self._parameters.items() if item[0] not in self._momentum]

    def step(self, number: int, done: float) -> None:
        """Updates the weights and clears the gradients. See `TrainRecipe.rate_factor`."""
        factor = self._recipe.rate_factor(number, done)
        torch.nn.utils.clip_grad_norm_([p for _, p in self._others()], self._recipe.clip)
        for group, peak in zip(self._adam.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self._adam.step()
        self._step_matrices(self._recipe.matrix_rate * factor)
        self._adam.zero_grad(set_to_none=True)
        self._average(number)

    @torch.no_grad()
    def _step_matrices(self, rate: float) -> None:
        """Updates matrices of one shape together, because a few large products are faster."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for name, momentum in self._momentum.items():
            parameter = self._parameters[name]
            if parameter.grad is None:  # the block took no part in this step
                continue
            momentum.lerp_(parameter.grad, 1 - _MOMENTUM)
            direction = parameter.grad.lerp(momentum, _MOMENTUM)
            parts, steps = split_wide(name, parameter), split_wide(name, direction)
            for part, step in zip(parts, steps, strict=True):
                by_shape.setdefault(part.shape, []).append((part, step))
            parameter.grad = None
        for pairs in by_shape.values():
            updates = orthogonalize(torch.stack([step for _, step in pairs]))
            torch._foreach_add_([part for part, _ in pairs], list(updates), alpha=-rate)

    @torch.no_grad()
    def _average(self, number: int) -> None:
        keep = min(self._recipe.ema, (number + 1) / (number + 20))
        weights = [self._parameters[name] for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - keep)

    def state_tensors(self) -> dict[str, Tensor]:
        """Returns all tensors that a resumed training needs, by name."""
        tensors = {f"weights.{name}": p.detach() for name, p in self._parameters.items()}
        tensors |= {f"average.{name}": p for name, p in self.average.items()}
        tensors |= {f"momentum.{name}": p for name, p in self._momentum.items()}
        for name, parameter in self._others():
            for key, value in self._adam.state.get(parameter, {}).items():
                tensors[f"adam.{key}.{name}"] = value
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores `state_tensors`. Raises KeyError or RuntimeError if the tensors do not fit."""
        for name, parameter in self._parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
            self.average[name].copy_(tensors[f"average.{name}"])
        for name, momentum in self._momentum.items():
            momentum.copy_(tensors[f"momentum.{name}"])
        for name, parameter in self._others():
            self._adam.state[parameter] = {
                key: tensors[f"adam.{key}.{name}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{key}.{name}" in tensors
            }
