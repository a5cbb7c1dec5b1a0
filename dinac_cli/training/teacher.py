"""A DINOv2 vision transformer. The class head learns to predict the features of this teacher.

The checkpoint is a folder, as on the Hub, with a `config.json` of model type "dinov2" and a
`model.safetensors`. Source: Oquab et al., https://arxiv.org/abs/2304.07193.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dinac_cli.errors import ModelError

# Per channel: the mean and standard deviation of the images that trained the teacher, for pixels
# in [0, 1].
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TeacherConfig:
    """The fields of a teacher's `config.json` that `Teacher` uses."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int
    layer_norm_eps: float


class Teacher:
    """Computes features of images with frozen float32 weights."""

    def __init__(self, config: TeacherConfig, tensors: dict[str, Tensor]) -> None:
        self.config = config
        self._tensors = tensors

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Teacher:
        """Reads a checkpoint folder. Raises ModelError if the folder does not hold a DINOv2."""
        config = _read_config(folder / "config.json")
        try:
            tensors = load_file(folder / "model.safetensors", device=str(device))
        except (OSError, SafetensorError) as exc:
            raise ModelError(
                f"{folder}: cannot read the teacher: {exc}; name a DINOv2 checkpoint folder"
            ) from exc
        tensors = {name.removeprefix("dinov2."): tensor.float() for name, tensor in tensors.items()}
        teacher = cls(config, tensors)
        try:  # `embed` fails if a tensor is missing or has the wrong shape
            teacher.embed(torch.zeros(1, 3, 16, 16, device=device), 2, 2)
        except (KeyError, RuntimeError) as exc:
            detail = str(exc).partition("\n")[0]
            raise ModelError(
                f"{folder}: not the tensors of a DINOv2 ({detail}); download the checkpoint again"
            ) from exc
        return teacher

    @torch.no_grad()
    def embed(self, images: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Returns the class token [B, D] and the patch tokens [B, height·width, D] of images.

        The images are [B, 3, H, W] in [-1, 1]. They are scaled to a grid of `height` by `width`
        patches, so that each patch of the teacher covers one latent position.
        """
        side = self.config.patch_size
        size = (height * side, width * side)
        pixels = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (_MEAN, _STD))
        x = self._embed_patches((pixels / 2 + 0.5 - mean) / std)
        for index in range(self.config.num_hidden_layers):
            x = self._run_layer(x, f"encoder.layer.{index}")
        x = self._norm(x, "layernorm")
        return x[:, 0], x[:, 1:]

    def _embed_patches(self, pixels: Tensor) -> Tensor:
        projection = self._get_layer("embeddings.patch_embeddings.projection")
        grid = F.conv2d(pixels, *projection, stride=self.config.patch_size)  # [B, D, h, w]
        cls_token = self._tensors["embeddings.cls_token"].expand(len(pixels), -1, -1)
        tokens = torch.cat((cls_token, grid.flatten(2).transpose(1, 2)), dim=1)  # [B, 1 + h·w, D]
        return tokens + self._place(*grid.shape[2:])

    def _place(self, height: int, width: int) -> Tensor:
        """Returns position embeddings [1, 1 + h·w, D], interpolated from the learned grid."""
        learned = self._tensors["embeddings.position_embeddings"]
        side = round((learned.shape[1] - 1) ** 0.5)
        grid = learned[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
        return torch.cat((learned[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)

    def _run_layer(self, x: Tensor, name: str) -> Tensor:
        y = self._attend(self._norm(x, f"{name}.norm1"), f"{name}.attention")
        x = x + self._tensors[f"{name}.layer_scale1.lambda1"] * y
        y = self._linear(self._norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        y = self._linear(F.gelu(y), f"{name}.mlp.fc2")
        return x + self._tensors[f"{name}.layer_scale2.lambda1"] * y

    def _attend(self, x: Tensor, name: str) -> Tensor:
        heads = self.config.num_attention_heads
        q, k, v = (
            self._linear(x, f"{name}.attention.{part}")
            .reshape(*x.shape[:2], heads, -1)
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )  # [B, heads, N, D / heads]
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self._linear(y, f"{name}.output.dense")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, *self._get_layer(name))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._get_layer(name)
        return F.layer_norm(x, weight.shape, weight, bias, self.config.layer_norm_eps)

    def _get_layer(self, name: str) -> tuple[Tensor, Tensor]:
        return self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]


def _read_config(path: Path) -> TeacherConfig:
    try:
        values = json.loads(path.read_bytes())
        if values["model_type"] != "dinov2" or values.get("use_swiglu_ffn"):
            raise ModelError(f"{path}: not a DINOv2 with plain MLPs; use size S, B or L")
        return TeacherConfig(**{name: values[name] for name in TeacherConfig.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ModelError(
            f"{path}: not the configuration of a DINOv2 ({exc}); name a DINOv2 checkpoint folder"
        ) from exc
