"""`hf://` places, which are read and never written."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from dinac_cli.errors import InputError, StorageError, UsageError
from dinac_cli.storage import remote, remote_file, urls
from dinac_cli.storage.remote import RemoteStore
from dinac_cli.storage.store import open_store

pytest.importorskip("fsspec")

FILES = {
    "datasets/o/d/README.md": b"text",
    "datasets/o/d/data/0.parquet": b"0123456789" * 100,
    "datasets/o/d/data/1.parquet": b"one",
    "datasets/o/d@refs%2Fpr%2F1/data/0.parquet": b"other",
}


class HubError(Exception):
    """An answer of the Hub, as huggingface_hub raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(
            f"{status} Client Error for url https://hf.co/x?token=hf_SECRETSECRETSECRET"
        )
        self.response = type("Response", (), {"status_code": status})()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The state of a fake Hub: its files, and the errors of the next requests."""
    from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

    state: dict[str, Any] = {"files": dict(FILES), "errors": [], "listings": 0}

    class HubFile(AbstractBufferedFile):  # type: ignore[misc]
        def _fetch_range(self, start: int, end: int) -> bytes:
            fail()
            content: bytes = state["files"][self.path]
            return content[start:end]

    def fail() -> None:
        if state["errors"]:
            raise state["errors"].pop(0)

    class Hub(AbstractFileSystem):  # type: ignore[misc]
        protocol = "hf"
        root_marker = ""

        def _describe(self, path: str) -> dict[str, Any]:
            if path not in state["files"]:
                return {"name": path, "size": 0, "type": "directory", "tree_id": "t"}
            content = state["files"][path]
            facts = {"name": path, "size": len(content), "type": "file", "last_commit": None}
            return {**facts, "blob_id": f"id{hash(content)}", "lfs": None}

        def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
            fail()
            state["listings"] += 1
            rest = [one[len(path) + 1 :] for one in state["files"] if one.startswith(f"{path}/")]
            if not rest:
                raise FileNotFoundError(path)
            found = dict.fromkeys(f"{path}/{one.split('/')[0]}" for one in rest)
            return [self._describe(one) for one in found]

        def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
            fail()
            if not any(f"{one}/".startswith(f"{path}/") for one in state["files"]):
                raise FileNotFoundError(path)
            return self._describe(path)

        def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> HubFile:
            assert mode == "rb"
            return HubFile(self, path, mode, **kwargs)

    urls._open_system.cache_clear()
    monkeypatch.setitem(import_module("fsspec.registry")._registry, "hf", Hub)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(remote_file, "READ_BLOCK_BYTES", 300)
    return state


def test_a_dataset_is_listed_and_read(hub: dict[str, Any]) -> None:
    store = RemoteStore("hf://datasets/o/d")
    assert [(one.name, one.size_bytes) for one in store.list()] == [
        ("README.md", 4),
        ("data/0.parquet", 1000),
        ("data/1.parquet", 3),
    ]
    assert store.stat("data/1.parquet") == list(store.list("data"))[1]
    assert store.read("data/1.parquet") == b"one"
    with store.open("data/0.parquet") as file:
        assert file.seek(-8, 2)
        assert file.read() == b"23456789"
        file.seek(0)
        assert file.read() == b"0123456789" * 100


def test_versions_are_the_hashes_of_the_content(hub: dict[str, Any]) -> None:
    store = RemoteStore("hf://datasets/o/d/data")
    first = list(store.list())
    assert first[0].version.startswith("blob_id-id")
    assert list(store.list()) == first
    hub["files"]["datasets/o/d/data/1.parquet"] = b"two"
    assert [
        one.version == other.version for one, other in zip(first, store.list(), strict=True)
    ] == [
        True,
        False,
    ]


def test_a_revision_is_part_of_the_url(hub: dict[str, Any]) -> None:
    store = RemoteStore("hf://datasets/o/d@refs%2Fpr%2F1/data")
    assert store.read("0.parquet") == b"other"
    assert store.locate("0.parquet") == "hf://datasets/o/d@refs%2Fpr%2F1/data/0.parquet"


def test_a_file_that_changes_is_not_mixed(hub: dict[str, Any]) -> None:
    with RemoteStore("hf://datasets/o/d/data").open("0.parquet") as file:
        file.read(10)
        hub["files"]["datasets/o/d/data/0.parquet"] = b"9876543210" * 100
        with pytest.raises(InputError, match="the file changed while it was read"):
            file.read()


def test_requests_are_made_again(hub: dict[str, Any]) -> None:
    store = RemoteStore("hf://datasets/o/d/data")
    hub["errors"] = [HubError(503), HubError(429)]
    assert len(list(store.list())) == 2
    hub["errors"] = [TimeoutError(), HubError(500)]
    assert store.read("1.parquet") == b"one"
    hub["errors"] = [HubError(502)] * 9
    with pytest.raises(StorageError, match="the place does not answer"):
        store.read("1.parquet")


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        (
            "RepositoryNotFoundError",
            401,
            "the repository does not exist or is private; check",
        ),
        ("RevisionNotFoundError", 404, "the repository does not exist or is private; check"),
        ("GatedRepoError", 403, "access is denied; check the credentials in the environment"),
        ("HfHubHTTPError", 403, "access is denied; check the credentials in the environment"),
        ("EntryNotFoundError", 404, "no such file; check the URL"),
        ("OfflineModeIsEnabled", 0, "HF_HUB_OFFLINE forbids to use the internet; unset it"),
        ("LocalTokenNotFoundError", 0, "expired; set HF_TOKEN, or run `hf auth login`"),
    ],
)
def test_errors_say_what_to_do(hub: dict[str, Any], name: str, status: int, words: str) -> None:
    cause = type(name, (HubError,), {})(status)
    error = FileNotFoundError("datasets/o/d (repository not found)")
    error.__cause__ = cause
    for each in (cause, error):
        hub["errors"] = [each]
        with pytest.raises(InputError) as caught:
            RemoteStore("hf://datasets/o/d/data").read("1.parquet")
        assert words in str(caught.value)
        assert "SECRET" not in repr(caught.value.details)


def test_nothing_is_written(hub: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="hf:// is for reading only; name a folder, s3://"):
        open_store("hf://datasets/o/d/out", for_writing=True)
    store = RemoteStore("hf://datasets/o/d")
    for work in (
        lambda: store.write("x", b""),
        lambda: store.spool("x").__enter__(),
        lambda: store.remove("data/1.parquet"),
        lambda: store.put(__file__, "x"),
    ):
        with pytest.raises(UsageError, match="hf:// is for reading only"):
            work()
    assert hub["files"] == FILES
