"""Configures torch, oneDNN and the GNU C library, before torch is imported.

The user's environment variables take precedence.
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
_LARGEST_KEPT_BYTES = 32 * 2**20  # the most that the GNU C library accepts
_KEPT_BYTES = 512 * 2**20
_KEPT_PRIMITIVES = 32


def configure_threads(threads: int | None = None) -> None:
    """Sets the number of threads, lets waiting threads sleep, and limits the heaps to two.

    If `threads` is None, the number is OMP_NUM_THREADS if that is set, else one per processor.

    Torch counts all cores of the machine, even if a control group allows fewer. By default, waiting
    threads spin, and this slows down the threads that read and write. On two cores with one other
    busy process, decoding took 688 ms per image with spinning threads, and 25 ms with sleeping
    threads.

    If each thread has its own heap, a thread cannot use the memory that another thread frees. So a
    long run takes more and more memory. When the number of files rose from 200 to 1,400, the memory
    of two runs grew by 5 % and 8 %. With two heaps for all threads, the memory grew by 3 % and 4 %.
    """
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(count_processors()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _set_malloc("MALLOC_ARENA_MAX", _M_ARENA_MAX, 2)


def bound_memory() -> None:
    """Keeps the memory of a run from growing with each new image size. `encode` calls this.

    oneDNN compiles about a dozen primitives per image size, each of about 140 KB. By default,
    oneDNN caches up to 1,024 primitives. This function lowers the limit to 32. In addition, large
    buffers return to the system as soon as they are freed, so they leave no holes in the heap.

    With both settings, the peak memory of `encode` fell from 545 MiB to 400 MiB. The command
    encoded 200 photographs of 73 sizes, one micro-batch at a time. With the settings, the peak for
    2,000 photographs is 3 % higher than for 200. Without the settings, the peak was 6 % higher.

    The settings cost time, because oneDNN recompiles primitives: D2 encodes images of 1024² pixels
    5 % more slowly, and `nano` encodes 294 photographs 4 % more slowly. `decode` does not use these
    settings: with them, a step of D2's decoder for 1024² pixels took 24 % longer.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(_KEPT_PRIMITIVES))
    _set_malloc("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, _LARGE_BYTES)
    _set_malloc("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, _SPARE_BYTES)


def keep_memory() -> None:
    """Keeps freed buffers for the next images instead of returning them to the system.

    For processes that feed a GPU. Otherwise, the pixels of each batch take new pages from the
    system: with a model that takes no time, one process encoded 256² JPEGs in 0.78 ms per image,
    and in 0.70 ms with this setting.
    """
    _set_malloc("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
    _set_malloc("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, _KEPT_BYTES)


def _set_malloc(variable: str, parameter: int, value: int) -> None:
    """Sets a parameter of the GNU C library, unless the user has set `variable`."""
    if sys.platform != "linux" or variable in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(parameter, value)


def divide_processors(processes: int) -> int | None:
    """Returns the number of threads of each of several processes.

    Returns None if OMP_NUM_THREADS is set, because then the user has chosen the number.
    """
    return None if "OMP_NUM_THREADS" in os.environ else max(1, count_processors() // processes)


def count_processors() -> int:
    """Counts the processors that this process may use, by its affinity and its control group."""
    is_linux = sys.platform == "linux"
    count = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
    # This block raises OSError without a control group, and ValueError if the quota is "max".
    with contextlib.suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = map(int, file.read().split())
        count = min(count, round(quota / period))
    return max(1, count)
