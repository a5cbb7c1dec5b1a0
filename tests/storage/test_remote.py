"""Remote places: what may fail, what is tried again, and what the user is told."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.errors import (
    InputError,
    OutputError,
    StorageError,
    UnwritableDiskError,
)
from dinac_cli.storage import atomic, remote, remote_file
from dinac_cli.storage.remote import RemoteStore
from dinac_cli.storage.store import Stat

from .. import s3 as faults
from ..s3 import FaultyS3

PART = 5 * 2**20  # the least that S3 takes

BUSY = "the place does not answer; check the endpoint and the network, or try again later"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0)


@pytest.fixture
def s3(faulty_s3: FaultyS3) -> FaultyS3:
    faulty_s3.put("in/a", b"0123456789" * 300)
    return faulty_s3


@pytest.fixture
def store(s3: FaultyS3) -> RemoteStore:
    return RemoteStore(s3.url)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def spool(store: RemoteStore, name: str, data: bytes) -> None:
    with store.spool(name) as content:
        content.write(data)
        content.commit()


def read_all(store: RemoteStore, name: str) -> bytes:
    with store.open(name) as file:
        return file.read()


Act = Callable[[RemoteStore], object]

READS: dict[str, tuple[str, Act, object]] = {
    "read": ("GET", lambda store: store.read("in/a"), b"0123456789" * 300),
    "open": ("GET", lambda store: read_all(store, "in/a"), b"0123456789" * 300),
    "stat": ("HEAD", lambda store: store.stat("in/a").size_bytes, 3000),  # type: ignore[union-attr]
    "list": ("GET", lambda store: [one.name for one in store.list()], ["in/a"]),
}
WRITES: dict[str, tuple[str, Act]] = {
    "write": ("PUT", lambda store: store.write("out/a", b"new")),
    "spool": ("PUT", lambda store: spool(store, "out/a", b"new")),
}
FAULTS: dict[str, Callable[..., None]] = {
    "503": FaultyS3.refuse,
    "500": lambda s3, **which: s3.refuse(500, "InternalError", **which),
    "429": lambda s3, **which: s3.refuse(429, "TooManyRequests", **which),
    "reset": FaultyS3.reset,
    "cut": FaultyS3.cut,
}


class TestPassingFailures:
    @pytest.mark.parametrize(
        ("fault", "act"),
        [each for each in itertools.product(FAULTS, READS) if each != ("cut", "stat")],
    )
    def test_reading_tries_again(
        self, s3: FaultyS3, store: RemoteStore, fault: str, act: str
    ) -> None:
        method, work, expected = READS[act]
        FAULTS[fault](s3, method=method, times=2)
        assert work(store) == expected
        assert sum(line.startswith(method) for line in s3.requests) == 3

    @pytest.mark.parametrize("fault", ["503", "500", "429", "reset"])
    @pytest.mark.parametrize("act", WRITES)
    def test_writing_tries_again(
        self, s3: FaultyS3, store: RemoteStore, fault: str, act: str
    ) -> None:
        method, work = WRITES[act]
        FAULTS[fault](s3, method=method, times=2)
        work(store)
        assert s3.get("out/a") == b"new"

    def test_a_silent_server_is_tried_again(
        self, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limit_waiting(monkeypatch, 2)  # a busy machine answers in this time
        s3.stall(method="GET")
        assert RemoteStore(s3.url).read("in/a") == b"0123456789" * 300

    @pytest.mark.parametrize("act", ["write", "spool"])
    def test_an_upload_to_a_silent_server_has_a_limit_of_its_own(
        self, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch, act: str
    ) -> None:
        limit_waiting(monkeypatch, 300)  # as if the client had started no clock
        monkeypatch.setattr(faults, "STALL_SECONDS", 300.0)
        monkeypatch.setattr(remote, "UPLOAD_SECONDS", 2)
        s3.stall(method="PUT")
        store, began = RemoteStore(s3.url), time.monotonic()
        if act == "write":
            store.write("out/a", b"new")
        else:
            with store.spool("out/a") as spool:
                spool.write(b"new")
                spool.commit()
        assert s3.get("out/a") == b"new"
        assert time.monotonic() - began < 200

    def test_the_client_of_s3_tries_again_itself(
        self, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_MAX_ATTEMPTS")
        monkeypatch.setattr(remote, "TRIES", 1)
        s3.refuse(method="GET")
        assert RemoteStore(s3.url).read("in/a") == b"0123456789" * 300

    def test_a_broken_connection_continues_where_it_was(
        self, s3: FaultyS3, store: RemoteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote_file, "READ_BLOCK_BYTES", 1000)
        s3.cut(method="GET", skip=1)
        s3.reset(method="GET", skip=2)
        s3.refuse(method="GET", skip=4)
        assert read_all(store, "in/a") == b"0123456789" * 300
        assert sum(line.startswith("GET") for line in s3.requests) == 3 + 3

    def test_a_file_that_is_not_closed_ends_its_thread(
        self, s3: FaultyS3, store: RemoteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote_file, "READ_BLOCK_BYTES", 1000)
        file = store.open("in/a")
        assert file.read(1) == b"0"
        assert any(one.name.startswith("dinac-read") for one in threading.enumerate())
        del file
        gc.collect()
        assert not any(one.name.startswith("dinac-read") for one in threading.enumerate())


class TestLastingFailures:
    @pytest.mark.parametrize("fault", ["503", "reset"])
    @pytest.mark.parametrize("act", READS)
    def test_reading_ends(self, s3: FaultyS3, store: RemoteStore, fault: str, act: str) -> None:
        method, work, _ = READS[act]
        FAULTS[fault](s3, method=method, times=99)
        with pytest.raises(StorageError) as caught:
            work(store)
        assert str(caught.value) == f"{s3.url}{'' if act == 'list' else '/in/a'}: {BUSY}"
        assert caught.value.details

    @pytest.mark.parametrize("fault", ["503", "reset"])
    @pytest.mark.parametrize("act", WRITES)
    def test_writing_ends_and_leaves_nothing(
        self, s3: FaultyS3, store: RemoteStore, fault: str, act: str, temporary: Path
    ) -> None:
        method, work = WRITES[act]
        FAULTS[fault](s3, method=method, times=99)
        with pytest.raises(StorageError) as caught:
            work(store)
        assert str(caught.value) == f"{s3.url}/out/a: {BUSY}"
        assert list(s3.objects) == ["in/a"]
        assert not list(temporary.iterdir())

    def test_a_dead_server_is_one_line(
        self, faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            with pytest.raises(StorageError, match=re.escape(BUSY)):
                list(RemoteStore(faulty_s3.url).list())

    def test_a_silent_server_is_one_line(
        self, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limit_waiting(monkeypatch, 0.2)
        s3.stall(times=99)
        with pytest.raises(StorageError, match=re.escape(BUSY)):
            RemoteStore(s3.url).read("in/a")

    def test_no_new_try_after_a_long_one(
        self, s3: FaultyS3, store: RemoteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "PATIENCE_SECONDS", -1)
        s3.refuse()
        with pytest.raises(StorageError):
            store.read("in/a")
        assert len(s3.requests) == 1

    def test_one_request_waits_for_about_a_minute(
        self, faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Four attempts of 15 seconds in the client, and no more after them."""
        monkeypatch.delenv("AWS_MAX_ATTEMPTS")
        client = read_client(RemoteStore(faulty_s3.url))
        attempts = client.meta.config.retries["total_max_attempts"]
        assert client.meta.config.read_timeout * attempts <= 60
        assert client.meta.config.connect_timeout <= 5
        assert RemoteStore(faulty_s3.url)._system.retries == 1
        assert remote.PATIENCE_SECONDS < 60


def read_client(store: RemoteStore) -> Any:
    """The client of a store, after its first request."""
    store.stat("a")
    return store._system.s3


def limit_waiting(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"config_kwargs": {"read_timeout": seconds}})


class TestSettingsOfTheUser:
    def test_attempts_of_the_environment(
        self, faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
        client = read_client(RemoteStore(faulty_s3.url))
        assert client.meta.config.retries["total_max_attempts"] == 7

    def test_attempts_of_the_configuration_file(
        self, faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("AWS_MAX_ATTEMPTS")
        (tmp_path / "config").write_text("[default]\nmax_attempts = 6\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        client = read_client(RemoteStore(faulty_s3.url))
        assert client.meta.config.retries["total_max_attempts"] == 6

    def test_fsspec_comes_first(self, faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_MAX_ATTEMPTS")
        limit_waiting(monkeypatch, 44)
        client = read_client(RemoteStore(faulty_s3.url))
        assert client.meta.config.read_timeout == 44
        assert client.meta.config.retries["total_max_attempts"] == 4

    def test_buckets_without_credentials(
        self, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from botocore import UNSIGNED
        from fsspec.config import conf

        monkeypatch.setitem(conf, "s3", {"anon": True})
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        client = read_client(RemoteStore(s3.url))
        assert client.meta.config.signature_version is UNSIGNED

    def test_places_share_a_client_until_the_environment_changes(
        self, faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, other = RemoteStore(f"{faulty_s3.url}/a"), RemoteStore("s3://another")
        assert one._system is other._system
        monkeypatch.setenv("AWS_PROFILE", "other")
        assert RemoteStore(faulty_s3.url)._system is not one._system


WRONG = [
    (403, "AccessDenied", "access is denied; check the credentials in the environment"),
    (403, "InvalidAccessKeyId", "the credentials are missing, wrong or expired; set AWS_ACCESS_"),
    (403, "SignatureDoesNotMatch", "the credentials are missing, wrong or expired; set AWS_ACC"),
    (400, "ExpiredToken", "the credentials are missing, wrong or expired; set AWS_ACCESS_KEY_ID"),
    (403, "RequestTimeTooSkewed", "the clock of this machine is wrong; set it"),
    (400, "AuthorizationHeaderMalformed", "the bucket is in another region; set AWS_DEFAULT_REG"),
    (400, "IllegalLocationConstraintException", "the bucket is in another region; set AWS_DEFAU"),
    (404, "NoSuchBucket", "the bucket does not exist; "),
    (400, "InvalidBucketName", "the URL or the endpoint is invalid; check both"),
    (400, "MalformedThing", "the server refused the request; check the URL, the region and the"),
]


class TestWrongRequests:
    @pytest.mark.parametrize(("status", "code", "words"), WRONG)
    def test_reading_and_writing_say_what_to_do(
        self, s3: FaultyS3, store: RemoteStore, status: int, code: str, words: str
    ) -> None:
        s3.refuse(status, code, times=99)
        for act, kind in ((READS["read"], InputError), (WRITES["write"], OutputError)):
            s3.requests.clear()
            with pytest.raises(kind) as caught:
                act[1](store)
            assert words in str(caught.value)
            assert "\n" not in str(caught.value)
            assert len(s3.requests) <= 2  # not tried again; botocore may look for the region

    def test_a_full_place_stops_the_run(self, s3: FaultyS3, store: RemoteStore) -> None:
        s3.refuse(507, "XMinioStorageFull", times=99)
        with pytest.raises(UnwritableDiskError, match="is full; free some space"):
            store.write("out/a", b"")

    def test_no_credentials(self, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        store = RemoteStore(s3.url)
        for act, kind in ((READS["list"], InputError), (WRITES["spool"], OutputError)):
            with pytest.raises(
                kind, match="missing, wrong or expired; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACC"
            ):
                act[1](store)

    def test_an_unknown_profile(self, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(InputError, match=r"the credentials are missing.* or AWS_PROFILE"):
            RemoteStore(s3.url).read("in/a")

    @pytest.mark.parametrize("endpoint", ["nonsense", "http://"])
    def test_an_invalid_endpoint(
        self, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch, endpoint: str
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(InputError, match="the URL or the endpoint is invalid; check both"):
            RemoteStore(s3.url).read("in/a")

    def test_an_invalid_bucket(self, faulty_s3: FaultyS3) -> None:
        with pytest.raises(InputError, match="the URL or the endpoint is invalid; check both"):
            list(RemoteStore("s3://not a bucket/x").list())

    def test_a_missing_bucket(self, faulty_s3: FaultyS3) -> None:
        store = RemoteStore("s3://missing/x")
        for act in (lambda: list(store.list()), lambda: store.stat("a"), lambda: store.read("a")):
            with pytest.raises(InputError, match="the bucket does not exist; check the URL"):
                act()
        with pytest.raises(OutputError, match="the bucket does not exist; create it, or check"):
            spool(store, "a", b"")


class TestUploads:
    @pytest.fixture(autouse=True)
    def _small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "UPLOAD_PART_BYTES", PART)

    def test_a_large_file_goes_in_parts(
        self, s3: FaultyS3, store: RemoteStore, temporary: Path
    ) -> None:
        data = os.urandom(2 * PART + 1)
        spool(store, "out/a.tar", data)
        assert s3.get("out/a.tar") == data
        assert [line.split("?")[0] for line in s3.requests] == [
            *["POST /bucket/out/a.tar", *["PUT /bucket/out/a.tar"] * 3, "POST /bucket/out/a.tar"]
        ]
        assert not list(temporary.iterdir())
        stat = store.stat("out/a.tar")
        assert stat is not None
        assert stat.version.endswith("-3")  # the hash of three hashes
        assert [stat] == list(store.list("out"))

    @pytest.mark.parametrize("step", ["part", "completion"])
    def test_a_broken_upload_leaves_nothing(
        self, s3: FaultyS3, store: RemoteStore, temporary: Path, step: str
    ) -> None:
        if step == "part":
            s3.refuse(method="PUT", query="partNumber=2", times=99)
        else:
            s3.refuse(500, "InternalError", method="POST", query="uploadId=", times=99)
        with pytest.raises(StorageError):
            spool(store, "out/a.tar", bytes(2 * PART + 1))
        assert list(s3.objects) == ["in/a"]
        assert s3.uploads == []
        assert not list(temporary.iterdir())

    def test_a_killed_upload_is_not_seen(self, s3: FaultyS3, temporary: Path) -> None:
        s3.stall(method="PUT", query="partNumber=2")
        program = (
            "from dinac_cli.storage import remote\n"
            f"remote.UPLOAD_PART_BYTES = {PART}\n"
            f"with remote.RemoteStore({s3.url!r}).spool('out/a.tar') as spool:\n"
            f"    spool.write(bytes({2 * PART + 1}))\n"
            "    spool.commit()\n"
        )
        environment = {**os.environ, **s3.environment, "TMPDIR": str(temporary)}
        child = subprocess.Popen([sys.executable, "-c", program], env=environment)
        wait_for(lambda: sum("partNumber=" in line for line in s3.requests) >= 3)
        child.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        child.wait()
        store = RemoteStore(s3.url)
        assert [one.name for one in store.list()] == ["in/a"]
        assert store.stat("out/a.tar") is None
        assert s3.uploads == ["out/a.tar"]  # a rule of the bucket ends it
        spool(store, "out/a.tar", b"next")
        assert s3.get("out/a.tar") == b"next"
        if os.name != "nt":
            assert not list(temporary.iterdir())


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for a minute")


class TestTemporaryFiles:
    def test_no_folder_is_writable(
        self, store: RemoteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> str:
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

        monkeypatch.setattr(tempfile, "gettempdir", fail)
        with pytest.raises(UnwritableDiskError, match="is writable; set TMPDIR to one"):
            spool(store, "out/a", b"")

    def test_an_upload_that_finds_nothing_is_an_error_of_writing(
        self, s3: FaultyS3, store: RemoteStore
    ) -> None:
        s3.refuse(404, "NoSuchKey", method="PUT", times=99)
        for _, work in WRITES.values():
            with pytest.raises(OutputError, match="no such file; check the URL"):
                work(store)

    def test_a_signal_removes_them(self, store: RemoteStore, temporary: Path) -> None:
        with store.spool("out/a") as content:
            content.write(b"new")
            (path,) = temporary.iterdir()
            assert path.name.startswith(atomic.TEMPORARY_PREFIX)
            if os.name != "nt":
                assert path.stat().st_mode & 0o777 == 0o600
            atomic.discard_live_temporaries()  # as signals do
            assert not path.exists()

    @pytest.mark.parametrize("step", ["open", "write", "dup"])
    def test_a_full_disk_names_the_folder(
        self, store: RemoteStore, temporary: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        def fail(*args: object, **options: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, step, fail)
            with pytest.raises(UnwritableDiskError) as caught:
                spool(store, "out/a", b"new")
        assert str(caught.value).startswith(f"the temporary folder {temporary} (TMPDIR): ")
        assert "free some space" in str(caught.value)
        assert not list(temporary.iterdir())

    def test_no_folder_for_them(
        self, store: RemoteStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
        with pytest.raises(OutputError, match=r"\(TMPDIR\): cannot write: "):
            spool(store, "out/a", b"new")


def test_no_more_than_the_bound_is_asked_for(s3: FaultyS3, store: RemoteStore) -> None:
    with pytest.raises(InputError, match="larger than 4 bytes"):
        store.read("in/a", 4)
    assert s3.headers[-1]["HTTP_RANGE"] == "bytes=0-4"


class TestChangedFiles:
    @pytest.fixture(autouse=True)
    def _small_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote_file, "READ_BLOCK_BYTES", 500)

    def test_versions_of_an_object_are_never_mixed(self, s3: FaultyS3, store: RemoteStore) -> None:
        with store.open("in/a") as file:
            assert file.read(100) == b"0123456789" * 10
            s3.put("in/a", b"9876543210" * 300)
            with pytest.raises(InputError) as caught:
                file.read()
        assert str(caught.value) == (
            f"{s3.url}/in/a: the file changed while it was read; run the same command again"
        )

    def test_an_object_that_vanishes(self, s3: FaultyS3, store: RemoteStore) -> None:
        with store.open("in/a") as file:
            file.read(100)
            store.remove("in/a")
            with pytest.raises(InputError, match="no such file; check the URL"):
                file.read()

    def test_a_place_that_does_not_check_is_asked_at_the_end(self) -> None:
        store = RemoteStore("memory://changed")
        store.write("a", b"0123456789" * 300)
        with store.open("a") as file:
            file.read(100)
            store.write("a", b"9876543210" * 300)
            with pytest.raises(InputError, match="the file changed while it was read"):
                file.read()


class TestOtherStores:
    @pytest.mark.parametrize("calculates", [True, False])
    def test_checksums_can_be_turned_off(
        self, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch, calculates: bool
    ) -> None:
        if not calculates:
            monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        RemoteStore(s3.url).write("out/a", b"1")
        named = [name for name in s3.headers[-1] if name.startswith("HTTP_X_AMZ_CHECKSUM")]
        assert bool(named) is calculates

    def test_variables_of_fsspec_are_read_as_json(self) -> None:
        from fsspec.config import set_conf_env

        found: dict[str, Any] = {}
        variables = {"FSSPEC_S3_ANON": "true", "FSSPEC_S3_CONFIG_KWARGS": '{"read_timeout": 60}'}
        set_conf_env(found, variables)
        assert found == {"s3": {"anon": True, "config_kwargs": {"read_timeout": 60}}}

    def test_the_rule_of_the_page_is_one(self, store: RemoteStore) -> None:
        page = Path(remote.__file__).with_name("PLACES.md").read_text(encoding="utf-8")
        rule = json.loads(page.partition("```json\n")[2].partition("```")[0])
        arguments = {"Bucket": "bucket", "LifecycleConfiguration": rule}
        store._system.call_s3("put_bucket_lifecycle_configuration", **arguments)
        held = store._system.call_s3("get_bucket_lifecycle_configuration", Bucket="bucket")
        assert held["Rules"] == rule["Rules"]


class TestListing:
    def test_memory_does_not_grow_with_the_objects(
        self, store: RemoteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Page(list[dict[str, Any]]):
            """A page to which a weak reference may lead."""

        pages: list[weakref.ref[Page]] = []

        def answer(method: str, **arguments: Any) -> dict[str, Any]:
            alive.append(sum(page() is not None for page in pages))
            number = len(pages)
            page = Page({"Key": f"{number}{index}.jpg", "Size": 1} for index in range(10))
            pages.append(weakref.ref(page))
            return {
                "Contents": page,
                "IsTruncated": number < 9,
                "NextContinuationToken": str(number),
            }

        alive: list[int] = []
        monkeypatch.setattr(store._system, "call_s3", answer)
        assert sum(1 for _ in store.list()) == 100
        assert max(alive) <= 1  # the one before

    def test_pages_of_a_thousand(self, s3: FaultyS3, store: RemoteStore) -> None:
        for number in range(2_100):
            s3.put(f"many/{number % 300}/{number:05}", b"")
        s3.refuse(method="GET", skip=1)
        names = [one.name for one in store.list("many")]
        assert len(names) == 2_100
        assert names == sorted(names)
        assert len(s3.requests) == 3 + 1

    def test_objects_that_cannot_be_paths_are_skipped(
        self, s3: FaultyS3, store: RemoteStore
    ) -> None:
        usable = ["odd/a", "odd/a/b", "odd/ü ñ?#%20+&.png", "odd/x\ny", "odd/..a", "odd/ "]
        unusable = ["odd//c", "odd/../d", "odd/./e", "odd/f/..", "odd/g/", "odd/x\0y"]
        markers = ["odd/", "odd/a/", "odd/h/"]
        for key in (*usable, *markers):
            s3.put(key, b"")
        for key in unusable:
            s3.put(key, b"content")
        skipped: list[str] = []
        names = [one.name for one in store.list("odd", skip=skipped.append)]
        assert names == sorted(usable)
        assert sorted(skipped) == sorted(unusable)
        assert len(list(RemoteStore(f"{s3.url}/odd").list())) == len(usable)
        for name in usable:
            if "\n" not in name:  # moto does not find it
                assert store.read(name) == b""

    def test_other_file_systems_skip_them_too(self) -> None:
        store = RemoteStore("memory://odd")
        for name in ("a", "b/c", "../e", "./f", "b/.."):
            store._system.pipe_file(f"/odd/{name}", b"")
        skipped: list[str] = []
        assert [one.name for one in store.list(skip=skipped.append)] == ["a", "b/c"]
        assert skipped == ["../", "./", "b/.."]

    def test_one_folder(self, s3: FaultyS3, store: RemoteStore) -> None:
        for number in range(1_100):
            s3.put(f"deep/er/{number}", b"")
        s3.put("deep/b", b"")
        s3.put("deep/", b"")
        s3.put("deep/er", b"")
        assert [one.name for one in store.list("deep", recursive=False)] == ["deep/b", "deep/er"]
        assert len(s3.requests) == 1

    def test_the_whole_bucket(self, s3: FaultyS3, store: RemoteStore) -> None:
        s3.put("b", b"1")
        assert [one.name for one in store.list()] == ["b", "in/a"]
        assert [one.name for one in RemoteStore(f"{s3.url}/").list()] == ["b", "in/a"]


class TestVersions:
    def test_objects_have_their_etag(self, s3: FaultyS3, store: RemoteStore) -> None:
        stat = store.stat("in/a")
        assert stat == Stat("in/a", 3000, stat.version if stat else "")
        assert stat.version.startswith("etag-")
        assert '"' not in stat.version

    @pytest.mark.parametrize(
        ("facts", "version"),
        [
            ({"ETag": '"a-2"', "LastModified": 1}, "etag-a-2"),
            ({"blob_id": "b", "last_commit": None, "lfs": {"sha256": "c"}}, "blob_id-b"),
            ({"xet_hash": "x", "mtime": 3}, "xet_hash-x"),
            ({"generation": "7", "etag": "e", "md5Hash": "m"}, "md5hash-m"),
            ({"generation": "7", "etag": "e"}, "generation-7"),
            ({"Last-Modified": "Mon"}, "lastmodified-Mon"),
            ({"ETag": "", "mtime": 1.5}, "mtime-1.5"),
            ({"created": datetime.fromtimestamp(5)}, "created-5.0"),
            ({"size": 3}, ""),
        ],
    )
    def test_facts(self, facts: dict[str, Any], version: str) -> None:
        assert remote._find_version(facts) == version


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_its_own_client(s3: FaultyS3) -> None:
    program = (
        "import os\n"
        "from dinac_cli.storage.store import open_store\n"
        f"store = open_store({s3.url!r})\n"
        "assert len(store.read('in/a')) == 3000\n"
        "file = store.open('in/a')\n"
        "if not os.fork():\n"
        "    assert len(store.read('in/a')) == 3000\n"
        "    assert len(list(store.list())) == 1\n"
        "    os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 7\n"
        "assert len(store.read('in/a')) == 3000\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **s3.environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["", "../a", "a//b", "a/./b", "/a", "a/"])
@pytest.mark.parametrize("act", ["write", "spool", "put", "remove"])
def test_names_that_cannot_be_paths_are_not_written(
    s3: FaultyS3, store: RemoteStore, name: str, act: str
) -> None:
    acts: dict[str, Callable[[], object]] = {
        "write": lambda: store.write(name, b""),
        "spool": lambda: spool(store, name, b""),
        "put": lambda: store.put(__file__, name),
        "remove": lambda: store.remove(name),
    }
    with pytest.raises(OutputError, match=r"has an empty part, '.' or '..'; rename it"):
        acts[act]()
    assert list(s3.objects) == ["in/a"]


def test_lock_of_a_remote_place_is_none(store: RemoteStore) -> None:
    with store.lock("refusal") as is_locked:
        assert is_locked is False
