"""`--processes`: the same files, messages and exit codes as with one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import list_files, read_files, save
from .crashing import prepare_processes, write_crashing_image
from .processes import (
    DINAC,
    finish,
    get_client,
    make_environment,
    run,
    run_process,
    start,
    wait_until,
)

SEVERAL = ("--processes", "2", "--threads", "1")
ONE = ("--processes", "1", "--threads", "1")

pytestmark = pytest.mark.usefixtures("forks")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of several sizes in several folders, one of them bad."""
    for number in range(24):
        save(tmp_path / f"images/{number % 3}/{number:02}.png", 16 + 16 * (number % 2), 16, number)
    (tmp_path / "images/bad.png").write_text("not a picture")
    return tmp_path / "images"


def feed_reader(pipe: Path, content: bytes, process: subprocess.Popen[bytes]) -> None:
    """Writes to a named pipe once the process reads it, unless the process ends before."""
    while process.poll() is None:
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # there is no reader yet; a stopped run may never read the pipe
            time.sleep(0.01)
            continue
        with open(descriptor, "wb") as file:
            file.write(content)
        return


def test_outputs_do_not_depend_on_the_number_of_processes(images: Path, tmp_path: Path) -> None:
    several, alone = tmp_path / "several", tmp_path / "alone"
    options = ("--flip", "--posterior", "--precision", "q6")
    done = run("encode", images, several / "latents", *options, *SEVERAL)
    expected = run("encode", images, alone / "latents", *options, *ONE)
    assert (done.code, done.summary, done.err) == (3, expected.summary, expected.err)
    assert read_files(several / "latents") == read_files(alone / "latents")
    assert len(read_files(alone / "latents")) == 24

    done = run("decode", alone / "latents", several / "decoded", *SEVERAL)
    expected = run("decode", alone / "latents", alone / "decoded", *ONE)
    assert (done.code, done.summary, done.err) == (0, expected.summary, "")
    assert read_files(several / "decoded") == read_files(alone / "decoded")

    for command in (("encode", images), ("decode", alone / "latents")):
        out = several / ("latents" if command[0] == "encode" else "decoded")
        again = run(*command, out, *SEVERAL)
        assert "24 already done" in again.out


def test_a_machine_that_only_seems_to_have_a_gpu_computes_on_its_cpu(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("encode", images, tmp_path / "alone", "--model", "nano")
    monkeypatch.setattr("dinac_cli.models.registry._may_have_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    done = run("encode", images, tmp_path / "out", "--model", "nano")
    assert (done.code, done.summary, done.err) == (3, expected.summary, expected.err)
    assert read_files(tmp_path / "out") == read_files(tmp_path / "alone")


def test_records_of_a_stream_have_the_order_of_the_inputs(images: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*get_client(), "encode", images, "-", *SEVERAL],
        capture_output=True,
        env=make_environment(),
    )
    assert done.returncode == 3
    run("encode", images, tmp_path / "alone", *ONE)
    records = read_files(tmp_path / "alone")
    assert done.stdout == b"".join(records[name] for name in sorted(records))
    decoded = run("decode", "-", tmp_path / "out", *SEVERAL, stdin=done.stdout)
    assert (decoded.code, decoded.err) == (0, "")
    assert len(list_files(tmp_path / "out")) == 24


def test_the_first_undamaged_record_takes_a_name(images: Path, tmp_path: Path) -> None:
    """Also if records with the same name are in a stream."""
    run("encode", images, tmp_path / "latents")
    [first, *_] = sorted((tmp_path / "latents").rglob("*.dinac"))
    record = first.read_bytes()
    cut = record[:-5] + bytes(5)
    done = run("decode", "-", tmp_path / "out", *SEVERAL, stdin=cut + record + record)
    expected = run("decode", "-", tmp_path / "alone", *ONE, stdin=cut + record + record)
    assert (done.code, done.summary) == (3, expected.summary)
    assert sorted(done.err.splitlines()) == sorted(expected.err.splitlines())
    assert "; this record is skipped" in done.err
    assert read_files(tmp_path / "out") == read_files(tmp_path / "alone")


def test_broken_records_of_a_stream_fail(images: Path, tmp_path: Path) -> None:
    """Also those that the parent refuses: the error goes to a worker."""
    run("encode", images, tmp_path / "latents")
    [first, *_] = sorted((tmp_path / "latents").rglob("*.dinac"))
    stream = first.read_bytes() + b"not a record"
    done = run_process(
        "decode", "-", tmp_path / "out", *SEVERAL, stdin=stream, program=get_client()
    )
    expected = run("decode", "-", tmp_path / "alone", *ONE, stdin=stream)
    assert (done.code, done.summary, done.err) == (3, expected.summary, expected.err)


def test_renamed_sources_keep_their_latents(images: Path, tmp_path: Path) -> None:
    (images / "bad.png").unlink()
    assert run("encode", images, tmp_path / "out").code == 0
    (images / "0/00.png").rename(images / "0/renamed.png")
    done = run("encode", images, tmp_path / "out", "--prune", *SEVERAL)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("0 encoded with nano, 23 already done, 1 renamed")
    assert not (tmp_path / "out/0/00.png.dinac").exists()
    assert (tmp_path / "out/0/renamed.png.dinac").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_file_that_crashes_its_decoder_is_one_failure(images: Path, tmp_path: Path) -> None:
    environment = prepare_processes(tmp_path)
    write_crashing_image(images / "1/crash.png", save(tmp_path / "a.png", 32, 32, 0))
    done = run_process(
        *("encode", images, tmp_path / "out", *SEVERAL),
        program=get_client(),
        environment=environment,
    )
    assert done.code == 3
    assert [line for line in done.err.splitlines() if "crash.png" in line] == [
        f"dinac: {images}/1/crash.png: killed the worker process (SIGABRT); leave it out"
    ]
    assert "2 failed" in done.out
    assert len(list_files(tmp_path / "out")) == 24


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_the_first_signal_finishes_the_work_in_flight(images: Path, tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to all processes of the command."""
    pipe, out = images / "blocking.png", tmp_path / "out"
    os.mkfifo(pipe)
    command: list[str | Path] = [
        *DINAC,
        "encode",
        images / "0",
        images / "1",
        pipe,
        images / "2",
        out,
        *SEVERAL,
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=make_environment(),
        start_new_session=True,
    )
    wait_until(lambda: out.exists() and len(list_files(out)) >= 12, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == (
        b"dinac: finishing the work in flight; press again to stop at once\n"
    )
    content = save(tmp_path / "content.png", 32, 32, 99).read_bytes()
    feed_reader(pipe, content, process)
    done = finish(process)
    assert (done.code, done.err) == (
        130, "dinac: stopped before the end; run the same command again to continue\n"
    )  # fmt: skip
    written = list_files(out)
    assert done.out.startswith(f"{len(written)} encoded with nano")
    pipe.unlink()
    pipe.write_bytes(content)
    assert run(*map(str, command[len(DINAC) :])).code == 0
    (images / "bad.png").unlink()
    assert run("encode", images, tmp_path / "alone").code == 0
    assert {Path(name).name for name in read_files(out)} == {
        Path(name).name for name in read_files(tmp_path / "alone")
    }


def test_a_closed_pipe_ends_the_run(images: Path) -> None:
    process = start("encode", images, "-", *SEVERAL)
    assert process.stdout is not None
    assert process.stdout.read(100)
    process.stdout.close()
    process.stdout = None
    assert finish(process).code == 141
