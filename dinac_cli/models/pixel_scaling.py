"""Converts pixels, uint8 [B, H, W, 3], to the images of the network, [B, 3, H, W], and back."""

from __future__ import annotations

import torch
from torch import Tensor


def scale_pixels(pixels: Tensor) -> Tensor:
    """Returns pixels as float32 images in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def round_images(images: Tensor) -> Tensor:
    """Clamps float32 images to [-1, 1] and rounds them to the nearest pixels, halves to even."""
    levels = images.clamp(-1.0, 1.0).add_(1.0).mul_(127.5).round_()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
