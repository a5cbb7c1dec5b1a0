"""Names with brace ranges, patterns and queries stand for files."""

from __future__ import annotations

import uuid

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.jobs.shards.expansion import expand_place, is_pattern, list_ahead
from dinac_cli.jobs.shards.shard import ShardKind, find_kind
from dinac_cli.storage.store import Stat, open_store


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("a/x.TAR", ShardKind.TAR),
        ("s3://b/x.parquet", ShardKind.PARQUET),
        ("https://host/x.tar?X-Amz-Signature=a.b/c", ShardKind.TAR),
        ("https://host/a.jpg?name=x.tar", ShardKind.LOOSE),
        ("photos/", ShardKind.LOOSE),
    ],
)
def test_the_suffix_before_a_query_decides_the_kind(place: str, kind: ShardKind) -> None:
    assert find_kind(place) is kind


def test_a_query_of_a_web_address_is_no_pattern() -> None:
    url = "https://host/{0..1}.tar?a=[1]"
    assert not is_pattern(url)
    assert is_pattern("s3://b/?.tar")
    assert list(expand_place(url, {})) == [f"https://host/{n}.tar?a=[1]" for n in "01"]


def test_a_remote_pattern_matches_one_folder() -> None:
    place = f"memory://{uuid.uuid4()}"
    store = open_store(place, for_writing=True)
    for name in ("a/2.tar", "a/1.tar", "a/1.txt", "a/b/3.tar"):
        store.write(name, b"")
    assert list(expand_place(f"{place}/a/*.tar", {})) == [f"{place}/a/{n}.tar" for n in "12"]
    with pytest.raises(UsageError, match="no file matches this pattern"):
        list(expand_place(f"{place}/a/*.png", {}))
    with pytest.raises(UsageError, match="only the last part of a URL may be a pattern"):
        list(expand_place(f"{place}/*/1.tar", {}))


def test_many_remote_files_are_listed_at_once() -> None:
    place = f"memory://{uuid.uuid4()}"
    open_store(place, for_writing=True).write("0.tar", b"x")
    places = [f"{place}/{number}.tar" for number in range(8)]
    listed: dict[str, dict[str, Stat]] = {}
    list_ahead(places[:7], listed)
    list_ahead([f"https://host/{number}.tar" for number in range(9)], listed)
    assert listed == {}
    list_ahead(places, listed)
    assert {folder: list(files) for folder, files in listed.items()} == {place: ["0.tar"]}
