"""Settings of torch, oneDNN and the C library, made before torch is imported.

The user's own settings take precedence. Only the GNU C library has the calls used here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

# From malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_LARGE_BYTES = 4 * 2**20
_SPARE_BYTES = 2 * 2**20
_KEPT_PRIMITIVES = 32


def configure_threads() -> None:
    """Sets the number of threads and how they wait, and makes threads share heaps.

    Torch counts the machine's cores even if a control group grants fewer. By default its threads
    spin while they wait for each other, which takes the processors from the threads that read and
    write: beside one other busy process, decoding took 688 ms an image instead of 25 on two cores.
    Memory that one thread frees is no use to another thread's heap, so with a heap per thread the
    memory of a long run creeps up: by 5 and 8 % from 200 files to 1,400 (two runs), by 3 and 4 %
    with two heaps for all threads.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(count_processors()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _set_malloc("MALLOC_ARENA_MAX", _M_ARENA_MAX, 2)


def bound_memory() -> None:
    """Keeps the memory of a run over images of many sizes from growing with each new size.

    oneDNN caches what it compiles for a shape, by default up to 1,024 primitives of some 140 KB, a
    dozen per size; here the cache is small. Large buffers return to the system at once and leave
    no holes in the heap. Over 200 photographs of 73 sizes both settings took the peak of `encode`
    from 545 MiB to 400 (one micro-batch at a time). The peak over 2,000 was 6 % higher than over
    200 before, and is 3 % higher with both. The cost is recompilation: D2 took 5 % longer to encode
    1024², `nano` 4 % over 294 photographs. A step of D2's decoder took 24 % longer at 1024², so
    `decode` does not use these settings.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(_KEPT_PRIMITIVES))
    _set_malloc("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, _LARGE_BYTES)
    _set_malloc("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, _SPARE_BYTES)


def _set_malloc(variable: str, parameter: int, value: int) -> None:
    """Sets a parameter of the GNU C library unless the user's environment variable does."""
    if sys.platform != "linux" or variable in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(parameter, value)


def count_processors() -> int:
    """Counts the processors this process may use: affinity and, on Linux, the cgroup's quota."""
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
