"""All stores behave alike: a folder, memory and S3."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinac_cli.errors import InputError, UsageError
from dinac_cli.storage.local import LocalStore
from dinac_cli.storage.remote import RemoteStore
from dinac_cli.storage.store import Store, open_store, split_place

from ..s3 import FaultyS3


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    if request.param == "folder":
        yield open_store(str(tmp_path / "store"), for_writing=True)
    elif request.param == "memory":
        pytest.importorskip("fsspec")
        yield open_store(f"memory://{uuid.uuid4()}/store", for_writing=True)
    else:
        server: FaultyS3 = request.getfixturevalue("faulty_s3")
        yield open_store(f"{server.url}/store/", for_writing=True)


def list_names(store: Store, folder: str = "") -> list[str]:
    return [found.name for found in store.list(folder)]


class TestFiles:
    def test_written_files_are_read(self, store: Store) -> None:
        contents = {"a": b"", "b.tar": b"1234", "c/d/e.json": bytes(range(256)) * 9}
        for name, data in contents.items():
            store.write(name, data)
        for name, data in contents.items():
            assert store.read(name) == data
            assert store.stat(name) in list(store.list())
            with store.open(name) as file:
                assert file.read(2) == data[:2]
                assert file.read() == data[2:]
                assert file.read(1) == b""
        assert {found.name: found.size_bytes for found in store.list()} == {
            name: len(data) for name, data in contents.items()
        }

    def test_a_file_is_replaced(self, store: Store) -> None:
        store.write("a", b"one")
        before = store.stat("a")
        store.write("a", b"three")
        assert store.read("a") == b"three"
        assert store.stat("a") != before

    def test_a_file_is_removed(self, store: Store) -> None:
        store.write("a/b", b"")
        store.remove("a/b")
        store.remove("a/b")
        store.remove("never/there")
        assert store.stat("a/b") is None
        assert list_names(store) == []

    def test_a_missing_file_is_one_line(self, store: Store) -> None:
        store.write("a", b"")
        assert store.stat("none") is None
        assert store.stat("no/ne") is None
        for work in (store.read, store.open):
            with pytest.raises(InputError) as caught:
                work("none")
            assert str(caught.value).startswith(f"{store.locate('none')}: ")
            assert "; check the " in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_reading_is_bounded(self, store: Store) -> None:
        store.write("a", b"1234")
        assert store.read("a", 4) == b"1234"
        with pytest.raises(InputError, match="larger than 3 bytes"):
            store.read("a", 3)

    def test_an_open_file_can_be_searched(self, store: Store) -> None:
        store.write("a", bytes(range(100)))
        with store.open("a") as file:
            assert file.seekable()
            assert file.seek(-4, 2) == 96
            assert file.read() == bytes(range(96, 100))
            assert file.seek(10) == 10
            assert file.read(2) == b"\x0a\x0b"
            assert file.seek(3, 1) == file.tell() == 15
            assert file.read(1) == b"\x0f"

    def test_two_readers_of_one_file_do_not_meet(self, store: Store) -> None:
        store.write("a", b"0123456789")
        with store.open("a") as one, store.open("a") as other:
            assert one.read(3) == b"012"
            assert other.read(5) == b"01234"
            assert one.read() == b"3456789"


class TestSpool:
    def test_content_appears_when_it_is_committed(self, store: Store) -> None:
        with store.spool("a/b.tar") as spool:
            spool.write(b"one, ")
            spool.write(b"two")
            assert store.stat("a/b.tar") is None
            assert list_names(store) == []
            spool.commit()
        assert store.read("a/b.tar") == b"one, two"

    def test_without_commit_nothing_remains(self, store: Store) -> None:
        store.write("a", b"old")
        with store.spool("a") as spool:
            spool.write(b"new")
        with store.spool("b") as spool:
            spool.write(b"new")
        assert store.read("a") == b"old"
        assert list_names(store) == ["a"]

    def test_an_exception_leaves_nothing(self, store: Store) -> None:
        with pytest.raises(ZeroDivisionError), store.spool("a") as spool:  # noqa: PT012
            spool.write(b"new")
            raise ZeroDivisionError
        assert list_names(store) == []


class TestListing:
    NAMES = (
        "a",
        "a.tar",
        "b-c",
        "b/1",
        "b/2/3",
        "b0",
        ".hidden",
        "_dinac/run.json",
        "ü ñ#?%20.png",
    )

    def test_names_are_sorted_as_texts(self, store: Store) -> None:
        for name in reversed(self.NAMES):
            store.write(name, b"")
        assert list_names(store) == sorted(self.NAMES)
        assert list_names(store, "b") == ["b/1", "b/2/3"]
        assert list_names(store, "b/2") == ["b/2/3"]
        assert [one.name for one in store.list("b", recursive=False)] == ["b/1"]
        assert [one.name for one in store.list(recursive=False)] == sorted(
            name for name in self.NAMES if "/" not in name
        )
        for name in self.NAMES:
            assert store.read(name) == b""

    def test_a_missing_folder_has_no_files(self, store: Store) -> None:
        assert list_names(store) == []
        store.write("a", b"")
        assert list_names(store, "b") == []
        assert list_names(store, "a") == []

    def test_a_folder_whose_name_begins_like_another(self, store: Store) -> None:
        store.write("b/1", b"")
        store.write("bb/2", b"")
        assert list_names(store, "b") == ["b/1"]

    def test_each_listing_is_fresh(self, store: Store) -> None:
        store.write("a/1", b"")
        assert list_names(store) == ["a/1"]
        same = open_store(store.place, for_writing=True)
        same.write("a/2", b"")
        assert list_names(store) == ["a/1", "a/2"]
        same.remove("a/1")
        assert list_names(store) == ["a/2"]
        assert store.stat("a/1") is None

    def test_versions_are_stable_until_the_content_changes(self, store: Store) -> None:
        store.write("a", b"1")
        if not store.is_remote:  # a disk's clock may be as coarse as 10 ms
            os.utime(store.locate("a"), (1e9, 1e9))
        first = next(store.list())
        assert first == next(store.list()) == store.stat("a")
        assert first.version
        store.write("a", b"2")
        assert next(store.list()).version != first.version


class TestProcesses:
    def test_a_pickled_store_works(self, store: Store) -> None:
        store.write("a", b"1")
        copied = pickle.loads(pickle.dumps(store))
        assert copied.read("a") == b"1"
        assert copied.locate("a") == store.locate("a")

    def test_threads_share_a_store(self, store: Store) -> None:
        problems: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(3):
                    name = f"{number}/{turn}"
                    store.write(name, name.encode())
                    assert store.read(name) == name.encode()
                    assert list_names(store, str(number))[-1] == name
                    with store.open("shared") as file:
                        assert file.read() == b"shared" * 100
            except BaseException as exc:
                problems.append(exc)

        store.write("shared", b"shared" * 100)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems
        assert len(list_names(store)) == 13


def test_kind_of_store(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    assert isinstance(open_store(str(tmp_path)), LocalStore)
    assert isinstance(open_store("memory://a"), RemoteStore)
    assert not open_store(str(tmp_path)).is_remote
    assert open_store("memory://a").is_remote


@pytest.mark.parametrize("url", ["hf://datasets/o/d", "https://example.com/a", "sftp://host/a"])
def test_some_places_are_never_written(url: str) -> None:
    with pytest.raises(UsageError, match="is for reading only; name a folder, s3:// or gs://"):
        open_store(url, for_writing=True)


@pytest.mark.parametrize(
    ("path", "place", "name"),
    [
        ("a/b/x.tar", "a/b", "x.tar"),
        ("x.tar", "", "x.tar"),
        ("s3://b/a/x.tar", "s3://b/a", "x.tar"),
        ("s3://b/x?1#2", "s3://b", "x?1#2"),
        ("https://h/a/x.tar", "https://h/a", "x.tar"),
        ("https://h/a/x.tar?sig=a/b", "https://h/a?sig=a/b", "x.tar"),
    ],
)
def test_place_and_name_of_a_file(path: str, place: str, name: str) -> None:
    assert split_place(path) == (place, name)


def test_folders_need_no_package() -> None:
    program = (
        "import sys\n"
        "from dinac_cli.storage import braces, store\n"
        "list(braces.expand_braces('{1..2}'))\n"
        "list(store.open_store('none', for_writing=True).list())\n"
        "assert not {'fsspec', 's3fs', 'aiohttp', 'botocore'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
