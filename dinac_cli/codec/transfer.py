"""Arrays to the device and back; on CUDA through pinned memory, beside the computing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.generic]


class Download:
    """A tensor on its way to the host."""

    def __init__(self, host: Tensor, arrival: torch.cuda.Event | None = None) -> None:
        self._host = host
        self._arrival = arrival

    @property
    def has_arrived(self) -> bool:
        """Whether `fetch` returns at once."""
        return self._arrival is None or bool(self._arrival.query())  # type: ignore[no-untyped-call]

    def fetch(self) -> Array:
        """The tensor's content, when it is there. RuntimeError where the device has failed."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._host.numpy()


class Transfer:
    """Moves micro-batches between the host and one device.

    On CUDA each direction has a stream of its own, so that one batch goes up and another one down
    while a third is computed. Elsewhere both directions wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        is_cuda = device.type == "cuda"
        self._up, self._down = (_make_stream(device) if is_cuda else None for _ in range(2))

    def upload(self, arrays: Sequence[Array], count: int) -> Tensor:
        """One tensor of `count` arrays, the last one repeated where there are fewer."""
        dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
        shape = (count, *arrays[0].shape)
        host = torch.empty(shape, dtype=dtype, pin_memory=self._up is not None)
        np.stack([*arrays, *([arrays[-1]] * (count - len(arrays)))], out=host.numpy())
        if self._up is None:
            return host.to(self._device)
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._up):
            on_device = host.to(self._device, non_blocking=True)
        computing.wait_stream(self._up)
        on_device.record_stream(computing)  # its memory is not free before that stream is through
        return on_device

    def download(self, x: Tensor) -> Download:
        """Send a contiguous tensor to the host."""
        if self._down is None:
            return Download(x.cpu())
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._down):
            host.copy_(x, non_blocking=True)
            arrival.record(self._down)
        x.record_stream(self._down)
        return Download(host, arrival)


def _make_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
