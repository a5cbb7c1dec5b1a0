"""Captions in the layouts of trainers: text files, metadata.jsonl, captions.json."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from dinac_cli.errors import InputError
from dinac_cli.storage.caption_files import open_captions

NAMES = ["a.jpg", "trip/b.c.png", "trip/d.webp"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Text files beside two images."""
    (tmp_path / "trip").mkdir()
    (tmp_path / "a.txt").write_bytes("\ufeffein Bär\n".encode())
    (tmp_path / "trip/b.c.txt").write_text("two lines\nof text")
    (tmp_path / "trip/x.txt").write_text("of no image")
    return tmp_path


def test_text_files_beside_images(photos: Path) -> None:
    captions = pickle.loads(pickle.dumps(open_captions(str(photos))))
    assert [captions.find(name) for name in NAMES] == ["ein Bär", "two lines\nof text", None]
    assert list(captions.list_missing(NAMES)) == ["trip/d.webp"]


def test_lines_of_metadata_come_first(photos: Path) -> None:
    (photos / "metadata.jsonl").write_text(
        '{"file_name": "a.jpg", "text": "one", "label": 3}\n\n'
        '{"file_name": "trip/d.webp", "text": ""}\n'
    )
    captions = open_captions(str(photos))
    assert [captions.find(name) for name in NAMES] == ["one", "two lines\nof text", ""]
    assert list(captions.list_missing(NAMES)) == []
    table = open_captions(str(photos / "metadata.jsonl"))  # the table alone
    assert [table.find(name) for name in NAMES] == ["one", None, ""]
    assert list(table.list_missing(NAMES)) == ["trip/b.c.png"]


def test_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    caption = "one\u2028two\x85three"
    line = json.dumps({"file_name": "a.jpg", "text": caption}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_bytes(f"{line}\r\n{line}\r\n".encode())
    assert open_captions(str(tmp_path)).find("a.jpg") == caption


def test_values_of_captions_json(photos: Path) -> None:
    text = '{"a.jpg": ["first", "second"], "trip/d.webp": "alone"}'
    (photos / "captions.json").write_text(text)
    captions = open_captions(str(photos))
    assert [captions.find(name) for name in NAMES] == ["first", "two lines\nof text", "alone"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metadata.jsonl", b'{"file_name": "a.jpg"}\n', "not a table of captions"),
        ("metadata.jsonl", b"not JSON\n", "not a table of captions"),
        ("captions.json", b"[1]", "not a table of captions"),
        ("captions.json", b'{"a.jpg": []}', "not a table of captions"),
        ("captions.json", b'{"a.jpg": {"text": "x"}}', "not a table of captions"),
        ("captions.json", b"[" * 100_000, "not a table of captions"),
        ("captions.json", b'{"a.jpg": "\xff"}', "not UTF-8"),
        ("captions.json", b'{"a.jpg": "%b"}' % (b"x" * (2**20 + 1)), "not a table of captions"),
    ],
)
def test_damaged_tables_are_one_line(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        open_captions(str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("metadata.jsonl", '\n{"file_name": "a", "prompt": ""}', 'line 2: no key "text"; found '
         '"file_name", "prompt"'),
        ("metadata.jsonl", '{"file_name": "a", "text": 3}', 'line 1: the value of "text" is not a'),
        ("metadata.jsonl", '{"text": "', "line 1: not valid JSON"),
        ("metadata.jsonl", "[]", 'line 1: not an object with "file_name" and "text"'),
        ("captions.json", '{\n"a": "", }', "line 2: not valid JSON"),
        ("captions.json", '{"p/a.jpg": {"caption": ""}}', 'the value of "p/a.jpg" is not a text, '
         'but an object with "caption"'),
    ],
)  # fmt: skip
def test_a_damaged_table_is_explained(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        open_captions(str(tmp_path))
    assert f"not a table of captions: {problem}" in str(caught.value)
    assert len(caught.value.details) == ("JSON" in problem)


def test_what_was_looked_for(photos: Path) -> None:
    table = photos / "captions.json"
    assert open_captions(str(photos)).describe_lack("trip/d.webp") == f"no {photos / 'trip/d.txt'}"
    table.write_text("{}")
    assert open_captions(str(table)).describe_lack("x.jpg") == f'no "x.jpg" in {table}'
    lacking = f'no {photos / "x.txt"}, no "x.jpg" in {table}'
    assert open_captions(str(photos)).describe_lack("x.jpg") == lacking


def test_a_file_that_is_no_caption(photos: Path) -> None:
    (photos / "a.txt").write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        open_captions(str(photos)).find("a.jpg")
    (photos / "a.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        open_captions(str(photos)).find("a.jpg")


def test_what_is_no_file_is_no_caption(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()  # a named pipe would block
    with pytest.raises(InputError, match=r"a\.txt: is no file"):
        open_captions(str(tmp_path)).find("a.jpg")


def test_a_place_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_captions(str(tmp_path / "gone"))
