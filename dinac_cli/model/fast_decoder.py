"""The decoder of `decoder.py` in fewer passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinac_cli.model.decoder import Begun, Decoder, FCDMBlock, Modulation, modulate
from dinac_cli.model.fast_layers import FastLinear, scale_to_unit
from dinac_cli.model.layers import NORM_EPS, patchify, unpatchify

_TIMES_KEPT = 64


class FastConvBlock:
    """`decoder.FCDMBlock` on a float32 stream [B, h, w, D]."""

    def __init__(self, plain: FCDMBlock) -> None:
        self._conv = plain.dwconv
        self._widen = FastLinear(plain.pwconv1.weight, plain.pwconv1.bias, gelu=True)
        self._gamma = plain.grn.gamma.detach().flatten()
        # GRN's beta goes through a linear map alone: it is a part of that one's bias.
        assert plain.pwconv2.bias is not None
        weight, bias = plain.pwconv2.weight.detach(), plain.pwconv2.bias.detach()
        shift = weight.flatten(1).float() @ plain.grn.beta.detach().flatten().float()
        self._narrow = FastLinear(weight)
        self._shift = bias.float() + shift

    def __call__(self, x: Tensor, modulation: Modulation) -> Tensor:
        scale, gate = modulation
        u = x.to(self._conv.weight.dtype).permute(0, 3, 1, 2)
        u = self._conv(u).permute(0, 2, 3, 1).float()  # [B, h, w, D]
        u = self._widen((u * scale_to_unit(u)).mul_(1 + scale))  # [B, h, w, 4D]
        norm = u.square().sum(dim=(1, 2), keepdim=True, dtype=torch.float32).sqrt_()
        relative = norm / (norm.mean(dim=-1, keepdim=True) + NORM_EPS)  # [B, 1, 1, 4D]
        u = u.mul_((1 + self._gamma * relative).to(u.dtype))
        return torch.addcmul(x, gate, self._narrow(u).float().add_(self._shift))


class FastDecoder(nn.Module):
    """Computes what `plain` does and takes its weights over; for inference alone."""

    def __init__(self, plain: Decoder) -> None:
        super().__init__()
        dim = plain.fuse_in.out_channels
        self._time = (plain.time_embed, plain.adaln_base, plain.adaln_deltas)
        self._patch_size = plain.patch_size
        self._patches = FastLinear(plain.patchify.proj.weight, plain.patchify.proj.bias)
        fuse = plain.fuse_in.weight.detach().flatten(1)
        assert plain.latent_up.bias is not None
        assert plain.fuse_in.bias is not None
        up, up_bias = plain.latent_up.weight.detach().flatten(1), plain.latent_up.bias.detach()
        of_latents = fuse[:, dim:].float()
        self._fuse_patches = FastLinear(fuse[:, :dim])
        self._fuse_latents = FastLinear((of_latents @ up.float()).to(fuse.dtype))
        self._fuse_bias = plain.fuse_in.bias.detach().float() + of_latents @ up_bias.float()
        self._start, self._middle, self._end = (
            [FastConvBlock(block) for block in blocks if isinstance(block, FCDMBlock)]
            for blocks in (plain.start_blocks, plain.middle_blocks, plain.end_blocks)
        )
        skip = plain.fuse_skip.weight.detach().flatten(1)
        self._skip_start = FastLinear(skip[:, :dim], plain.fuse_skip.bias)
        self._skip_middle = FastLinear(skip[:, dim:])
        self._without_middle = self._skip_middle(plain.path_drop_mask_feature.detach().flatten())
        self._out = FastLinear(plain.out_proj.weight, plain.out_proj.bias)
        self._modulations: dict[float, list[Modulation]] = {}

    def embed(self, x_t: Tensor) -> Tensor:
        """What `begin` takes of a noisy image [B, 3, H, W]: its half of the map that fuses them."""
        patches = self._patches(patchify(x_t, self._patch_size))
        return self._fuse_patches(patches).float().add_(self._fuse_bias)  # [B, h, w, D]

    def begin(self, embedded: Tensor, t: Tensor, latents_raw: Tensor) -> Begun:
        """See `Decoder.begin`; all images share the time `t` [1]."""
        modulations = self._modulate(t)
        x = embedded + self._fuse_latents(latents_raw.permute(0, 2, 3, 1))
        for block, modulation in zip(self._start, modulations, strict=False):
            x = block(x, modulation)
        return Begun(x, modulations)

    def finish(self, begun: Begun, drop_middle: bool = False) -> Tensor:
        """See `Decoder.finish`."""
        start, modulations = begun
        first, last = len(self._start), len(modulations) - len(self._end)
        x = self._skip_start(start).float()
        if drop_middle:
            x.add_(self._without_middle)
        else:
            middle = start
            for block, modulation in zip(self._middle, modulations[first:last], strict=True):
                middle = block(middle, modulation)
            x.add_(self._skip_middle(middle))
        for block, modulation in zip(self._end, modulations[last:], strict=True):
            x = block(x, modulation)
        return unpatchify(self._out(x), self._patch_size).float()

    def _modulate(self, t: Tensor) -> list[Modulation]:
        """The modulations of a time, kept: the next image has the same times."""
        time = float(t)
        if time not in self._modulations:
            while len(self._modulations) >= _TIMES_KEPT:
                del self._modulations[next(iter(self._modulations))]
            self._modulations[time] = modulate(*self._time, t)
        return self._modulations[time]
