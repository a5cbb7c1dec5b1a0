"""Removes the names of the user and the machine from texts that people publish."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_USER_VARIABLES = ("USER", "LOGNAME", "USERNAME")
_HOST_VARIABLES = ("HOSTNAME", "COMPUTERNAME", "HOST")
_HOME_VARIABLES = ("HOME", "USERPROFILE")
_SAFE_HOSTS = {"localhost", ""}

# A name of this length is hidden if it is a whole word. A shorter name, such as "me", may be a word
# of a sentence, so it is hidden only in paths.
_LONG_NAME = 4
_PATH = re.compile(r"\S*[/\\]\S*")


@dataclass(frozen=True)
class Privacy:
    """The private names on this machine. `homes` are the paths of the home folder."""

    homes: tuple[str, ...]
    users: tuple[str, ...]
    hosts: tuple[str, ...]

    @classmethod
    def of_this_machine(cls) -> Privacy:
        """Collects the names from the environment and from the system."""
        homes = set(filter(_is_home, _list_homes()))
        users = {os.environ.get(name, "") for name in _USER_VARIABLES}
        users |= {_ask_user_name()} | {re.split(r"[/\\]", home)[-1] for home in homes}
        hosts = {os.environ.get(name, "") for name in _HOST_VARIABLES} | {socket.gethostname()}
        hosts |= {host.partition(".")[0] for host in hosts}
        return cls(_sort(homes), _sort(users - {""}), _sort(hosts - _SAFE_HOSTS))

    def shorten(self, text: str) -> str:
        """Returns `text` with the home folder as `~`."""
        return self._homes.sub("~", text) if self.homes else text

    def hide(self, value: Any) -> Any:
        """Returns a value for JSON without private names, in texts at any depth.

        The home folder becomes `~`, user names become USER, and host names become HOST.
        """
        if isinstance(value, dict):
            return {key: self.hide(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(one) for one in value]
        if not isinstance(value, str):
            return value
        text = self.shorten(value)
        for names, instead in ((self.hosts, "HOST"), (self.users, "USER")):
            for name in names:
                text = _replace_name(text, name, instead)
        return text

    @cached_property
    def _homes(self) -> re.Pattern[str]:
        return re.compile("(?:" + "|".join(map(re.escape, self.homes)) + r")(?![\w-])")


def _replace_name(text: str, name: str, instead: str) -> str:
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", re.IGNORECASE)
    if len(name) >= _LONG_NAME:
        return word.sub(instead, text)
    return _PATH.sub(lambda path: word.sub(instead, path[0]), text)


def _list_homes() -> Iterator[str]:
    named = [os.environ.get(name, "") for name in _HOME_VARIABLES] + [os.path.expanduser("~")]
    for home in (*named, _ask_home()):
        if home:
            yield os.path.abspath(home)
            yield os.path.realpath(home)


def _is_home(path: str) -> bool:
    """False for the root of a file system, which some containers name as the home folder."""
    return os.path.dirname(path) != path


def _ask_user_name() -> str:
    entry = _read_account()
    return "" if entry is None else str(entry.pw_name)


def _ask_home() -> str:
    entry = _read_account()
    return "" if entry is None else str(entry.pw_dir)


def _read_account() -> Any:
    """Returns the system's entry of this user, or None if there is none."""
    if sys.platform == "win32":
        return None
    import pwd

    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:  # in a container, the user may have a number only
        return None


def _sort(names: set[str]) -> tuple[str, ...]:
    """Sorts the longest name first, because it may contain a shorter one."""
    return tuple(sorted(names, key=lambda name: (-len(name), name)))
