"""Reading one input whole, or saying why not."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from dinac_cli.errors import InputError
from dinac_cli.storage import content as content_module
from dinac_cli.storage.content import hash_file, read_content, read_stream_content


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.pic"
    path.write_bytes(b"picture" * 1000)
    return path


def test_content_and_hash(file: Path) -> None:
    content = read_content(str(file))
    assert content.data == file.read_bytes()
    assert content.sha256 == hashlib.sha256(content.data).hexdigest() == hash_file(str(file))


def test_several_pieces(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_module, "_CHUNK_BYTES", 100)
    assert read_content(str(file)).data == file.read_bytes()
    assert read_stream_content(io.BytesIO(b"x" * 1234)).data == b"x" * 1234
    assert hash_file(str(file)) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_empty_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_content(str(tmp_path / "empty")).data == b""


def test_missing_file(tmp_path: Path) -> None:
    for read in (read_content, hash_file):
        with pytest.raises(InputError, match=r"^cannot read: No such file or directory$"):
            read(str(tmp_path / "gone"))


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read: Is a directory$"):
        read_content(str(tmp_path))


def test_nothing_on_standard_input() -> None:
    with pytest.raises(InputError, match="is empty; pipe an image into it"):
        read_stream_content(io.BytesIO())


@pytest.mark.parametrize("change", ["grown", "rewritten"])
def test_change_while_it_is_read(file: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = content_module._read_bounded

    def read(opened: BinaryIO, expected: int) -> content_module.Content:
        result = real(opened, expected)
        if change == "grown":
            with file.open("ab") as more:
                more.write(b"!")
        else:
            os.utime(file, ns=(1, 1))
        return result

    monkeypatch.setattr(content_module, "_read_bounded", read)
    with pytest.raises(InputError, match="changed while it was read; run the same command again"):
        read_content(str(file))


class TestLimit:
    @pytest.fixture(autouse=True)
    def small_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(content_module, "MAX_INPUT_BYTES", 1000)
        monkeypatch.setattr(content_module, "_CHUNK_BYTES", 64)

    def test_is_not_exceeded(self, file: Path) -> None:
        file.write_bytes(b"x" * 1000)
        assert len(read_content(str(file)).data) == 1000
        assert len(read_stream_content(io.BytesIO(b"x" * 1000)).data) == 1000

    def test_stream_is_given_up_behind_it(self) -> None:
        stream = io.BytesIO(b"x" * 5000)
        with pytest.raises(InputError, match="larger than"):
            read_stream_content(stream)
        assert stream.tell() < 1200

    def test_file_is_refused_unread(self, file: Path) -> None:
        class Unread(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                raise AssertionError("read")

        with pytest.raises(InputError, match="larger than"):
            content_module._read_bounded(Unread(), expected=1001)
        file.write_bytes(b"x" * 1001)
        with pytest.raises(InputError, match="larger than"):
            read_content(str(file))


def test_pipe_with_a_name_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = b"picture" * 20000  # more than a pipe holds, so that writing goes on while it is read
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert read_content(str(pipe)).data == data
    writer.join()
