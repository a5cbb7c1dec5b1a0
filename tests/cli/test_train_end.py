"""Signals at the very end of a training: in its last step, while it measures, while it writes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.cli import run as run_here
from dinac_cli.training import session as training
from dinac_cli.training.trainer import Trainer

from .conftest import list_files, read_files, save
from .processes import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

TINY = Path(__file__).parents[1] / "golden/tiny"
QUICK = ("--init", TINY, "--crop", "32", "--batch-size", "2", "--device", "cpu", "--dtype", "f32")
FINISHED = ["config.json", "model.safetensors", "training.json"]
STOPPING = "dinac: finishing what is in flight; once more stops at once\n"
STOPPED = "dinac: stopped before the end; run the same command again to go on\n"

# Runs the program; two signals come while the file that is named first is about to be written.
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
    """The files of the training that nobody stopped."""
    model = tmp_path_factory.mktemp("expected") / "model"
    assert train(images, model) == 0
    return read_files(model)


def train(images: Path, model: Path) -> int:
    """The exit code of a training of two steps, in this process."""
    return run_here([str(part) for part in ("train", images, model, "--steps", "2", *QUICK)])


def send_in(owner: object, name: str, number: signal.Signals, *, call: int = 1) -> Any:
    """`owner.name`, with a signal in its `call`-th call from now."""
    inner: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return inner(*arguments, **options)

    return interrupted


def without_text(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files whose bytes tell nothing of stops: the curve does."""
    return {name: data for name, data in files.items() if name != "training.json"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("seam", "call"), [("measure_whitening", 1), *(("write_file", call) for call in (1, 2, 3))]
)
def test_what_is_in_flight_is_the_end(
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
        patch.setattr(training, seam, send_in(training, seam, number, call=call))
        assert train(images, model) == code
    said = capfd.readouterr()
    assert said.err == STOPPING
    assert said.out.startswith("2 steps on 1 image; ")
    assert read_files(model) == expected
    assert train(images, model) == 0
    assert capfd.readouterr().out == f"{model} is trained already\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_last_step_leaves_the_rest_to_the_next_run(
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
    assert "going on from step 2" in capfd.readouterr().err
    assert list_files(model) == FINISHED
    assert without_text(read_files(model)) == without_text(expected)


def test_a_second_signal_leaves_whole_files_and_no_temporary(
    images: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    model, name = tmp_path / "model", "model.safetensors"
    program = (sys.executable, "-c", _TWO_SIGNALS, name)
    done = run("train", images, model, "--steps", "2", *QUICK, program=program)
    assert (done.code, done.out, done.err) == (143, "", STOPPING)
    left = read_files(model)
    assert left.pop("training.state")
    assert name not in left
    assert left.items() <= expected.items()
    assert train(images, model) == 0
    assert list_files(model) == FINISHED
    assert without_text(read_files(model)) == without_text(expected)
