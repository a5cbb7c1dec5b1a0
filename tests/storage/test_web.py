"""Files of web servers: with and without ranges, signed, cut, changed."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.errors import DinacError, InputError, OutputError, StorageError, UsageError
from dinac_cli.storage import remote, remote_file
from dinac_cli.storage.remote import RemoteStore
from dinac_cli.storage.store import open_store, split_place

CONTENT = b"0123456789" * 500
SECRET = "aSECRETb"

pytest.importorskip("aiohttp")


@dataclass
class Web:
    """A web server with one file, `/d/x.tar`. Each GET uses one of `faults`."""

    port: int = 0
    content: bytes = CONTENT
    etag: str = '"1"'
    has_ranges: bool = True
    has_size: bool = True
    refuses_head: bool = False
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD as the server's `Web` says."""

    web: Web

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        web, is_head = self.web, self.command == "HEAD"
        web.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        web.authorizations += self.headers.get_all("Authorization", [])
        fault = "" if is_head or not web.faults else web.faults.pop(0)
        if fault.isdecimal() or (is_head and web.refuses_head):
            self.send_error(int(fault or 403))
        elif fault == "drop":
            self.close_connection = True
        elif self.path.partition("?")[0] not in ("/d/x.tar", "/d/x%20y.tar"):
            self.send_error(404)
        else:
            self._send(web, is_head, fault)

    def _send(self, web: Web, is_head: bool, fault: str) -> None:
        start = self._find_start(web)
        body = web.content[start:]
        self.send_response(206 if start else 200)
        if web.has_size:
            self.send_header("Content-Length", str(len(body)))
        if start:
            end = len(web.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.send_header("ETag", web.etag)
        self.end_headers()
        if not is_head:
            self.wfile.write(body[: len(body) // 2] if fault in ("cut", "hold") else body)
            if fault == "hold":
                web.gate.wait(60)

    def _find_start(self, web: Web) -> int:
        found = self.headers.get("Range", "") if web.has_ranges else ""
        return int(found.removeprefix("bytes=").rstrip("-")) if found else 0

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are in `Web.requests`."""


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(remote_file, "READ_BLOCK_BYTES", 1000)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    web = Web()
    handler = type("OwnHandler", (Handler,), {"web": web})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        web.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield web
        server.shutdown()


def read(web: Web, name: str = "x.tar") -> bytes:
    with RemoteStore(f"{web.url}/d").open(name) as file:
        return file.read()


class TestReading:
    def test_one_request_reads_a_file(self, web: Web) -> None:
        assert read(web) == CONTENT
        assert web.requests == ["GET /d/x.tar"]

    def test_reading_is_bounded(self, web: Web) -> None:
        store = RemoteStore(f"{web.url}/d")
        assert store.read("x.tar") == CONTENT
        with pytest.raises(InputError, match="larger than 9 bytes"):
            store.read("x.tar", 9)

    @pytest.mark.parametrize("has_ranges", [True, False])
    @pytest.mark.parametrize("fault", ["cut", "drop", "503", "429"])
    def test_a_broken_connection_continues_where_it_was(
        self, web: Web, has_ranges: bool, fault: str
    ) -> None:
        web.has_ranges = has_ranges
        web.faults = ["cut", fault]
        assert read(web) == CONTENT
        assert len(web.requests) == 3

    def test_the_part_that_arrived_is_not_fetched_again(self, web: Web) -> None:
        web.faults = ["hold"]
        with RemoteStore(f"{web.url}/d").open("x.tar") as file:
            start = file.read(10)
            web.gate.set()
            assert start + file.read() == CONTENT
        assert web.requests[0] == "GET /d/x.tar"
        assert web.requests[1] in {f"GET /d/x.tar bytes={number}000-" for number in (1, 2)}

    def test_a_file_is_searched(self, web: Web) -> None:
        with RemoteStore(f"{web.url}/d").open("x.tar") as file:
            assert file.seek(-3, 2) == len(CONTENT) - 3
            assert file.read() == b"789"
            file.seek(1234)
            assert file.read(3) == b"456"

    def test_a_file_of_unknown_size(self, web: Web) -> None:
        web.has_size = False
        assert read(web) == CONTENT
        with (
            RemoteStore(f"{web.url}/d").open("x.tar") as file,
            pytest.raises(OSError, match="size"),
        ):
            file.seek(0, 2)

    def test_a_file_that_changes_is_not_mixed(self, web: Web) -> None:
        with RemoteStore(f"{web.url}/d").open("x.tar") as file:
            web.faults = []
            assert file.read(10) == CONTENT[:10]
            web.content, web.etag = b"9" * 5000, '"2"'
            file.seek(3500)
            with pytest.raises(InputError, match="the file changed while it was read"):
                file.read()

    def test_what_is_known_of_a_file(self, web: Web) -> None:
        store = RemoteStore(f"{web.url}/d")
        assert store.stat("x.tar") == ("x.tar", 5000, "etag-1")
        web.etag = '"2"'
        assert store.stat("x.tar") == ("x.tar", 5000, "etag-2")
        assert store.stat("none") is None

    def test_names_with_spaces(self, web: Web) -> None:
        assert read(web, "x y.tar") == read(web, "x%20y.tar") == CONTENT


class TestSignedAddresses:
    def test_the_signature_is_sent_and_never_shown(self, web: Web) -> None:
        web.refuses_head = True  # a signature is for one method
        place, name = split_place(f"{web.url}/d/x.tar?X-Amz-Signature={SECRET}%2F&a=b/c")
        store = open_store(place)
        assert name == "x.tar"
        assert store.read(name) == CONTENT
        assert web.requests == [f"GET /d/x.tar?X-Amz-Signature={SECRET}%2F&a=b/c"]
        assert store.stat(name) == ("x.tar", 5000, "etag-1")
        assert store.locate(name) == f"{web.url}/d/x.tar"

    @pytest.mark.parametrize("fault", ["403", "404", "400", "503", "drop", "cut"])
    def test_errors_show_no_signature(self, web: Web, fault: str) -> None:
        place, name = split_place(f"{web.url}/d/x.tar?X-Amz-Signature={SECRET}")
        for work in (
            lambda store: store.read(name),
            lambda store: store.open(name).read(),
            lambda store: list(store.list()),
            lambda store: store.write(name, b""),
        ):
            web.faults = [fault] * 9
            with pytest.raises(DinacError) as caught:
                work(open_store(place))
            assert SECRET not in repr([str(caught.value), caught.value.details])
            assert "127.0.0.1" in str(caught.value)

    def test_a_password_in_the_url(self, web: Web) -> None:
        store = RemoteStore(f"http://user:{SECRET}@127.0.0.1:{web.port}/d")
        assert store.read("x.tar") == CONTENT
        with pytest.raises(InputError) as caught:
            store.read("none")
        assert str(caught.value) == f"{web.url}/d/none: no such file; check the URL"
        assert SECRET not in repr(caught.value.details)

    def test_a_password_in_the_netrc_file(
        self, web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login user password {SECRET}\n")
        (tmp_path / "netrc").chmod(0o600)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert read(web) == CONTENT
        expected = b64encode(f"user:{SECRET}".encode()).decode()
        assert web.authorizations == [f"Basic {expected}"]


class TestErrors:
    @pytest.mark.parametrize(
        ("fault", "kind", "words"),
        [
            ("403", InputError, "access is denied"),
            ("401", InputError, "access is denied"),
            ("404", InputError, "no such file; check the URL"),
            ("410", InputError, "no such file; check the URL"),
            ("400", InputError, "the server refused the request"),
            ("500", StorageError, "the place does not answer"),
            ("503", StorageError, "the place does not answer"),
            ("drop", StorageError, "the place does not answer"),
        ],
    )
    def test_each_status_has_its_words(
        self, web: Web, fault: str, kind: type[DinacError], words: str
    ) -> None:
        store = RemoteStore(f"{web.url}/d")
        web.refuses_head = True
        for work in (store.read, store.open, store.stat):
            web.faults = [fault] * 9
            if "no such" in words and work == store.stat:
                assert work("x.tar") is None
                continue
            with pytest.raises(kind, match=words):
                work("x.tar")

    def test_a_dead_server(self, web: Web) -> None:
        store = RemoteStore("http://127.0.0.1:9/d")
        for work in (store.read, store.stat):
            with pytest.raises(StorageError, match="the place does not answer"):
                work("x.tar")

    def test_a_folder_is_not_listed(self, web: Web) -> None:
        with pytest.raises(InputError) as caught:
            list(RemoteStore(f"{web.url}/d").list())
        assert str(caught.value) == (
            f"{web.url}/d: a web server does not list its files; "
            "name them, such as {000..099}.tar"
        )
        assert web.requests == []

    def test_nothing_is_written(self, web: Web) -> None:
        store = RemoteStore(f"{web.url}/d")
        for work in (
            lambda: store.write("x.tar", b""),
            lambda: store.spool("x.tar").__enter__(),
            lambda: store.remove("x.tar"),
            lambda: store.put(__file__, "x.tar"),
            lambda: open_store(f"{web.url}/d", for_writing=True),
        ):
            with pytest.raises((UsageError, OutputError), match="is for reading only"):
                work()
        assert web.requests == []
