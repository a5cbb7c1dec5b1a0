"""`--device` with several devices: the same files, messages and exit codes as with one device.

Two CPU "devices" stand for two GPUs.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from dinac_cli.codec import compute
from dinac_cli.jobs.executor import pool
from dinac_cli.models import device

from .conftest import list_files, read_files, save
from .crashing import prepare_processes, write_crashing_image
from .processes import get_python, make_environment, run, run_process

TWO = ("--device", "cpu,cpu", "--threads", "1")
ONE = ("--device", "cpu", "--threads", "1", "--processes", "1")

# `cpu,cpu` names two devices.
SITE = """
from dinac_cli.codec import compute

parse = compute.parse_devices
compute.parse_devices = lambda text: ("cpu", "cpu") if text == "cpu,cpu" else parse(text)
"""


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes of this process are forks, which saves the import of torch."""
    monkeypatch.setattr(sys, "executable", get_python())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of several sizes in several folders, one of them bad."""
    for number in range(40):
        save(tmp_path / f"images/{number % 3}/{number:02}.png", 16 + 16 * (number % 2), 16, number)
    (tmp_path / "images/bad.png").write_text("not a picture")
    return tmp_path / "images"


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Lets `cpu,cpu` name two devices. Returns the number of processes started on each one."""
    parse, started = compute.parse_devices, Counter[int]()

    def parse_two(text: str) -> tuple[str, ...]:
        return ("cpu", "cpu") if text == "cpu,cpu" else parse(text)

    class Process(pool._Process[Any]):
        def __init__(self, assignment: Any, on: Any) -> None:
            started[id(on)] += 1
            assert on.name == "cpu"
            super().__init__(assignment, on)

    monkeypatch.setattr(compute, "parse_devices", parse_two)
    monkeypatch.setattr(pool, "_Process", Process)
    # Parts of four entries, so that all processes have work.
    monkeypatch.setattr(pool, "FIRST_PART", pool.LEAST_PART)
    monkeypatch.setattr(pool, "MOST_PART", pool.LEAST_PART)
    return started


@pytest.mark.parametrize(
    ("options", "shares"), [((), [1, 1]), (("--processes", "4"), [2, 2])], ids=["2", "4"]
)
def test_outputs_do_not_depend_on_the_devices(
    images: Path,
    tmp_path: Path,
    two_devices: Counter[int],
    options: tuple[str, ...],
    shares: list[int],
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    done = run("encode", images, two / "latents", *TWO, *options)
    assert list(two_devices.values()) == shares
    expected = run("encode", images, one / "latents", *ONE)
    assert (done.code, done.summary, done.err) == (3, expected.summary, expected.err)
    assert read_files(two / "latents") == read_files(one / "latents")
    assert len(read_files(one / "latents")) == 40

    two_devices.clear()
    done = run("decode", one / "latents", two / "decoded", *TWO, *options)
    assert list(two_devices.values()) == shares
    expected = run("decode", one / "latents", one / "decoded", *ONE)
    assert (done.code, done.summary, done.err) == (0, expected.summary, "")
    assert read_files(two / "decoded") == read_files(one / "decoded")

    for command, source, out in (
        ("encode", images, "latents"),
        ("decode", one / "latents", "decoded"),
    ):
        again = run(command, source, two / out, *TWO, *options)
        assert "40 already done" in again.out


def test_streams_have_the_order_of_the_inputs(images: Path, tmp_path: Path) -> None:
    environment = prepare_processes(tmp_path, SITE)
    (images / "bad.png").unlink()
    out = tmp_path / "all.dinac"
    done = encode_to_stream(images, out, environment)
    assert done == (0, "")
    run("encode", images, tmp_path / "one", *ONE)
    records = read_files(tmp_path / "one")
    assert out.read_bytes() == b"".join(records[name] for name in sorted(records))
    decoded = run_process(
        *("decode", "-", tmp_path / "out", *TWO),
        stdin=out.read_bytes(),
        program=fork_dinac(),
        environment=environment,
    )
    assert (decoded.code, decoded.err) == (0, "")
    assert len(list_files(tmp_path / "out")) == 40


def fork_dinac() -> tuple[str, ...]:
    """The program, as a fork that runs the module of `prepare_processes` at its start."""
    return (get_python(), "-m", "dinac_cli")


def encode_to_stream(images: Path, out: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Encodes to standard output. Returns the exit code, and what is no summary on stderr."""
    command: list[str | Path] = [*fork_dinac(), "encode", images, "-", *TWO, "-q"]
    with open(out, "wb") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.PIPE, env=make_environment(environment)
        )
    return done.returncode, done.stderr.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_file_that_kills_a_worker_is_one_failure(images: Path, tmp_path: Path) -> None:
    environment = prepare_processes(tmp_path, SITE)
    write_crashing_image(images / "1/crash.png", save(tmp_path / "a.png", 32, 32, 0))
    done = run_process(
        *("encode", images, tmp_path / "out", *TWO), program=fork_dinac(), environment=environment
    )
    assert done.code == 3
    assert [line for line in done.err.splitlines() if "crash.png" in line] == [
        f"dinac: {images}/1/crash.png: killed the worker process (SIGABRT); leave it out"
    ]
    assert "2 failed" in done.out
    (images / "1/crash.png").unlink()
    assert run("encode", images, tmp_path / "one", *ONE).code == 3
    assert read_files(tmp_path / "out") == read_files(tmp_path / "one")


@pytest.mark.parametrize("model", ["auto", "nano"])
def test_each_worker_computes_on_its_own_device(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """The parent takes both devices for real; their workers look for them."""
    monkeypatch.setattr(device, "resolve_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(device, "describe_unlike", lambda names: None)
    options = ("--model", model, "--device", "cuda:98,cuda:99", "--processes", "2")
    for command in ("encode photos", "decode latents"):
        done = run(*command.split(), tmp_path / "out", *options, cwd=work)
        assert done.code == 1
        assert done.err.startswith("dinac: device cuda:98 is not available; torch finds only ")


def test_an_image_on_standard_input_has_the_first_device(
    images: Path, tmp_path: Path, two_devices: Counter[int]
) -> None:
    stdin = (images / "0/00.png").read_bytes()
    done = run("encode", "-", tmp_path / "one.dinac", *TWO, stdin=stdin)
    assert (done.code, done.err) == (0, "")
    assert not two_devices


def test_unlike_devices_are_named_in_one_line(
    images: Path, tmp_path: Path, two_devices: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        device, "describe_unlike", lambda names: "cuda:0 (NVIDIA H200), cuda:1 (NVIDIA L4)"
    )
    (images / "bad.png").unlink()
    done = run("encode", images, tmp_path / "out", *TWO)
    assert (done.code, done.err) == (
        0,
        "dinac: the devices differ: cuda:0 (NVIDIA H200), cuda:1 (NVIDIA L4); the bytes of their "
        "outputs may differ\n",
    )


@pytest.mark.usefixtures("two_devices")
def test_each_device_needs_a_process(images: Path, tmp_path: Path) -> None:
    done = run("encode", images, tmp_path / "out", *TWO, "--processes", "1")
    assert (done.code, done.err) == (
        2,
        "dinac: --processes 1: 2 devices need at least as many processes; use more processes, or "
        "name fewer devices\n",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("two_devices")
def test_the_variable_may_name_several_devices(images: Path, tmp_path: Path) -> None:
    variable = {"DINAC_DEVICE": "cpu,cpu"}
    done = run("encode", images, tmp_path / "two", "--threads", "1", environment=variable)
    expected = run("encode", images, tmp_path / "one", *ONE)
    assert (done.code, done.summary) == (3, expected.summary)
    assert read_files(tmp_path / "two") == read_files(tmp_path / "one")
    duplicate = run("encode", images, "x", environment={"DINAC_DEVICE": "cuda:0,cuda:0"})
    assert (duplicate.code, duplicate.err) == (
        2,
        "dinac: DINAC_DEVICE=cuda:0,cuda:0: cuda:0 is named twice; name each device once\n",
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("all", "device all is not available; torch finds no CUDA device; "),
        ("cuda:0,cuda:1", "device cuda:0 is not available; torch finds only cpu; "),
    ],
)
def test_missing_devices_are_an_error(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for command in ("encode photos", "decode latents"):
        line: list[str | Path] = [*command.split(), tmp_path / "out"]
        done = run(*line, "--device", value, cwd=work)
        assert (done.code, done.out) == (1, "")
        assert done.err == f"dinac: {message}use --device auto\n"
        done = run(*line, cwd=work, environment={"DINAC_DEVICE": value})
        assert done.code == 1
        assert done.err.startswith(f"dinac: DINAC_DEVICE={value}: device ")
    assert list_files(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "who"),
    [
        ("plan photos latents", "a plan"),
        ("plan photos latents --quick", "a plan"),
        ("encode photos latents --dry-run", "a plan"),
        ("features latents out.safetensors", "features"),
        ("verify latents --source photos --reencode 5%", "--reencode"),
        ("bench", "bench"),
        ("doctor", "doctor"),
        ("train photos out --steps 1", "train"),
    ],
)
def test_other_commands_refuse_several_devices(work: Path, line: str, who: str) -> None:
    for value in ("all", "cuda:0,cuda:1"):
        message = f"{who} computes on one device; name one device"
        done = run(*line.split(), "--device", value, cwd=work)
        assert (done.code, done.err) == (2, f"dinac: --device {value}: {message}\n")
        done = run(*line.split(), cwd=work, environment={"DINAC_DEVICE": value})
        assert (done.code, done.err) == (2, f"dinac: DINAC_DEVICE={value}: {message}\n")


def test_verify_without_a_model_needs_no_device(work: Path) -> None:
    done = run("verify", "latents", cwd=work, environment={"DINAC_DEVICE": "all"})
    assert (done.code, done.err) == (0, "")
