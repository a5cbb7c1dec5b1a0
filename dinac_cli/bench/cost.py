"""Predicts the speed of the network on a GPU from public figures, without that GPU.

The network runs on torch's meta device, which computes only shapes. `_Ledger` notes each kernel
that the network would launch, with its FLOPs, bytes and instructions. The time of a kernel is the
longest of the times that these three take on the GPU. A gap follows before the next kernel starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dinac_cli.codec.engine import choose_batch_size
from dinac_cli.models.dinac.autoencoder import DinacAE, build_model
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.interface import (
    DECODER,
    ENCODER,
    GRAPHS,
    PLAIN,
    TORCH,
    DinacAEInferenceConfig,
)

NETWORKS = (PLAIN, TORCH, GRAPHS)
"""The steps of the ladder that are predicted."""

_BF16, _TF32, _FLOAT32 = "bf16", "tf32", "float32"

_PEAK_SHARE = 0.8
"""The share of its peak that a GPU reaches in large matrix products, and in copying memory."""

_GAP_SECONDS, _GRAPH_GAP_SECONDS = 2e-6, 1e-6
_WARP = 32
_SCHEDULERS = 4  # of a multiprocessor; each starts one instruction of a warp in a cycle


@dataclass(frozen=True)
class Gpu:
    """Public figures of a GPU: its name in torch, bytes/s, and FLOP/s without sparsity.

    `tensor_flops` are the FLOP/s of the tensor cores in bfloat16 with float32 sums, and `flops`
    those of float32 without tensor cores.
    """

    name: str
    short: str
    bandwidth: float
    tensor_flops: float
    flops: float
    multiprocessors: int
    clock_hz: float

    @property
    def instruction_rate(self) -> float:
        """The instructions of single threads that all multiprocessors together start per second."""
        return self.multiprocessors * _SCHEDULERS * _WARP * self.clock_hz


GPUS = (
    Gpu("NVIDIA A100-SXM4-80GB", "A100", 2.04e12, 312e12, 19.5e12, 108, 1.41e9),
    Gpu("NVIDIA H200", "H200", 4.8e12, 989e12, 67e12, 132, 1.98e9),
    Gpu("NVIDIA GeForce RTX 4090", "4090", 1.01e12, 165e12, 82.6e12, 128, 2.52e9),
    Gpu("NVIDIA GeForce RTX 5090", "5090", 1.79e12, 209e12, 105e12, 170, 2.41e9),
)
"""Sources: the data sheets of NVIDIA for A100 (80 GB SXM) and H200 (SXM), and the white papers
of the Ada and Blackwell architectures for RTX 4090 and RTX 5090."""


@dataclass(frozen=True)
class Kernel:
    """One launch of a kernel.

    `size_bytes` are the bytes that it reads and writes. `flops` and `kind` are the FLOPs and the
    arithmetic of its matrix products. `instructions` are those of all its threads (0 if they
    never limit the speed).
    """

    name: str
    size_bytes: float
    flops: float = 0.0
    kind: str = _FLOAT32
    instructions: float = 0.0

    def predict_seconds(self, gpu: Gpu) -> float:
        """Returns the time of the kernel alone."""
        peak = {_BF16: gpu.tensor_flops, _TF32: gpu.tensor_flops / 2, _FLOAT32: gpu.flops}
        return max(
            self.size_bytes / (_PEAK_SHARE * gpu.bandwidth),
            self.flops / (_PEAK_SHARE * peak[self.kind]),
            self.instructions / gpu.instruction_rate,
        )


@dataclass(frozen=True)
class Cost:
    """The kernels of one micro-batch of `batch` square images of `resolution` pixels a side.

    `network` is one of `NETWORKS`; `steps` is 0 for encode.
    """

    task: str
    steps: int
    network: str
    resolution: int
    batch: int
    kernels: Sequence[Kernel] = field(repr=False)

    @property
    def flops(self) -> float:
        """The FLOPs of the matrix products."""
        return sum(kernel.flops for kernel in self.kernels)

    @property
    def size_bytes(self) -> float:
        """The bytes that the kernels read and write."""
        return sum(kernel.size_bytes for kernel in self.kernels)

    def predict_rate(self, gpu: Gpu) -> float:
        """Returns the predicted images per second."""
        gap = _GRAPH_GAP_SECONDS if self.network == GRAPHS else _GAP_SECONDS
        seconds = sum(kernel.predict_seconds(gpu) + gap for kernel in self.kernels)
        return self.batch / seconds


def find_gpu(name: str) -> Gpu | None:
    """Returns the figures of the GPU with this name in torch, or None if they are unknown."""
    return next((gpu for gpu in GPUS if gpu.name == name), None)


def count_cost(
    config: DinacAEConfig,
    dtype: torch.dtype,
    network: str,
    task: str,
    steps: int,
    resolution: int,
    batch: int | None = None,
) -> Cost:
    """Counts the kernels of one micro-batch; by default, its size is that of the commands."""
    is_rounded = network != PLAIN and dtype == torch.bfloat16  # see `FastDecoder`
    ledger = _Ledger(_TF32 if is_rounded else _FLOAT32)
    model = _build(config, dtype, network, ledger)
    rows = -(-resolution // config.patch_size)
    side = rows * config.patch_size
    count = batch or choose_batch_size(torch.device("meta"), rows**2)
    work: Callable[[], object]
    if task == "encode":
        pixels = torch.empty(count, side, side, 3, dtype=torch.uint8, device="meta")
        work = partial(_encode, model, pixels)
    else:
        latents = torch.empty(count, config.bottleneck_dim, rows, rows, device="meta")
        work = partial(
            model.decode_pixels, latents, DinacAEInferenceConfig(num_steps=steps, seed=0)
        )
    with torch.inference_mode():
        work()  # fills the caches
        with ledger.open():
            work()
    return Cost(task, steps, network, resolution, count, tuple(ledger.kernels))


def _encode(model: DinacAE, pixels: Tensor) -> Tensor:
    return model.whiten(model.encode_pixels(pixels).mode())


def _build(config: DinacAEConfig, dtype: torch.dtype, network: str, ledger: _Ledger) -> DinacAE:
    with torch.device("meta"):
        drawn = DinacAE(config.without_class_head(), (ENCODER, DECODER))
        plain = build_model(drawn, drawn.state_dict(), dtype)
    if network == PLAIN:
        return plain
    return accelerate(plain, torch_operations if network == TORCH else _Counted(ledger))


_ALLOCATIONS = {"empty", "empty_like", "new_empty"}
"""Operations of torch that launch no kernel. Views launch none either."""

_ATTENTION = "scaled_dot_product_attention"


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the kernels of torch's operations, and those that `add` names."""

    def __init__(self, float32_kind: str) -> None:
        """`float32_kind` is the arithmetic of products of float32 matrices."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: list[Kernel] = []
        self._float32_kind = float32_kind
        self._is_open = False

    @contextmanager
    def open(self) -> Iterator[None]:
        """Notes kernels during the `with` block."""
        self._is_open = True
        try:
            with self:
                yield
        finally:
            self._is_open = False

    def add(
        self, name: str, *tensors: Tensor, instructions: float = 0.0, size_bytes: float = 0.0
    ) -> None:
        """Notes a kernel that reads or writes each tensor once, and `size_bytes` more."""
        if self._is_open:
            total = size_bytes + sum(map(_count_bytes, tensors))
            self.kernels.append(Kernel(name, total, instructions=instructions))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not isinstance(result, Tensor) or result.device.type != "meta" or name in _ALLOCATIONS:
            return result
        given = [tensor for tensor in args if isinstance(tensor, Tensor)]
        is_view = any(_find_storage(one) == _find_storage(result) for one in given)
        if is_view and not name.endswith("_"):  # `reshape` and `contiguous` may copy, or not
            return result
        if name == _ATTENTION:  # on CUDA, the heads of a token lie side by side
            result = result.transpose(1, 2).contiguous().transpose(1, 2)
        flops = _count_flops(name, given, result)
        kind = _FLOAT32  # depthwise convolutions use no tensor cores
        if flops and "conv" not in name:
            kind = _BF16 if given[0].dtype == torch.bfloat16 else self._float32_kind
        size_bytes = sum(map(_count_bytes, (*given, result)))
        self.kernels.append(Kernel(name, size_bytes, flops, kind))
        return result


def _find_storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _count_bytes(tensor: Tensor) -> int:
    """Returns the bytes of a tensor in memory; an expanded dim takes no memory."""
    sizes = (
        size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step or size == 0
    )
    return math.prod(sizes) * tensor.element_size() if tensor.device.type == "meta" else 0


def _count_flops(name: str, given: Sequence[Tensor], result: Tensor) -> float:
    if name == "linear":
        return 2.0 * result.numel() * given[0].shape[-1]
    if name in ("mm", "addmm", "matmul"):
        return 2.0 * result.numel() * given[-2].shape[-1]
    if name == _ATTENTION:
        q, k = given[:2]
        return 4.0 * q.numel() * k.shape[-2]
    if "conv" in name:
        return 2.0 * result.numel() * given[1][0].numel()
    return 0.0


INSTRUCTIONS = {
    "convolve_tiles": 95.0,
    "sum_squares": 16.4,
    "apply_response": 17.5,
}
"""Instructions of one thread for each element, counted in the machine code for compute capability
9.0. The other kernels wait for memory alone."""


class _Counted:
    """The operations of `triton_operations`; they note their kernels and do not run them."""

    gelu_in_response = True

    def __init__(self, ledger: _Ledger) -> None:
        self._ledger = ledger

    def read_patches(self, pixels: Tensor, patch_size: int, dtype: torch.dtype) -> Tensor:
        batch, height, width, channels = pixels.shape
        shape = batch, height // patch_size, width // patch_size, channels * patch_size**2
        patches = pixels.new_empty(shape, dtype=dtype)
        self._add("read_patches", pixels, patches)
        return patches

    def normalize(self, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        y = x.new_empty(x.shape, dtype=dtype)
        self._add("normalize_rows", x, y)
        return y

    def add_normalized(
        self, x: Tensor, update: Tensor, weight: Tensor, following: Tensor | None
    ) -> Tensor | None:
        y = None if following is None else torch.empty_like(update)
        self._add("add_normalized_rows", x, x, update, *([] if y is None else [y]))
        return y

    def rotate_heads(
        self, qkv: Tensor, weight: Tensor, rotation: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k = qkv[:, :, : len(weight)].chunk(2, dim=2)
        self._add("rotate_rows", q, q, k, k)
        return q, k, qkv[:, :, len(weight) :]

    def arrange_filters(self, weight: Tensor) -> Tensor:
        return torch_operations.arrange_filters(weight)

    def convolve(self, x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
        y = x.new_empty(x.shape, dtype=bias.dtype)
        self._add("convolve_tiles", x, y)
        return y

    def normalize_response(self, u: Tensor, gamma: Tensor) -> Tensor:
        self._add("sum_squares", u)
        self._add("weigh_response", gamma)
        self._add("apply_response", u, u)
        return u

    def add_gated(self, x: Tensor, gate: Tensor, update: Tensor, shift: Tensor) -> Tensor:
        y = torch.empty_like(x)
        self._add("add_gated_rows", x, update, y)
        return y

    def finish_ddim(self, x: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        pixels = x.new_empty((batch, height, width, channels), dtype=torch.uint8)
        self._add("finish_ddim", x, x0, pixels)
        return pixels

    def _add(self, name: str, *tensors: Tensor) -> None:
        """Notes a kernel. Its first tensor has one element for each element that it computes."""
        instructions = INSTRUCTIONS.get(name, 0.0) * tensors[0].numel()
        self._ledger.add(name, *tensors, instructions=instructions)
