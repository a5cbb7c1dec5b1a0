"""Names in records: relative paths that are safe on any system. Unsafe characters are escaped.

The components of a name are separated by `/`. Letters of every script, spaces, brackets, leading
dashes and dots are allowed. A colon is refused after a single letter at the start of a component,
because Windows reads a drive there (`12:30.png` is a name, `c:30.png` is not).
"""

from __future__ import annotations

import hashlib
import os
import re

from dinac_cli.errors import FormatError, Rejection

MAX_COMPONENT_BYTES = 255
MAX_NAME_BYTES = 4096

# Shortened components leave room for suffixes such as `.dinac` and `.png`.
_CUT_COMPONENT_BYTES = 240
_LONGEST_SUFFIX_BYTES = 16
_HASH_DIGITS = 8

# Control characters, line separators and direction overrides can falsify a listing. UTF-8 cannot
# encode lone surrogates.
_UNSAFE_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_DRIVE = re.compile("[A-Za-z]:")
_EDGE_SLASH = re.compile("^/|/(?=/|$)")
_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [port + digit for port in ("COM", "LPT") for digit in "0123456789¹²³"]
)


def is_safe_text(text: str) -> bool:
    """True if `text` is valid Unicode without control characters."""
    return not _UNSAFE_TEXT.search(text)


def escape_text(raw: str) -> str:
    """Percent-escapes each byte of the characters that `is_safe_text` refuses."""
    return _UNSAFE_TEXT.sub(lambda match: _escape(match[0]), raw)


def check_name(name: str) -> None:
    """Raises FormatError NAME unless `name` is safe as a path below any folder."""
    fault = _text_fault(name)
    for component in name.split("/"):
        fault = fault or _component_fault(component)
    if fault:
        raise FormatError(Rejection.NAME, f"the record's name {fault}; re-encode")


def escape_name(raw: str) -> str:
    """Returns the non-empty `raw` as a name: percent-escapes what `check_name` refuses.

    Valid names do not change. Undecodable bytes (surrogateescape) are escaped one by one. A
    component that is too long is cut, and gets 8 hex digits of its hash before its suffix. A path
    that is too long becomes its last component, below a folder named by a hash.
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
    # Windows compares the part before the first dot or colon, without trailing spaces.
    return re.split("[.:]", component)[0].rstrip(" ").upper() in _DEVICES


def _escape(text: str) -> str:
    try:
        raw = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode(errors="surrogatepass")
    return "".join(f"%{byte:02X}" for byte in raw)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]
