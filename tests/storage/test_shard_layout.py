"""The index of shards: what is written is read, and hostile content is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dinac_cli.errors import InputError
from dinac_cli.storage import shard_layout
from dinac_cli.storage.shard_layout import IndexEntry, ShardIndex, parse_index

HASH = "0" * 64
ENTRY = {"url": "000/00042.tar", "nsamples": 3, "filesize": 10240, "sha256": HASH}


def make_index(*shards: object, **changes: object) -> bytes:
    content = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": list(shards)}
    return json.dumps({**content, **changes}).encode()


def test_what_is_written_is_read() -> None:
    entries = IndexEntry("a ü/1.tar", 3, 10240, HASH), IndexEntry("b.tar", 0, 1024, "f" * 64)
    index = ShardIndex(entries)
    assert parse_index(index.to_bytes()) == index
    assert index.total == 3
    assert parse_index(ShardIndex(()).to_bytes()) == ShardIndex(())


def test_bytes_are_those_of_the_format() -> None:
    data = ShardIndex((IndexEntry(**ENTRY),)).to_bytes()  # type: ignore[arg-type]
    assert json.loads(data) == json.loads(make_index({**ENTRY, "missed": 0, "fingerprint": ""}))
    assert data.count(b"\n") == 3


def test_unknown_keys_are_ignored() -> None:
    data = make_index({**ENTRY, "md5": [None], "x": {}}, name="set", unknown=1.5)
    assert parse_index(data).shards == (IndexEntry("000/00042.tar", 3, 10240, HASH),)


@pytest.mark.parametrize(
    "url",
    [
        "",
        None,
        7,
        ".tar/",
        "a.tar.gz",
        "/a.tar",
        "../a.tar",
        "a/../b.tar",
        "a/./b.tar",
        "a//b.tar",
        "a\\b.tar",
        "C:a.tar",
        "s3://bucket/a.tar",
        "memory://a.tar",
        "a\n.tar",
        "a\x9b.tar",
        "NUL.tar",
        "a\u202e.tar",
        "\ud800.tar",
        "a" * 252 + ".tar",
    ],
)
def test_path_outside_the_index_is_refused(url: Any) -> None:
    with pytest.raises(InputError, match=r"^shard 2 of the index: url (is|has|holds) ") as caught:
        parse_index(make_index(ENTRY, {**ENTRY, "url": url}))
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("key", ["nsamples", "filesize"])
@pytest.mark.parametrize("value", [None, -1, 1.0, True, "3", [3], float("nan"), 2**45])
def test_count_must_be_a_possible_number(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^shard 1 of the index: {key} is not a number from 0"):
        parse_index(make_index({**ENTRY, key: value}))


def test_shard_has_room_for_its_records() -> None:
    assert parse_index(make_index({**ENTRY, "nsamples": 10})).total == 10
    with pytest.raises(InputError, match=r"nsamples is not a number from 0 to 10$"):
        parse_index(make_index({**ENTRY, "nsamples": 11}))


@pytest.mark.parametrize("value", [None, 0, "", "f" * 63, "F" * 64, HASH + "\n"])
def test_hash_must_be_a_hash(value: object) -> None:
    with pytest.raises(InputError, match="sha256 is not 64 hex digits"):
        parse_index(make_index({**ENTRY, "sha256": value}))


def test_what_dinac_knows_of_a_shard_is_checked_too() -> None:
    known = {"missed": 2, "fingerprint": "0123456789abcdef"}
    [entry] = parse_index(make_index({**ENTRY, **known})).shards
    assert (entry.missed, entry.fingerprint) == (2, "0123456789abcdef")
    for wrong in ({"missed": -1}, {"missed": None}, {"fingerprint": "x"}, {"fingerprint": 0}):
        with pytest.raises(InputError, match=r"^shard 1 of the index: (missed|fingerprint) is not"):
            parse_index(make_index({**ENTRY, **wrong}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": 1, "a": 1}', "not valid JSON"),
        (b"9" * 100_000, "not valid JSON"),
        (b"[]", "not an index of shards: it lacks the kind wids-shard-index-v1"),
        (make_index(__kind__="other"), "it lacks the kind"),
        (make_index(shardlist={}), "it lacks the shardlist"),
        (make_index([]), "shard 1 of the index is not an object"),
        (make_index(ENTRY, ENTRY), "000/00042.tar occurs twice"),
    ],
)
def test_other_content_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_index(data)


def test_long_index_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_layout, "MAX_INDEX_BYTES", len(make_index(ENTRY)) - 1)
    with pytest.raises(InputError, match="the index is larger than"):
        parse_index(make_index(ENTRY))
