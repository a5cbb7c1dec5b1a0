"""Records and images through real pipes between processes."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image
from safetensors.numpy import load

from .conftest import SIZES, list_files, make_png, save
from .processes import (
    DINAC,
    Finished,
    finish,
    make_environment,
    parse_lines,
    run,
    start,
)

NAMES = list(SIZES)


def pipe(first: list[str], second: list[str], cwd: Path) -> tuple[Finished, Finished]:
    """Runs `dinac first | dinac second`."""
    source = start(*first, cwd=cwd)
    sink = start(*second, stdin=source.stdout, cwd=cwd)
    assert source.stdout is not None
    source.stdout.close()
    source.stdout = None
    return finish(source), finish(sink)


def test_one_image_through_two_pipes(work: Path) -> None:
    with (
        subprocess.Popen(["cat", work / "photos/b.png"], stdout=subprocess.PIPE) as cat,
        start("encode", "-", "-", stdin=cat.stdout) as encode,
        start("decode", "-", "-", stdin=encode.stdout) as decode,
    ):
        assert encode.stdout is not None
        encode.stdout.close()
        out, err = decode.communicate()
        assert encode.stderr is not None
        heard = encode.stderr.read().decode()
    assert (cat.returncode, encode.returncode, decode.returncode) == (0, 0, 0)
    assert heard.startswith("dinac: 1 encoded with nano (default on a CPU); ")
    assert err.decode().startswith("dinac: 1 decoded; ")
    with Image.open(io.BytesIO(out)) as decoded:
        assert (decoded.format, decoded.size) == ("PNG", SIZES["b.png"])


def test_a_folder_through_a_stream_of_records(work: Path, tmp_path: Path) -> None:
    """Records keep the input order; the report goes to stderr, because stdout holds records."""
    encoded, decoded = pipe(
        ["encode", "photos", "-", "--json"], ["decode", "-", str(tmp_path), "--json"], cwd=work
    )
    assert (encoded.code, decoded.code, decoded.err) == (0, 0, "")
    *files, summary = parse_lines(encoded.err)
    assert [entry["file"] for entry in files] == [f"photos/{name}" for name in NAMES]
    assert all(entry["status"] == "written" and "output" not in entry for entry in files)
    assert (summary["summary"], summary["written"], summary["not_inputs"]) == (True, 4, 1)
    *images, received = decoded.objects
    assert sorted(entry["file"] for entry in images) == [f"stdin: {name}" for name in NAMES]
    assert received["bytes_in"] == summary["bytes_out"]
    assert list_files(tmp_path) == list_files(work / "decoded")
    for name in list_files(tmp_path):
        with Image.open(tmp_path / name) as one, Image.open(work / "decoded" / name) as other:
            assert one.tobytes() == other.tobytes()


def test_concatenated_records_are_a_stream(work: Path, tmp_path: Path) -> None:
    """A damaged record does not end the stream, and no name is written twice."""
    a, b, small, _ = ((work / "latents" / f"{name}.dinac").read_bytes() for name in NAMES)
    damaged = bytearray(a)
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "both.dinac").write_bytes(a + b)
    shutil.copy(work / "latents/sub/deep/c.webp.dinac", tmp_path)
    done = run("decode", "both.dinac", "-", "c.webp.dinac", "out",
               stdin=bytes(damaged) + b + small, cwd=tmp_path)  # fmt: skip
    assert done.code == 3
    assert done.summary == "4 decoded, 2 failed; SIZES in TIME\n"
    assert list_files(tmp_path / "out") == ["a.jpg.png", "b.png", "c.webp.png", "sub/b.png"]
    taken = "another record of this run goes to {}; this record is skipped"
    assert sorted(done.err.splitlines()) == [
        f"dinac: stdin: a.jpg: {taken.format('a.jpg.png')}",
        f"dinac: stdin: b.png: {taken.format('b.png')}",
    ]

    two = run("decode", "-", "-", stdin=a + b)
    assert (two.code, two.out) == (2, "")
    assert two.err == (
        "dinac: standard output takes one image, but there is a second record; "
        "name an output folder instead\n"
    )


def test_lists_of_files(work: Path, tmp_path: Path) -> None:
    found = subprocess.run(
        ["find", ".", "-name", "[ab].*", "-print0"], cwd=work / "photos", capture_output=True
    )
    arguments = ("encode", "--files-from", "-", "--null", "--json", "../latents")
    done = run(*arguments, stdin=found.stdout, cwd=work / "photos")
    assert (done.code, done.err) == (0, "")
    *files, _ = done.objects
    assert sorted((entry["file"], entry["output"]) for entry in files) == [
        ("./a.jpg", "../latents/a.jpg.dinac"),
        ("./b.png", "../latents/b.png.dinac"),
        ("./sub/b.png", "../latents/sub/b.png.dinac"),
    ]

    listed = f"b.png\n{work}/photos/sub/b.png\n../outside.png\nsub/none.png\n"
    (tmp_path / "list").write_text(listed)
    root = ("--root", work / "photos")
    rooted = run("encode", "--files-from", tmp_path / "list", *root, work / "latents")
    assert (rooted.code, rooted.out) == (3, "0 encoded with nano, 2 already done, 2 failed\n")
    assert rooted.err == (
        f"dinac: ../outside.png: is outside --root {work}/photos, "
        "so its output would be outside OUT\n"
        f"dinac: {work}/photos/sub/none.png: no such file or folder; check the path\n"
    )


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the zstd program")
def test_zstd_decompresses_a_record_to_a_safetensors_file(work: Path) -> None:
    done = subprocess.run(["zstd", "-dc", work / "latents/b.png.dinac"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    tensors = load(done.stdout)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "latents.exponent": (128, 3, 4),
        "latents.mantissa": (128, 3, 4),
    }


def test_a_closed_pipe_ends_the_program_silently(tmp_path: Path) -> None:
    for number in range(8):  # 8 records of 18 kB fill a pipe
        save(tmp_path / f"{number}.png", 96, 96, number)
    with (
        start("encode", tmp_path, "-", "--precision", "f32", "--quiet") as encode,
        subprocess.Popen(["head", "-c", "10"], stdin=encode.stdout, stdout=subprocess.PIPE) as head,
    ):
        assert encode.stdout is not None
        encode.stdout.close()
        assert head.communicate()[0][4:8] == b"\x10\x00\x00\x00"
        assert encode.wait() == 141
        assert encode.stderr is not None
        assert encode.stderr.read() == b""


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("psnr", "photos", "photos", "--json"), ("encode", "photos", "latents")],
)
def test_a_pipe_without_a_reader_ends_the_program_silently(
    work: Path, arguments: tuple[str, ...]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*arguments, stdout=writer, cwd=work)
    os.close(writer)
    done = finish(process)
    assert (done.code, done.err) == (141, "")


@pytest.mark.parametrize("stream", [0, 1])
def test_closed_standard_streams_are_one_line(work: Path, stream: int) -> None:
    closing = ("<&-", ">&-")[stream]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closing}', "sh", *DINAC, "encode", "-", "-"],
        input=make_png(),
        capture_output=True,
        env=make_environment(),
    )
    assert done.returncode == 2
    expected = (
        "dinac: standard input is closed: redirect it, or name files or folders\n",
        "dinac: standard output is closed; name a file or folder\n",
    )
    assert done.stderr.decode() == expected[stream]


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_becomes_a_closed_standard_stream(tmp_path: Path, closing: str) -> None:
    probe = (
        "import contextlib, sys; from dinac_cli.cli import main\n"
        "path = sys.argv.pop(1)\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "with open(path, 'w') as file: print(file.fileno(), file=file)"
    )
    program = (sys.executable, "-c", probe, str(tmp_path / "out"), "--version")
    subprocess.run(["sh", "-c", f'exec "$@" {closing}', "sh", *program], check=True)
    assert (tmp_path / "out").read_text() == "3\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_stops_the_run(work: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = finish(start("encode", work / "photos", work / "latents", stdout=full))
    assert done.code == 1
    remedy = "free some space and run the same command again"
    assert done.err == f"dinac: output: No space left on device; {remedy}\n"


def test_empty_standard_input(tmp_path: Path) -> None:
    encoded = run("encode", "-", tmp_path / "out")
    assert (encoded.code, encoded.out) == (3, "0 encoded with nano (default on a CPU), 1 failed\n")
    assert encoded.err == "dinac: stdin: is empty; pipe an image into it\n"
    decoded = run("decode", "-", tmp_path / "out")
    assert (decoded.code, decoded.out) == (3, "0 decoded, 1 failed\n")
    assert decoded.err == "dinac: stdin: is empty; pipe records into it\n"
    assert list_files(tmp_path / "out") == []


@pytest.mark.skipif(os.name != "posix", reason="needs pipes with names")
def test_named_pipe_of_records(work: Path, tmp_path: Path) -> None:
    """A shell makes one for `<(command)`. It is read once, and each record has its own name."""
    records = b"".join((work / f"latents/{name}.dinac").read_bytes() for name in NAMES[:2])
    for number, command in enumerate(
        (["decode", "NAMED", str(tmp_path / "out")], ["verify", "NAMED"])
    ):
        named = tmp_path / f"named{number}"
        os.mkfifo(named)
        process = start(*(str(named) if word == "NAMED" else word for word in command))
        Thread(target=named.write_bytes, args=(records,), daemon=True).start()
        done = finish(process)
        assert (done.code, done.err) == (0, "")
    assert done.out.startswith("2 verified in ")
    assert list_files(tmp_path / "out") == ["a.jpg.png", "b.png"]
