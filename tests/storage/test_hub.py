"""`hf://` places, which are read and never written."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
        ("OfflineModeIsEnabled", 0, "HF_HUB_OFFLINE is set, which forbids downloads; unset it"),
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


class FakeHub(BaseHTTPRequestHandler):
    """Answers the client of the Hub: the dataset `o/d` with one folder, and no other."""

    files: dict[str, bytes]
    requests: list[str]
    faults: list[int]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.requests.append(
            f"{self.path.partition('?')[0]} {self.headers.get('Range', '')}".strip()
        )
        path = self.path.partition("?")[0]
        if self.faults:
            self._send(self.faults.pop(0), b"{}")
        elif "/tree/main/data" in path:
            self._send_json([self._describe(name) for name in self.files])
        elif "/tree/main" in path:
            self._send_json([{"type": "directory", "path": "data", "oid": "t", "size": 0}])
        elif "/resolve/main/" in path:
            self._send_file(self.files[path.partition("/resolve/main/")[2]])
        elif path == "/api/datasets/o/d":
            self._send_json({"id": "o/d", "sha": "c" * 40, "siblings": []})
        else:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})

    def _describe(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        oid = sha1(content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def _send_file(self, content: bytes) -> None:
        start, end = self.headers["Range"].removeprefix("bytes=").split("-")
        part = content[int(start) : int(end) + 1]
        about = f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"
        self._send(206, part, {"Content-Range": about})

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are in `requests`."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    """A server that the real client takes for the Hub."""
    from fsspec.config import conf
    from huggingface_hub import constants

    files = {"data/0.parquet": b"0123456789" * 100, "data/1.parquet": b"one"}
    handler = type("Handler", (FakeHub,), {"files": files, "requests": [], "faults": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{web.server_port}"
        monkeypatch.setitem(conf, "hf", {"endpoint": address, "token": False})
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # No request goes to the Hub itself.
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(remote, "PAUSE_SECONDS", 0)
        monkeypatch.setattr(remote_file, "READ_BLOCK_BYTES", 400)
        yield handler
        web.shutdown()


def test_the_client_of_the_hub_lists_and_reads(server: type[FakeHub]) -> None:
    store = RemoteStore("hf://datasets/o/d")
    found = list(store.list())
    assert [(one.name, one.size_bytes) for one in found] == [
        ("data/0.parquet", 1000),
        ("data/1.parquet", 3),
    ]
    assert store.stat("data/1.parquet") == found[1]
    assert store.stat("data/none") is None
    assert store.read("data/1.parquet") == b"one"
    with store.open("data/0.parquet") as file:
        assert file.read() == b"0123456789" * 100
    assert any(line.endswith("bytes=400-799") for line in server.requests)


def test_listings_of_the_client_are_fresh(server: type[FakeHub]) -> None:
    store = RemoteStore("hf://datasets/o/d")
    before = list(store.list("data"))
    server.files["data/1.parquet"] = b"two"
    server.files["data/2.parquet"] = b""
    after = list(store.list("data"))
    assert [one.name for one in after] == ["data/0.parquet", "data/1.parquet", "data/2.parquet"]
    assert before[0] == after[0]
    assert before[1].version != after[1].version
    assert store.stat("data/2.parquet") == after[2]


def test_a_file_of_the_hub_that_changes_is_not_mixed(server: type[FakeHub]) -> None:
    with RemoteStore("hf://datasets/o/d/data").open("0.parquet") as file:
        file.read(1)
        server.files["data/0.parquet"] = b"9876543210" * 100
        with pytest.raises(InputError, match="the file changed while it was read"):
            file.read()


def test_errors_of_the_client_say_what_to_do(server: type[FakeHub]) -> None:
    store = RemoteStore("hf://datasets/other/private")
    for work in (lambda: list(store.list()), lambda: store.read("a"), lambda: store.stat("a")):
        with pytest.raises(InputError, match="the repository does not exist or is private; check"):
            work()
    server.faults[:] = [403]
    with pytest.raises(InputError, match="access is denied; check the credentials"):
        RemoteStore("hf://datasets/o/d").read("data/1.parquet")
    server.faults[:] = [500] * 9
    with pytest.raises(StorageError, match="the place does not answer"):
        RemoteStore("hf://datasets/o/d").read("data/1.parquet")
