"""Signals during a training: in a step, in the last step, while it measures, while it writes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.cli import run as run_here
from dinac_cli.training import dataset, session
from dinac_cli.training.trainer import Trainer

from .conftest import list_files, read_files, save
from .processes import finish, get_python, run_process, start, wait_until
from .test_train import QUICK

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

FINISHED = ["config.json", "model.safetensors", "training.json"]
STOPPING = "dinac: finishing the work in flight; press again to stop at once\n"
STOPPED = "dinac: stopped before the end; run the same command again to continue\n"
SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])

# Runs the program; sends two signals just before it writes the file named by the first argument.
_TWO_SIGNALS = """
import os, signal, sys
name = sys.argv.pop(1)
from dinac_cli.cli import main
from dinac_cli.storage import atomic
publish = atomic._publish
def interrupt(temporary, target, **options):
    if target.endswith(name):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    publish(temporary, target, **options)
atomic._publish = interrupt
main()
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(2):
        save(folder / f"{number}.png", 48, 48, number)
    return folder


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an undisturbed training."""
    model = tmp_path_factory.mktemp("expected") / "model"
    assert train(images, model) == 0
    return read_files(model)


def train(images: Path, model: Path, steps: int = 2) -> int:
    """Trains in this process; returns the exit code."""
    return run_here([str(part) for part in ("train", images, model, "--steps", steps, *QUICK)])


def send_in(owner: object, name: str, number: signal.Signals, *, call: int = 1) -> Any:
    """Returns `owner.name` with a signal in its `call`-th call."""
    inner: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return inner(*arguments, **options)

    return interrupted


def without_report(files: dict[str, bytes]) -> dict[str, bytes]:
    """Drops the report: its curve shows the stops."""
    return {name: data for name, data in files.items() if name != "training.json"}


@SIGNALS
def test_signal_before_the_first_step_stops_at_once(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    """No step was taken, so there is nothing to save; the other image is not read."""
    signal_and_read = send_in(dataset, "read_content", number)
    paths: list[str] = []

    def read(path: str) -> object:
        paths.append(path)
        return signal_and_read(path)

    monkeypatch.setattr(dataset, "read_content", read)
    assert train(images, tmp_path / "model") == code
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", STOPPING + STOPPED)
    assert paths == [str(images / "0.png")]
    assert list_files(tmp_path) == []


@SIGNALS
def test_signal_saves_the_state(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    model = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", send_in(Trainer, "step", number))
        assert train(images, model, steps=1_000_000) == code
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", STOPPING + STOPPED)
    assert list_files(model) == ["training.state"]
    assert train(images, model, steps=5) == 1
    assert "holds a stopped training with other steps" in capfd.readouterr().err


@SIGNALS
def test_signal_in_the_last_step_leaves_the_measurements_to_the_next_run(
    images: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    model = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", send_in(Trainer, "step", number, call=2))
        assert train(images, model) == code
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", STOPPING + STOPPED)
    assert list_files(model) == ["training.state"]
    assert train(images, model) == 0
    assert "resuming from step 2" in capfd.readouterr().err
    assert list_files(model) == FINISHED
    assert without_report(read_files(model)) == without_report(expected)


@pytest.mark.parametrize(
    ("seam", "call", "number", "code"),
    [
        ("measure_whitening", 1, signal.SIGINT, 130),
        ("write_file", 1, signal.SIGTERM, 143),
        ("write_file", 2, signal.SIGINT, 130),
        ("write_file", 3, signal.SIGTERM, 143),
    ],
)
def test_signal_after_the_last_step_lets_the_training_finish(
    images: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    seam: str,
    call: int,
    number: signal.Signals,
    code: int,
) -> None:
    model = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr(session, seam, send_in(session, seam, number, call=call))
        assert train(images, model) == code
    said = capfd.readouterr()
    assert said.err == STOPPING
    assert said.out.startswith("2 steps on 1 image; ")
    assert read_files(model) == expected
    assert train(images, model) == 0
    assert capfd.readouterr().out == f"{model} is already trained\n"


def test_second_ctrl_c_stops_immediately(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    process = start("train", images, model, "--steps", "1000000", *QUICK)
    wait_until(model.is_dir)  # the process handles signals from now on
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == STOPPING.encode()
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130
    assert not model.exists() or set(list_files(model)) <= {"training.state"}


def test_second_signal_leaves_whole_files_and_no_temporary(
    images: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    model, name = tmp_path / "model", "model.safetensors"
    program = (get_python(), "-c", _TWO_SIGNALS, name)
    done = run_process("train", images, model, "--steps", "2", *QUICK, program=program)
    assert (done.code, done.out, done.err) == (143, "", STOPPING)
    left = read_files(model)
    assert left.pop("training.state")
    assert name not in left
    assert left.items() <= expected.items()
    assert train(images, model) == 0
    assert list_files(model) == FINISHED
    assert without_report(read_files(model)) == without_report(expected)
