"""Checks and escapes the names in records: relative paths that are safe on every system.

The components of a name are separated by `/`. Letters of every script, spaces, brackets, leading
dashes and leading dots are allowed. A component must not begin with one letter and a colon, because
Windows reads this as a drive: `12:30.png` is a valid name, `c:30.png` is not.
"""

from __future__ import annotations

import hashlib
import os
import re

from dinac_cli.errors import FormatError, Rejection

MAX_COMPONENT_BYTES = 255
MAX_NAME_BYTES = 4096

# A cut component leaves room for a suffix such as `.dinac` or `.png`.
_CUT_COMPONENT_BYTES = 240
_LONGEST_SUFFIX_BYTES = 16
_HASH_DIGITS = 8

# A printed list of names can mislead the reader if the names contain control characters, line
# separators or direction overrides. UTF-8 cannot encode lone surrogates.
_UNSAFE_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_DRIVE = re.compile("[A-Za-z]:")
_EDGE_SLASH = re.compile("^/|/(?=/|$)")
_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [port + digit for port in ("COM", "LPT") for digit in "0123456789¹²³"]
)


def is_safe_text(text: str) -> bool:
    """True if `text` is valid Unicode, without control characters or direction overrides."""
    return not _UNSAFE_TEXT.search(text)


def escape_text(raw: str) -> str:
    """Percent-escapes the bytes of all characters that `is_safe_text` refuses."""
    return _UNSAFE_TEXT.sub(lambda match: _escape(match[0]), raw)


def check_name(name: str) -> None:
    """Raises FormatError with rejection NAME if `name` is not a safe relative path."""
    if fault := find_name_fault(name):
        raise FormatError(Rejection.NAME, f"the record's name {fault}; re-encode")


def find_name_fault(name: str) -> str | None:
    """Says why `name` is not a safe relative path, in words that follow "the name"; else None."""
    fault = _text_fault(name)
    for component in name.split("/"):
        fault = fault or _component_fault(component)
    return fault


def escape_name(raw: str) -> str:
    """Makes a valid name from `raw`, which is not empty. Escapes what `check_name` refuses.

    Escapes have the form `%5C`. A valid name does not change. Bytes that could not be decoded
    (surrogateescape) are escaped one by one. If a component is too long, the component is cut, and
    8 hex digits of its hash are added before the suffix. If the whole path is too long, only its
    last component is kept, in a folder whose name is a hash.
    """
    assert raw, "no file has an empty name"
    text = escape_text(raw).replace("\\", "%5C")
    text = _EDGE_SLASH.sub("%2F", text)
    name = "/".join(_escape_component(component) for component in text.split("/"))
    if len(name.encode()) > MAX_NAME_BYTES:
        name = f"{_hash(name)}/{name.rpartition('/')[2]}"
    return name


def _text_fault(name: str) -> str | None:
    if not is_safe_text(name) or "\\" in name:
        return "holds a backslash, a control character or invalid Unicode"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return None


def _component_fault(component: str) -> str | None:
    if component in ("", ".", ".."):
        return "is absolute, or has an empty, `.` or `..` component"
    if _DRIVE.match(component):
        return "has a drive letter"
    if _is_device(component):
        return "has a component that Windows reserves for a device"
    if component[-1] in ". ":
        return "has a component that ends in a dot or a space"
    if len(component.encode()) > MAX_COMPONENT_BYTES:
        return f"has a component longer than {MAX_COMPONENT_BYTES} bytes"
    return None


def _escape_component(component: str) -> str:
    if component[-1] in ". ":
        component = component[:-1] + _escape(component[-1])
    if _DRIVE.match(component):
        component = component[0] + _escape(":") + component[2:]
    if _is_device(component):
        component = _escape(component[0]) + component[1:]
    if len(component.encode()) > MAX_COMPONENT_BYTES:
        component = _cut(component)
    return component


def _cut(component: str) -> str:
    suffix = os.path.splitext(component)[1]
    if len(suffix.encode()) > _LONGEST_SUFFIX_BYTES:
        suffix = ""
    tail = f"~{_hash(component)}{suffix}"
    stem = component.encode()[: _CUT_COMPONENT_BYTES - len(tail.encode())]
    return stem.decode(errors="ignore") + tail


def _is_device(component: str) -> bool:
    # Windows compares only the part before the first dot or colon with the names of devices, and
    # ignores trailing spaces.
    stem = component.partition(".")[0].partition(":")[0]
    return stem.rstrip(" ").upper() in _DEVICES


def _escape(text: str) -> str:
    try:
        raw = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode(errors="surrogatepass")
    return "".join(f"%{byte:02X}" for byte in raw)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]
