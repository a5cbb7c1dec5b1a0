"""The fast decoder: replaces `dinac/decoder.py`, with fewer passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinac_cli.models.dinac.decoder import Begun, Decoder, FCDMBlock, Modulation, modulate
from dinac_cli.models.dinac.fast.compilation import compile_for_sizes
from dinac_cli.models.dinac.fast.layers import FastLinear
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.dinac.layers import patchify, unpatchify
from dinac_cli.models.recent import Recent

# Each diffusion time of a long sampling needs its own modulations. One time takes 56 KiB (D2), so
# the cache takes at most 56 MiB.
_TIMES_KEPT = 1024


def allows_tf32(device: torch.device, dtype: torch.dtype) -> bool:
    """Returns whether TF32 suffices for the last layer of a network that computes in `dtype`.

    This layer is always float32. In a bfloat16 network, the error of its input is larger than that
    of TF32. Code of torch.compile cannot switch TF32 on, so it never uses it.
    """
    return device.type == "cuda" and dtype == torch.bfloat16


class FastConvBlock:
    """Replaces a `decoder.FCDMBlock`; the results are equal up to rounding."""

    def __init__(self, plain: FCDMBlock, operations: Operations) -> None:
        self._operations = operations
        conv = plain.dwconv
        assert conv.bias is not None
        self._filters = operations.arrange_filters(conv.weight.detach())
        self._filter_bias = conv.bias.detach()
        gelu = not operations.gelu_in_response
        self._widen = FastLinear(plain.pwconv1.weight, plain.pwconv1.bias, gelu=gelu)
        self._gamma = plain.grn.gamma.detach().flatten()
        # GRN's beta is moved into the bias of the next linear layer, the only user of GRN's result.
        assert plain.pwconv2.bias is not None
        weight, bias = plain.pwconv2.weight.detach(), plain.pwconv2.bias.detach()
        shift = weight.flatten(1).float() @ plain.grn.beta.detach().flatten().float()
        self._narrow = FastLinear(weight)
        self._shift = bias.float() + shift

    def __call__(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Returns the stream [B, h, w, D] after the block; `modulation` is (1 + scale, gate)."""
        factor, gate = modulation
        u = self._operations.convolve(x, self._filters, self._filter_bias)
        u = self._operations.normalize(u, factor, u.dtype)
        u = self._operations.normalize_response(self._widen(u), self._gamma)  # [B, h, w, 4D]
        return self._operations.add_gated(x, gate, self._narrow(u), self._shift)


class FastDecoder(nn.Module):
    """Replaces `plain` for inference; the results are equal up to rounding."""

    def __init__(self, plain: Decoder, operations: Operations, *, compiled: bool = False) -> None:
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
            [FastConvBlock(block, operations) for block in blocks if isinstance(block, FCDMBlock)]
            for blocks in (plain.start_blocks, plain.middle_blocks, plain.end_blocks)
        )
        skip = plain.fuse_skip.weight.detach().flatten(1)
        self._skip_start = FastLinear(skip[:, :dim], plain.fuse_skip.bias)
        self._skip_middle = FastLinear(skip[:, dim:])
        self._without_middle = self._skip_middle(plain.path_drop_mask_feature.detach().flatten())
        tf32 = not compiled and allows_tf32(
            plain.out_proj.weight.device, plain.fuse_in.weight.dtype
        )
        self._out = FastLinear(plain.out_proj.weight, plain.out_proj.bias, tf32=tf32)
        self._modulations: Recent[float, list[Modulation]] = Recent(_TIMES_KEPT)
        self._compute_start = compile_for_sizes(self._run_start) if compiled else self._run_start
        self._compute_end = compile_for_sizes(self._run_end) if compiled else self._run_end

    def embed(self, x_t: Tensor) -> Tensor:
        """Embeds noisy images [B, 3, H, W]; the result is the input of `begin`."""
        patches = self._patches(patchify(x_t, self._patch_size))
        return self._fuse_patches(patches).float().add_(self._fuse_bias)  # [B, h, w, D]

    def begin(self, embedded: Tensor, t: Tensor, latents_raw: Tensor) -> Begun:
        """Implements `Decoder.begin`; `t` is [1]: all images have the same time."""
        return self._compute_start(embedded, self._modulate(t), latents_raw)

    def finish(self, begun: Begun, drop_middle: bool = False) -> Tensor:
        """Implements `Decoder.finish`."""
        return unpatchify(self.finish_patches(begun, drop_middle), self._patch_size)

    def finish_patches(self, begun: Begun, drop_middle: bool = False) -> Tensor:
        """Implements `Decoder.finish_patches`."""
        return self._compute_end(begun, drop_middle)

    def _run_start(
        self, embedded: Tensor, modulations: list[Modulation], latents_raw: Tensor
    ) -> Begun:
        x = embedded + self._fuse_latents(latents_raw.permute(0, 2, 3, 1))
        for block, modulation in zip(self._start, modulations, strict=False):
            x = block(x, modulation)
        return Begun(x, modulations)

    def _run_end(self, begun: Begun, drop_middle: bool) -> Tensor:
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
        return self._out(x).float()

    def list_constants(self) -> list[Tensor]:
        """Returns the tensors that are cached between calls."""
        cached = self._modulations.list_values()
        return [tensor for modulations in cached for pair in modulations for tensor in pair]

    def _modulate(self, t: Tensor) -> list[Modulation]:
        """Returns (1 + scale, gate), both [D], for each block. The results are cached per time."""

        def make() -> list[Modulation]:
            return [
                (1 + scale.flatten(), gate.flatten().contiguous())
                for scale, gate in modulate(*self._time, t)
            ]

        return self._modulations.get(float(t), make)
