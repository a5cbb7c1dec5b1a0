"""An input is read completely, or the error says why not."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import threading
from pathlib import Path

import pytest

from dinac_cli.errors import InputError
from dinac_cli.storage import content as content_module
from dinac_cli.storage.content import hash_file, read_content, read_stream_content


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.pic"
    path.write_bytes(b"picture" * 1000)
    return path


def test_content_and_hash_are_those_of_the_file(file: Path) -> None:
    content = read_content(str(file))
    assert content.data == file.read_bytes()
    assert content.sha256 == hashlib.sha256(content.data).hexdigest() == hash_file(str(file))


def test_file_is_read_in_several_pieces(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_module, "_CHUNK_BYTES", 100)
    assert read_content(str(file)).data == file.read_bytes()
    assert read_stream_content(io.BytesIO(b"x" * 1234)).data == b"x" * 1234
    assert hash_file(str(file)) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_empty_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_content(str(tmp_path / "empty")).data == b""


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    for read in (read_content, hash_file):
        with pytest.raises(
            InputError, match=r"^cannot read: No such file or directory; check the path"
        ):
            read(str(tmp_path / "gone"))


def test_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read: Is a directory; check the path"):
        read_content(str(tmp_path))


def test_empty_standard_input_is_an_error() -> None:
    with pytest.raises(InputError, match="is empty; pipe an image into it"):
        read_stream_content(io.BytesIO())


@pytest.mark.parametrize("change", ["grown", "rewritten"])
def test_file_that_changes_during_the_read_is_an_error(
    file: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstat
    calls = itertools.count()

    def fstat(descriptor: int) -> os.stat_result:
        if next(calls) == 1:  # the second call follows the read
            if change == "grown":
                os.truncate(file, file.stat().st_size + 1)
            else:
                os.utime(file, ns=(1, 1))
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(InputError, match="changed while it was read; run the same command again"):
        read_content(str(file))


class TestLimit:
    @pytest.fixture(autouse=True)
    def small_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(content_module, "MAX_INPUT_BYTES", 1000)
        monkeypatch.setattr(content_module, "_CHUNK_BYTES", 64)

    def test_content_at_the_limit_is_read(self, file: Path) -> None:
        file.write_bytes(b"x" * 1000)
        assert len(read_content(str(file)).data) == 1000
        assert len(read_stream_content(io.BytesIO(b"x" * 1000)).data) == 1000

    def test_stream_is_abandoned_just_above_the_limit(self) -> None:
        stream = io.BytesIO(b"x" * 5000)
        with pytest.raises(InputError, match="larger than"):
            read_stream_content(stream)
        assert stream.tell() < 1200

    def test_file_above_the_limit_is_refused_without_a_read(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Unread(io.FileIO):
            def read(self, size: int | None = -1) -> bytes:
                raise AssertionError("read")

        file.write_bytes(b"x" * 1001)
        monkeypatch.setattr(content_module, "open", Unread, raising=False)
        with pytest.raises(InputError, match="larger than"):
            read_content(str(file))


def test_named_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = b"picture" * 20000  # more than a pipe buffers, so reads and writes alternate
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert read_content(str(pipe)).data == data
    writer.join()
