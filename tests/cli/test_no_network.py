"""The main job with the network denied: it succeeds, and does not so much as make a socket."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import pack_record

from .conftest import save
from .processes import DINAC, Finished, run

# Python starts with this module where it is found. An audit hook sees the sockets and names that
# Python's own code asks for, through whatever library; it cannot be taken off again.
_GUARD = """
import sys
NOTES = {notes!r}
LOCAL = "socket.gethostname"  # the machine's own name, which it knows
def deny(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.", "ssl.")) and event != LOCAL:
        with open(NOTES, "a") as file:
            file.write(event + " " + repr(arguments) + "\\n")
        raise OSError(101, "Network is unreachable (denied by the test)")
sys.addaudithook(deny)
"""

UNSHARE = ("unshare", "--map-root-user", "--net")


def can_unshare() -> bool:
    """Whether a process may be put where there is no network device at all."""
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


class Isolated:
    """Runs command lines without a network, and knows what they tried."""

    def __init__(self, folder: Path) -> None:
        self._notes = folder / "notes"
        self._guard = folder / "guard"
        self._guard.mkdir()
        (self._guard / "sitecustomize.py").write_text(_GUARD.format(notes=str(self._notes)))
        self._prefix: Sequence[str] = UNSHARE if can_unshare() else ()
        self._folder = folder

    @property
    def attempts(self) -> str:
        return self._notes.read_text() if self._notes.exists() else ""

    def python(self, code: str) -> Finished:
        return self._run("-c", code, program=DINAC[:1])

    def dinac(self, *arguments: str) -> Finished:
        return self._run(*arguments, program=DINAC)

    def _run(self, *arguments: str, program: Sequence[str]) -> Finished:
        # The Hub's client is not told that it is offline: it has to find nothing to do.
        environment = {
            "PYTHONPATH": str(self._guard),
            "HF_HUB_OFFLINE": None,
            "HF_HOME": str(self._folder / "huggingface"),
        }
        return run(
            *arguments,
            program=[*self._prefix, *program],
            cwd=self._folder,
            environment=environment,
        )


@pytest.fixture
def isolated(tmp_path: Path) -> Isolated:
    return Isolated(tmp_path)


def test_the_guard_sees_and_denies(isolated: Isolated) -> None:
    done = isolated.python("import socket; socket.create_connection(('127.0.0.1', 9))")
    assert done.code == 1
    assert "Network is unreachable" in done.err
    assert isolated.attempts.startswith("socket.")


def test_the_main_job_needs_no_network(isolated: Isolated) -> None:
    demo = isolated.dinac("demo", "try")
    assert (demo.code, demo.err) == (0, "")
    for command, first, second in (
        ("encode", "try/images", "latents"),
        ("decode", "latents", "decoded"),
        ("psnr", "try/images", "decoded"),
    ):
        done = isolated.dinac(command, first, second)
        assert (done.code, done.err) == (0, ""), command
    assert isolated.attempts == ""


def test_a_record_makes_nobody_ask_the_hub(isolated: Isolated, tmp_path: Path) -> None:
    header = RecordHeader(
        name="a.png",
        model="data-archetype/dinac_ae_d2",
        revision="main",
        latent_space="0" * 16,
        weights="0" * 16,
        precision="f32",
        patch=16,
        height=16,
        width=16,
        shape=(1, 1, 1),
    )
    for number, name in enumerate(("data-archetype/dinac_ae_d2", "https://example.org/x", "d2")):
        named = dataclasses.replace(header, model=name)
        record = pack_record(named, np.zeros((1, 1, 1), np.float32))
        (tmp_path / f"{number}.dinac").write_bytes(record)
    done = isolated.dinac("decode", "0.dinac", "1.dinac", "2.dinac", "out")
    assert done.code == 3
    assert done.err.count("neither embedded nor cached: name it with --model") == 3
    assert isolated.attempts == ""


def test_a_hub_that_is_out_of_reach_is_one_line(isolated: Isolated, tmp_path: Path) -> None:
    """The client's own word, whatever version of it this is; nothing of it stays behind."""
    save(tmp_path / "a.png")
    done = isolated.dinac("encode", "a.png", "out", "--model", "d2")
    hub = tmp_path / "huggingface/hub"
    asked, answer = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    assert asked == f"dinac: downloading data-archetype/dinac_ae_d2 (revision main) into {hub}"
    assert answer == (
        f"dinac: model data-archetype/dinac_ae_d2 (revision main) is not in the cache {hub} and "
        "not to be had: the Hub cannot be reached: run it once with a network, "
        "or take nano, which is embedded"
    )
    assert isolated.attempts != ""
    assert not (tmp_path / "out").exists()
