"""URLs of remote places, such as `s3://bucket/photos/`, which fsspec opens.

fsspec is imported only when a URL is opened. Credentials are the environment's; this module never
stores them, and removes them from every text that is shown.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from dinac_cli.errors import InputError, UsageError

WRITABLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""The schemes of places where an upload that breaks leaves no object: dinac writes there alone."""

WEB = frozenset({"http", "https"})
"""The schemes of single files on a web server. Such a place cannot be listed."""

CLIENT_ATTEMPTS = 4
"""How many times the S3 client tries a request, unless the user's AWS settings say otherwise."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_KNOWN = "s3://, gs://, hf:// or http(s)://"
_S3 = frozenset({"s3", "s3a"})
_PACKAGES = {
    "s3": "'dinac-cli[remote]'",
    "s3a": "'dinac-cli[remote]'",
    "http": "'dinac-cli[remote]'",
    "https": "'dinac-cli[remote]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
_NAMES_A_HOST = frozenset({*WRITABLE, *WEB, "hf"} - {"memory"})
_CACHES_LISTINGS = frozenset({"s3", "s3a", "gs", "gcs", "hf", "http", "https", "memory"})

# These read files of this machine, write caches on it, or contain another URL.
_REFUSED = frozenset(
    {
        *("file", "local", "asynclocal", "pipe", "data", "dir", "dask", "git", "dvc", "generic"),
        *("reference", "libarchive", "zip", "tar", "cached", "simplecache", "filecache"),
        *("blockcache", "asyncwrapper", "pyscript", "jlab", "jupyter"),
    }
)

_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>]+")
_SECRET_IN_TEXT = re.compile(
    r"(?i)((?:x-amz-[a-z-]+|aws_?[a-z_]*(?:key|token)[a-z_]*|[a-z_-]*(?:secret|password|signature|"
    r"credential|token|authorization)[a-z_-]*)['\"]?\s*[=:]\s*['\"]?)(?:(?:bearer|basic)\s+)?"
    r"[^\s'\"&,;]{4,}"
)
_TOKEN_IN_TEXT = re.compile(r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{12,}|hf_[A-Za-z0-9]{16,})\b")


def is_url(place: str) -> bool:
    """True for a place with a scheme, such as `s3://`. A path of this machine has none."""
    return "://" in place and _SCHEME.match(place) is not None


def find_scheme(url: str) -> str:
    """Returns the scheme of a URL in lower case, such as `s3`; "" for a path of this machine."""
    match = _SCHEME.match(url)
    return "" if match is None else match[1].lower()


def hide_secrets(url: str) -> str:
    """Returns a URL for messages and markers: without a user, a password and a query.

    Only web servers know queries; in a bucket, `?` and `#` are characters of a name. A path of this
    machine stays as it is.
    """
    if not is_url(url):
        return url
    scheme = find_scheme(url)
    start, rest = url[: len(scheme) + 3], url[len(scheme) + 3 :]
    if scheme in WEB:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    if scheme != "hf":  # there, `@` is followed by a revision
        host = host.rpartition("@")[2]
    return start + host + slash + path


def hide_secrets_in(text: str) -> str:
    """Returns a library's message without signatures, passwords, tokens and keys."""
    text = _URL_IN_TEXT.sub(lambda match: _hide_query(match[0]), text)
    return _TOKEN_IN_TEXT.sub("***", _SECRET_IN_TEXT.sub(r"\1***", text))


def _hide_query(url: str) -> str:
    scheme, _, rest = url.partition("://")
    rest, mark, _ = rest.partition("?")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{mark and '?***'}"


def quote_client(exc: BaseException) -> str:
    """Returns what `errors.quote_error` returns, without secrets."""
    words = hide_secrets_in(" ".join(str(exc).split()))
    printable = "".join(char if char.isprintable() else "?" for char in words)
    return f"{type(exc).__name__}: {printable}"[:200] if words else type(exc).__name__


def join_url(place: str, name: str) -> str:
    """Returns the URL of a file in a place. The query of a web address stays at the end."""
    if find_scheme(place) not in WEB:
        return f"{place.rstrip('/')}/{name}" if name else place
    parts = urlsplit(place)
    path = f"{parts.path.rstrip('/')}/{name}" if name else parts.path
    # What is quoted already stays: a signature is valid for one spelling only.
    return quote(urlunsplit(parts._replace(path=path)), safe="%/:=&?~#+!$,;'@()*[]")


def split_url(url: str) -> tuple[str, str]:
    """Returns the place of a file and its name there: `s3://b/a/x.tar` → (`s3://b/a`, `x.tar`)."""
    address, mark, query = url.partition("?") if find_scheme(url) in WEB else (url, "", "")
    folder, _, name = address.rpartition("/")
    return folder + mark + query, name


def require_writable(url: str) -> None:
    """Raises UsageError if dinac only reads from places with this scheme."""
    scheme = find_scheme(url)
    _require_allowed(url)
    if scheme not in WRITABLE:
        raise UsageError(
            f"{hide_secrets(url)}: {scheme}:// is for reading only; name a folder, s3:// or gs://"
        )


def open_url(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL, and the path of the URL in it. Asks no server.

    The places of one process share a file system if their host and the settings in the environment
    are the same: a client of S3 takes 0.1 s to make, and another one is needed after a fork.

    Raises UsageError if the scheme is unknown or needs a package that is not installed, and
    InputError if the file system refuses the URL or its settings.
    """
    scheme = _require_allowed(url)
    shown, settings = hide_secrets(url), _identify_settings(url)
    host = "" if scheme in _S3 else url[len(scheme) :].split("/")[2]
    try:
        system = _open_system(scheme, host, settings, os.getpid())
    except ImportError as exc:
        package = _PACKAGES.get(scheme)
        advice = "see the details with -v" if package is None else f"pip install {package}"
        problem = f"{scheme}:// needs a package that is not installed; {advice}"
        raise UsageError(f"{shown}: {problem}", [quote_client(exc)]) from exc
    except Exception as exc:
        if isinstance(exc, ValueError) and "rotocol not known" in str(exc):
            raise UsageError(f"{shown}: {_refuse(scheme)}") from exc
        problem = "cannot open this place; check the URL and the settings in the environment"
        raise InputError(f"{shown}: {problem}", [quote_client(exc)]) from exc
    if getattr(system, "local_file", False):
        raise UsageError(f"{shown}: {_refuse(scheme)}")
    return system, system._strip_protocol(scheme + url[len(scheme) :])


@functools.lru_cache(maxsize=16)
def _open_system(scheme: str, host: str, settings: int, process: int) -> Any:
    """Opens the file system of a host. `settings` and `process` tell apart what is not shared."""
    from fsspec.core import url_to_fs

    system, _ = url_to_fs(f"{scheme}://{host}", **_choose_options(scheme))
    if scheme in _S3:
        system.retries = 1  # times the attempts of the client of S3; see RemoteStore for the others
    return system


def _identify_settings(url: str) -> int:
    """Returns a number that changes with the settings of clients. Raises UsageError."""
    try:
        from fsspec.config import conf
    except ImportError as exc:
        problem = "URLs need fsspec; pip install 'dinac-cli[remote]'"
        raise UsageError(f"{hide_secrets(url)}: {problem}") from exc
    variables = sorted((key, value) for key, value in os.environ.items() if _is_setting(key))
    return hash((repr(conf), *variables))


def _is_setting(name: str) -> bool:
    return name.startswith(("AWS_", "HF_", "GOOGLE_", "AZURE_")) or "PROXY" in name.upper()


def _require_allowed(url: str) -> str:
    """Returns the scheme. Raises UsageError if dinac does not open URLs of this form."""
    scheme = find_scheme(url)
    if scheme in ("file", "local"):
        raise UsageError(f"{hide_secrets(url)}: give the path without {scheme}://")
    if scheme in _REFUSED or "::" in url:
        raise UsageError(f"{hide_secrets(url)}: {_refuse(scheme)}")
    if scheme in _NAMES_A_HOST and not re.match(r"[^/?#]", url[len(scheme) + 3 :]):
        what = "host" if scheme in WEB else "repository" if scheme == "hf" else "bucket"
        raise UsageError(f"{hide_secrets(url)}: names no {what}; add it after {scheme}://")
    return scheme


def _refuse(scheme: str) -> str:
    return f"{scheme}:// is not supported; use a path, {_KNOWN}"


def _choose_options(scheme: str) -> dict[str, Any]:
    """Returns the arguments of the file system. The user's settings of fsspec come first."""
    options: dict[str, Any] = {"skip_instance_cache": True}
    if scheme in _CACHES_LISTINGS:
        options["use_listings_cache"] = False
    if scheme in _S3:
        options["config_kwargs"] = {**_bound_attempts(), **_read_setting(scheme, "config_kwargs")}
    if scheme in WEB:
        options["encoded"] = True
        options["client_kwargs"] = {**_bound_waiting(), **_read_setting(scheme, "client_kwargs")}
    return options


def _read_setting(scheme: str, name: str) -> dict[str, Any]:
    """Returns a setting from FSSPEC_… variables and from the configuration files of fsspec."""
    from fsspec.config import conf

    names = ("s3", "s3a") if scheme in _S3 else ("http", "https")
    found: dict[str, Any] = {}
    for key in names:
        found.update(conf.get(key, {}).get(name) or {})
    return found


def _bound_attempts() -> dict[str, Any]:
    """Returns the attempts for the client of S3, unless the user's settings of AWS name them.

    With 15 seconds of waiting for each, a dead server is noticed within about a minute.
    """
    from botocore.session import Session

    if any(name in os.environ for name in ("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE")):
        return {}
    try:
        settings = Session().get_scoped_config()
    except Exception:  # the client reports a damaged configuration file when it is used
        return {}
    if "max_attempts" in settings or "retry_mode" in settings:
        return {}
    return {"retries": {"mode": "standard", "total_max_attempts": CLIENT_ATTEMPTS}}


def _bound_waiting() -> dict[str, Any]:
    """Returns limits for a web server that is silent; a transfer may take as long as it needs."""
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=20)
    return {"timeout": limits, "trust_env": True}  # the environment may name a proxy
