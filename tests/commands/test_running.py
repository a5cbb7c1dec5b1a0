"""What a run sets up before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dinac_cli.commands import running
from dinac_cli.commands.running import configure_threads

ALLOCATE_IN_THREADS = """
import os, sys, threading
from dinac_cli.commands.running import configure_threads
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
# A heap of the GNU C library that is not the first is a reservation of 64 MiB.
with open("/proc/self/maps") as maps:
    areas = [line.split()[0].split("-") for line in maps if len(line.split()) == 5]
print(sum(int(start, 16) % 2**26 == 0 for start, _ in areas))
"""


def test_what_the_user_has_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(running, "_share_heaps", lambda: None)
    configure_threads()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("1", "PASSIVE")


@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="needs the GNU C library",
)
@pytest.mark.parametrize(("mode", "at_most"), [("shared", 1), ("own", 64)])
def test_threads_share_two_heaps(mode: str, at_most: int) -> None:
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE_IN_THREADS, mode],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    heaps = int(done.stdout)
    assert heaps <= at_most
    assert mode == "shared" or heaps > 1
