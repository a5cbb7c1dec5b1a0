"""URLs: which are opened, what is missing, and what is never shown."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from dinac_cli.errors import InputError, UsageError
from dinac_cli.storage import urls
from dinac_cli.storage.store import open_store
from dinac_cli.storage.urls import (
    hide_secrets,
    hide_secrets_in,
    is_url,
    join_url,
    open_url,
    quote_client,
    require_writable,
)


@pytest.fixture(autouse=True)
def _fresh_clients() -> Iterator[None]:
    urls._open_system.cache_clear()
    yield
    urls._open_system.cache_clear()


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://b/a", True),
        ("memory://a", True),
        ("HTTPS://h", True),
        ("a/b", False),
        ("C:/a", False),
        ("C:\\a", False),
        ("c://a", False),
        ("://a", False),
        ("a b://c", False),
        ("./s3://b", False),
        ("-", False),
        ("", False),
    ],
)
def test_urls_are_told_from_paths(place: str, expected: bool) -> None:
    assert is_url(place) is expected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://b/a#1/x?y.tar", "s3://b/a#1/x?y.tar"),
        ("https://h/x.tar?sig=1", "https://h/x.tar"),
        ("https://h/x.tar#a@b", "https://h/x.tar"),
        ("https://user:pass@h:8/x", "https://h:8/x"),
        ("https://h?sig=1", "https://h"),
        ("sftp://user:p@ss@h/x", "sftp://h/x"),
        ("hf://datasets/o/d@main/x", "hf://datasets/o/d@main/x"),
        ("hf://gpt2@main/x", "hf://gpt2@main/x"),
        ("S3://b", "S3://b"),
        ("a/b?c", "a/b?c"),
    ],
)
def test_messages_show_no_secrets(url: str, shown: str) -> None:
    assert hide_secrets(url) == shown


SECRETS = ("abcSECRETdef", "AKIAABCDEFGHIJKLMNOP", "hf_abcSECRETdefghijklmn")


@pytest.mark.parametrize(
    "text",
    [
        "cannot get https://b.s3.amazonaws.com/k?X-Amz-Signature=abcSECRETdef&X-Amz-Date=1",
        "403, url='https://h/x?sig=abcSECRETdef'",
        "Cannot connect to http://user:abcSECRETdef@proxy:3128/x",
        'ClientError("http://user:abc@abcSECRETdef@h/")',
        "X-Amz-Security-Token: abcSECRETdef",
        "aws_secret_access_key = abcSECRETdef",
        "{'AWSSecretKey': 'abcSECRETdef'}",
        "AWS_SESSION_TOKEN=abcSECRETdef",
        "Authorization: Bearer abcSECRETdef",
        "'authorization': 'Basic abcSECRETdef'",
        "password=abcSECRETdef;",
        "The key AKIAABCDEFGHIJKLMNOP does not exist",
        "Invalid token hf_abcSECRETdefghijklmn",
        "a" * 150 + " https://user:abcSECRETdef@" + "h" * 100,
    ],
)
def test_words_of_libraries_show_no_secrets(text: str) -> None:
    for shown in (hide_secrets_in(text), quote_client(ValueError(text))):
        assert not any(secret in shown or secret[:5] in shown for secret in SECRETS)


@pytest.mark.parametrize(
    "text",
    [
        "Unable to locate credentials",
        "The security token included in the request is invalid",
        "Could not connect to the endpoint URL: http://127.0.0.1:9/bucket",
        "The authorization header is malformed; the region 'us-east-1' is wrong",
    ],
)
def test_other_words_stay(text: str) -> None:
    assert hide_secrets_in(text) == text


@pytest.mark.parametrize(
    ("place", "name", "url"),
    [
        ("s3://b/a", "x y#1?.tar", "s3://b/a/x y#1?.tar"),
        ("s3://b/a/", "x", "s3://b/a/x"),
        ("s3://b", "", "s3://b"),
        ("https://h/a", "x y.tar", "https://h/a/x%20y.tar"),
        ("https://h/a/", "x%2Fy.tar", "https://h/a/x%2Fy.tar"),
        ("https://h/a?sig=1%2F/2", "x.tar", "https://h/a/x.tar?sig=1%2F/2"),
        ("https://h", "x.tar", "https://h/x.tar"),
    ],
)
def test_names_are_added_to_a_place(place: str, name: str, url: str) -> None:
    assert join_url(place, name) == url


class TestRefusals:
    @pytest.mark.parametrize("scheme", sorted(urls._REFUSED - {"file", "local"}))
    def test_schemes_that_reach_this_machine(self, scheme: str) -> None:
        with pytest.raises(UsageError, match=rf"^{scheme}://a: {scheme}:// is not supported; use"):
            open_url(f"{scheme}://a")

    @pytest.mark.parametrize("url", ["file:///a", "local://a", "FILE://a"])
    def test_files_of_this_machine_have_no_scheme(self, url: str) -> None:
        with pytest.raises(UsageError, match="give the path without "):
            open_store(url)

    @pytest.mark.parametrize(
        "url", ["simplecache::s3://b/a", "s3://b/a::file://c", "zip://a::memory://b"]
    )
    def test_chains(self, url: str) -> None:
        if is_url(url):
            with pytest.raises(UsageError, match="is not supported; use a path"):
                open_url(url)

    @pytest.mark.parametrize(
        ("url", "what"),
        [
            ("s3://", "bucket"),
            ("s3:///a", "bucket"),
            ("gs://", "bucket"),
            ("https://", "host"),
            ("https:///a", "host"),
            ("http://?a", "host"),
            ("hf://", "repository"),
        ],
    )
    def test_urls_without_a_place(self, url: str, what: str) -> None:
        with pytest.raises(UsageError, match=rf"names no {what}; add it after "):
            open_store(url)

    def test_unknown_schemes(self) -> None:
        with pytest.raises(UsageError) as caught:
            open_store("nonsense://a")
        assert str(caught.value) == (
            "nonsense://a: nonsense:// is not supported; use a path, s3://, gs://, hf:// or "
            "http(s)://"
        )

    @pytest.mark.parametrize("url", ["https://h/a", "hf://a/b", "ftp://h/a", "github://o:r@/a"])
    def test_places_for_reading(self, url: str) -> None:
        with pytest.raises(UsageError, match="is for reading only; name a folder, s3:// or gs://"):
            require_writable(url)

    def test_a_file_system_of_this_machine_under_another_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fsspec.implementations.local import LocalFileSystem

        register(monkeypatch, "disk", LocalFileSystem)
        with pytest.raises(UsageError, match="disk:// is not supported"):
            open_store("disk://etc")


def register(monkeypatch: pytest.MonkeyPatch, scheme: str, system: type) -> None:
    """Makes a file system that fsspec finds during the test."""
    monkeypatch.setitem(import_module("fsspec.registry")._registry, scheme, system)


class TestMissingPackages:
    @pytest.mark.parametrize(
        ("url", "module", "package"),
        [
            ("s3://b/a", "s3fs", "'dinac-cli[remote]'"),
            ("https://h/a", "aiohttp", "'dinac-cli[remote]'"),
            ("gs://b/a", "gcsfs", "gcsfs"),
            ("az://b/a", "adlfs", "adlfs"),
        ],
    )
    def test_one_line_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, url: str, module: str, package: str
    ) -> None:
        hide(monkeypatch, module, "fsspec.implementations.http")
        scheme = url.partition(":")[0]
        with pytest.raises(UsageError) as caught:
            open_store(url)
        assert str(caught.value) == (
            f"{url}: {scheme}:// needs a package that is not installed; pip install {package}"
        )

    def test_another_scheme_shows_the_details(self) -> None:
        with pytest.raises(UsageError, match=r"dropbox:// needs a package .*; see the details"):
            open_store("dropbox://a")

    def test_without_fsspec(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hide(monkeypatch, "fsspec")
        with pytest.raises(UsageError) as caught:
            open_store("memory://a")
        assert str(caught.value) == (
            "memory://a: URLs need fsspec; pip install 'dinac-cli[remote]'"
        )


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Makes modules impossible to import, and forgets what was imported of them."""
    known = import_module("fsspec.registry")._registry
    real = builtins.__import__

    def find(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] == modules[0] or name in modules[1:]:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **options)

    for name in list(sys.modules):
        if name.split(".")[0] == modules[0] or name in modules[1:]:
            monkeypatch.delitem(sys.modules, name)
    if modules[0] != "fsspec":
        for scheme in ("s3", "http", "https", "gs", "az"):
            monkeypatch.delitem(known, scheme, raising=False)
    monkeypatch.setattr(builtins, "__import__", find)


def test_settings_that_a_file_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"max_concurrency": 0})
    with pytest.raises(InputError, match="cannot open this place; check the URL and the settings"):
        open_store("s3://b/a")
