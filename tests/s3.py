"""A server of S3 in this process, which fails on request: the fixture `faulty_s3`.

moto answers the requests. There is one server for each test process; each test gets it empty, with
one bucket. Programs that a test starts find it through `FaultyS3.environment`.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest

BUCKET = "bucket"
ACCOUNT = "123456789012"
REGION = "us-east-1"

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}!</Message></Error>'


@dataclass
class Fault:
    """What happens to requests that match: the first `skip` are answered, the next `times` fail.

    A request matches if its method is `method`, and its path and its query contain these texts.
    """

    act: Callable[[dict[str, Any], Callable[[], tuple[str, list[tuple[str, str]], bytes]]], Any]
    method: str
    path: str
    query: str
    skip: int
    times: int

    def meets(self, method: str, path: str, query: str) -> bool:
        """True if the request fails. Counts it."""
        if self.method not in ("", method) or self.path not in path or self.query not in query:
            return False
        self.skip -= 1
        self.times -= self.skip < 0
        return self.skip < 0 and self.times >= 0


STALL_SECONDS = 6.0


@dataclass
class FaultyS3:
    """The server, and its bucket `bucket`. Requests are logged as `GET /bucket/key?query`.

    `headers` are the variables of each request, named as in WSGI.
    """

    port: int
    requests: list[str] = field(default_factory=list)
    headers: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    bucket: str = BUCKET
    url: str = f"s3://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which clients find the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing-secret",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_MAX_ATTEMPTS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def refuse(self, status: int = 503, code: str = "SlowDown", **which: Any) -> None:
        """Answers with an error of S3, for the requests of `fail`."""

        def act(environ: dict[str, Any], answer: Any) -> Any:
            body = b"" if environ["REQUEST_METHOD"] == "HEAD" else ERROR.format(code=code).encode()
            return f"{status} {code}", [("Content-Type", "application/xml")], body

        self._add(act, **which)

    def reset(self, **which: Any) -> None:
        """Resets the connection instead of an answer."""
        self._add(lambda environ, answer: _reset(environ["werkzeug.socket"]), **which)

    def stall(self, **which: Any) -> None:
        """Says nothing for some seconds, or until the test ends; then drops the connection.

        The tests wait for 1.5 seconds; a client that starts no clock for a small upload waits on.
        """

        def act(environ: dict[str, Any], answer: Any) -> Any:
            self.released.wait(STALL_SECONDS)
            _drop(environ["werkzeug.socket"])

        self._add(act, **which)

    def cut(self, share: float = 0.5, **which: Any) -> None:
        """Sends a part of the body, then drops the connection."""

        def act(environ: dict[str, Any], answer: Any) -> Any:
            status, headers, body = answer()
            head = "".join(f"{name}: {value}\r\n" for name, value in headers)
            part = body[: int(len(body) * share)]
            connection = environ["werkzeug.socket"]
            connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + part)
            _drop(connection)

        self._add(act, **which)

    def before(self, work: Callable[[], object], **which: Any) -> None:
        """Runs `work`, then answers."""

        def act(environ: dict[str, Any], answer: Any) -> Any:
            work()
            return answer()

        self._add(act, **which)

    def _add(
        self,
        act: Any,
        method: str = "",
        path: str = "",
        query: str = "",
        skip: int = 0,
        times: int = 1,
    ) -> None:
        self.faults.append(Fault(act, method, path, query, skip, times))

    @property
    def _backend(self) -> Any:
        from moto.s3.models import s3_backends

        return s3_backends[ACCOUNT]["aws"]

    def put(self, key: str, data: bytes) -> None:
        """Makes an object, without a request."""
        self._backend.put_object(self.bucket, key, data)

    def get(self, key: str) -> bytes:
        """Returns an object, without a request."""
        content: bytes = self._backend.get_object(self.bucket, key).value
        return content

    @property
    def objects(self) -> dict[str, bytes]:
        """All objects of the bucket."""
        keys = self._backend.buckets[self.bucket].keys
        return {key: self.get(key) for key in sorted(keys)}

    @property
    def uploads(self) -> list[str]:
        """The keys of uploads that were neither completed nor ended."""
        return [
            upload.key_name for upload in self._backend.buckets[self.bucket].multiparts.values()
        ]

    def clear(self) -> None:
        """Empties the server, and forgets faults and requests."""
        self._backend.reset()
        self._backend.create_bucket(self.bucket, REGION)
        self.requests.clear()
        self.headers.clear()
        self.faults.clear()


def _drop(connection: socket.socket) -> None:
    """Ends a connection."""
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionError("werkzeug writes nothing more")


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
    )
    if os.name == "nt":
        connection.close()
    else:  # `close` waits until the files of the socket are closed
        os.close(connection.detach())
    raise ConnectionError("werkzeug writes nothing more")


class _Application:
    """moto as a WSGI application, with faults before it."""

    def __init__(self, server: FaultyS3) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            create_backend_app,
        )

        self.server = server
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path, query = (
            environ["REQUEST_METHOD"],
            unquote(environ["PATH_INFO"]),
            environ["QUERY_STRING"],
        )
        with self.lock:
            self.server.requests.append(f"{method} {path}" + (f"?{query}" if query else ""))
            self.server.headers.append({k: v for k, v in environ.items() if k.isupper()})
            faults = [each for each in self.server.faults if each.meets(method, path, query)]
        if not faults:
            answer: Iterable[bytes] = self.moto(environ, start_response)
            return answer
        status, headers, body = faults[0].act(environ, lambda: _run(self.moto, environ))
        if not environ.get("wsgi.input_terminated"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        names = {name.lower() for name, _ in headers}
        start_response(
            status, headers + [("Content-Length", str(len(body)))] * ("content-length" not in names)
        )
        return [body]


def _run(application: Any, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
    from werkzeug.test import run_wsgi_app

    body, status, headers = run_wsgi_app(application, environ, buffered=True)
    return status, list(headers), b"".join(body)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[FaultyS3]:
    """The server of this test process."""
    from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, type: str, message: str, *args: Any) -> None:
            """Requests are in `FaultyS3.requests`."""

    class Server(ThreadedWSGIServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A fault has closed the connection."""

    server = FaultyS3(port=0)
    web = Server("127.0.0.1", 0, _Application(server), handler=Quiet)
    server.port = web.server_port
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.fixture
def faulty_s3(s3_server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The server of S3, empty and without faults; the environment leads to it."""
    pytest.importorskip("s3fs")
    for name in list(os.environ):
        if name.startswith(("AWS_", "FSSPEC_")):
            monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.clear()
    s3_server.released.clear()
    yield s3_server
    s3_server.released.set()
    s3_server.clear()
