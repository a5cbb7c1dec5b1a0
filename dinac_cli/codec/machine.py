"""What torch, oneDNN and the C library are told before torch is imported.

What the user has set stands; other C libraries than GNU's know no such calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

# Of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_LARGE_BYTES = 4 * 2**20
_SPARE_BYTES = 2 * 2**20
_KEPT_PRIMITIVES = 32


def configure_threads() -> None:
    """Say how many processors there are and how to wait on them, and share heaps between threads.

    Torch would count the machine's cores, also where a control group grants fewer. Its threads
    would spin while they wait for each other, which takes the processors from the threads that read
    and write: beside one other busy process, decoding took 688 ms an image instead of 25 on two
    cores. What one thread frees another one's heap cannot use, so that with a heap for each the
    memory of a long run creeps up: by 5 and 8 % from 200 files to 1,400 (two runs), by 3 and 4 %
    with two heaps for all.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(count_processors()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _set_malloc("MALLOC_ARENA_MAX", _M_ARENA_MAX, 2)


def bound_memory() -> None:
    """Keep the memory of a run over images of many sizes from growing with each new one.

    oneDNN keeps what it has compiled for a shape, up to 1,024 of it: some 140 KB each, a dozen a
    size. Large buffers go back to the system at once instead of leaving holes among what is kept.
    Over 200 photographs of 73 sizes the two took the peak of `encode` from 545 MiB to 400 (one
    micro-batch at a time); that over 2,000 was 6 % higher than over 200 before, and 3 % with both.
    What comes again has to be made again: D2 took 5 % longer to encode 1024², `nano` 4 % over 294
    photographs. A step of D2's decoder took 24 % longer at 1024², so `decode` goes without.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(_KEPT_PRIMITIVES))
    _set_malloc("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, _LARGE_BYTES)
    _set_malloc("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, _SPARE_BYTES)


def _set_malloc(variable: str, parameter: int, value: int) -> None:
    """Set a parameter of the GNU C library, unless the user did with an environment variable."""
    if sys.platform != "linux" or variable in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(parameter, value)


def count_processors() -> int:
    """Processors this process may use: affinity and, on Linux, the control group's quota."""
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, round(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(1, count)
