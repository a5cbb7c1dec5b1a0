"""Runs the fast network on the meta device, which computes only shapes, and records its kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast.operations import Operations


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel."""

    kernel: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts kernels by name, and the bytes of the tensors that the calls create.

    `traffic_bytes` is what torch's kernels read and write. `from_host` and `to_host` name the calls
    that copy a tensor to the device, and those that read from the device.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.triton: list[Launch] = []
        self.clear()

    def clear(self) -> None:
        self.triton.clear()
        self.kernels: Counter[str] = Counter()
        self.size_bytes = 0
        self.traffic_bytes = 0
        self.from_host: list[str] = []
        self.to_host: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        given = [x for x in args if isinstance(x, Tensor)]
        result = func(*args, **(kwargs or {}))
        on_host = [not x.is_meta for x in given if x.ndim > 0]  # others are passed as numbers
        if not isinstance(result, Tensor) or not result.is_meta:
            if not all(on_host) and not isinstance(result, (tuple, list)):
                self.to_host.append(name)
            return result
        if any(on_host):
            self.from_host.append(name)
        shares_memory = any(_find_storage(x) == _find_storage(result) for x in given)
        in_place = name.endswith("_")
        if in_place or not (shares_memory or name in {"empty", "empty_like"}):
            self.kernels[name] += 1
            self.traffic_bytes += sum(map(count_bytes, [*given, result]))
        if not shares_memory:
            self.size_bytes += count_bytes(result)
        return result


def _find_storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def count_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@contextmanager
def record_launches(operations: Operations) -> Iterator[Launches]:
    """Records Triton's kernels instead of running them."""
    assert isinstance(operations, ModuleType)
    kernels, launches = operations.kernels, Launches()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in vars(kernels) if hasattr(getattr(kernels, name), "run")]:
            patch.setattr(kernels, name, _Recorded(name, launches))
        yield launches


class _Recorded:
    def __init__(self, name: str, launches: Launches) -> None:
        self._name = name
        self._launches = launches

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            self._launches.kernels[self._name] += 1
            self._launches.triton.append(Launch(self._name, arguments, options))

        return launch


def build_on_meta(config: DinacAEConfig, dtype: torch.dtype) -> DinacAE:
    """Builds a plain network with shapes but no content; its matrices are in `dtype`."""
    with torch.device("meta"):
        model = DinacAE(config, parts={"encoder", "decoder"}).eval().requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and name != "decoder.out_proj":
            module.to(dtype)
    return model
