"""Settings of torch, oneDNN and the C library before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dinac_cli.codec import machine
from dinac_cli.codec.machine import bound_memory, configure_threads

ALLOCATE_IN_THREADS = """
import os, sys, threading
from dinac_cli.codec.machine import configure_threads
if sys.argv[1] == "shared":
    configure_threads()
together, kept = threading.Barrier(8), []
def allocate():
    together.wait()
    kept.append([bytes(1000) for _ in range(1000)])
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
# Every heap of the GNU C library after the first reserves 64 MiB.
with open("/proc/self/maps") as maps:
    areas = [line.split()[0].split("-") for line in maps if len(line.split()) == 5]
print(sum(int(start, 16) % 2**26 == 0 for start, _ in areas))
"""

ALLOCATE_LARGE = """
import ctypes, sys
from dinac_cli.codec.machine import bound_memory
if sys.argv[1] == "bounded":
    bound_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.free(libc.malloc(20 * 2**20))  # makes the library treat 20 MiB as an ordinary size
kept = libc.malloc(10 * 2**20)
with open("/proc/self/maps") as maps:
    (heap,) = (line.split()[0].split("-") for line in maps if "[heap]" in line)
print(int(heap[0], 16) <= kept < int(heap[1], 16))
"""

needs_glibc = pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="needs the GNU C library",
)


def test_settings_of_the_user_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    library = SimpleNamespace(mallopt=lambda parameter, value: calls.append(parameter))
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("OMP_WAIT_POLICY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OMP_NUM_THREADS", "LRU_CACHE_CAPACITY", "MALLOC_ARENA_MAX"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "100000")
    configure_threads()
    bound_memory()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("1", "PASSIVE")
    assert os.environ["LRU_CACHE_CAPACITY"] == "1"
    assert int(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) > 1
    assert calls == [machine._M_TRIM_THRESHOLD]


@needs_glibc
@pytest.mark.parametrize(("mode", "at_most"), [("shared", 1), ("own", 64)])
def test_threads_share_two_heaps(mode: str, at_most: int) -> None:
    heaps = int(run_child(ALLOCATE_IN_THREADS, mode))
    assert heaps <= at_most
    assert mode == "shared" or heaps > 1


@needs_glibc
@pytest.mark.parametrize(("mode", "is_in_heap"), [("bounded", "False"), ("free", "True")])
def test_large_buffers_stay_out_of_the_heap(mode: str, is_in_heap: str) -> None:
    assert run_child(ALLOCATE_LARGE, mode) == is_in_heap


def run_child(program: str, mode: str) -> str:
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program, mode],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return done.stdout.strip()
