"""URLs of remote places, such as `s3://bucket/photos/`, which fsspec opens.

fsspec is imported only when a URL is opened. Credentials are the environment's; this module never
reads, prints or stores them.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dinac_cli.errors import StorageError, UsageError, quote_error

READ_ONLY = frozenset({"hf", "http", "https"})
"""The schemes of places that dinac reads and never writes."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_KNOWN = ("s3://", "gs://", "hf://", "http(s)://")
_PACKAGES = {
    "s3": "'dinac-cli[remote]'",
    "s3a": "'dinac-cli[remote]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
}
_REFUSED = frozenset(
    {"file", "local", "pipe", "simplecache", "filecache", "blockcache", "reference"}
)


def is_url(place: str) -> bool:
    """True for a place with a scheme, such as `s3://`. A path of this machine has none."""
    return "://" in place and _SCHEME.match(place) is not None


def find_scheme(url: str) -> str:
    """Returns the scheme of a URL in lower case, such as `s3`; "" for a path of this machine."""
    match = _SCHEME.match(url)
    return "" if match is None else match[1].lower()


def hide_secrets(url: str) -> str:
    """Returns a URL for messages and markers: without a user, a password and a query."""
    parts = urlsplit(url)
    if not parts.query and not parts.fragment and "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def open_url(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL, and the path of the URL in it.

    Raises UsageError if the scheme is unknown or needs a package that is not installed, and
    StorageError if the file system cannot be opened.
    """
    scheme = find_scheme(url)
    if scheme in _REFUSED or "::" in url:
        raise UsageError(f"{hide_secrets(url)}: {scheme}:// is not read here; {_advise(scheme)}")
    try:
        from fsspec.core import url_to_fs
    except ImportError as exc:
        raise UsageError(
            f"{hide_secrets(url)}: URLs need fsspec; pip install 'dinac-cli[remote]'"
        ) from exc
    try:
        system, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as exc:
        package = _PACKAGES.get(scheme)
        advice = "see the details with -v" if package is None else f"pip install {package}"
        problem = f"{scheme}:// needs a package that is not installed; {advice}"
        raise UsageError(f"{hide_secrets(url)}: {problem}", [quote_error(exc)]) from exc
    except ValueError as exc:  # an unknown scheme
        problem = f"{scheme}:// is unknown; use a path, or one of {', '.join(_KNOWN)}"
        raise UsageError(f"{hide_secrets(url)}: {problem}", [quote_error(exc)]) from exc
    except Exception as exc:
        problem = "cannot open this place; check its name and the credentials in the environment"
        raise StorageError(f"{hide_secrets(url)}: {problem}", [quote_error(exc)]) from exc
    return system, path


def _advise(scheme: str) -> str:
    if scheme in ("file", "local"):
        return "give the path without a scheme"
    return f"use a path, or one of {', '.join(_KNOWN)}"
