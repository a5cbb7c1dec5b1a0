"""Checks the versions of dinac and of its packages, the extras, and the completions."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dinac_cli.doctor.finding import Facts, Finding, fail, note, ok

DISTRIBUTION = "dinac-cli"

EXTRAS = {
    "remote": ("s3fs", "access to s3:// and https://"),
    "parquet": ("pyarrow", "reading images from parquet files"),
    "cluster": ("ray", "dinac encode --engine ray"),
    "flux2": ("diffusers", "--model flux2 and dinac bench --compare flux2"),
}
"""The extras that are one package, which need not be loaded to be checked: package and purpose."""

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?")
_BOUND = re.compile(r"(>=|<)\s*(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class Requirement:
    """A package that dinac needs: `version` is at least `low`, and below `high` if that is set.

    `version` is None if the package is not installed.
    """

    name: str
    low: str
    high: str
    version: str | None

    @property
    def holds(self) -> bool:
        """True if the package is installed in a version that dinac accepts."""
        if self.version is None:
            return False
        version = _parse_version(self.version)
        is_old = bool(self.low) and version < _parse_version(self.low)
        return not is_old and not (self.high and version >= _parse_version(self.high))

    @property
    def specifier(self) -> str:
        """The bounds as pip spells them, such as `torch>=2.9,<3`."""
        bounds = [f">={self.low}"] * bool(self.low) + [f"<{self.high}"] * bool(self.high)
        return self.name + ",".join(bounds)


def check_system(version: str) -> Finding:
    """Names the program, Python and the operating system. `version` is dinac's own."""
    library, number = platform.libc_ver()
    facts = {
        "dinac": version,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "release": platform.release(),
        "distribution": _name_distribution(),
        "machine": platform.machine(),
        "libc": f"{library} {number}".strip(),
    }
    libc = f" ({facts['libc']})" if facts["libc"] else ""
    text = f"version {version}; Python {facts['python']}, {facts['system']} {facts['machine']}"
    return ok("dinac", text + libc, facts)


def _name_distribution() -> str | None:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):  # no Linux, or one without this file
        return None


def list_requirements() -> list[Requirement] | None:
    """Returns the packages that dinac always needs, or None if its own metadata is missing."""
    try:
        lines = metadata.requires(DISTRIBUTION) or ()
    except metadata.PackageNotFoundError:
        return None
    return [parse_requirement(line) for line in lines if "extra" not in line.partition(";")[2]]


def parse_requirement(line: str) -> Requirement:
    """Parses a line of package metadata, such as `torch<3,>=2.9`, and finds what is installed."""
    match = _REQUIREMENT.match(line)
    assert match is not None, line
    bounds = dict(_BOUND.findall(match[2]))
    return Requirement(match[1], bounds.get(">=", ""), bounds.get("<", ""), find_version(match[1]))


def find_version(distribution: str) -> str | None:
    """Returns the version of an installed package, or None. Does not import the package."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_packages(requirements: Sequence[Requirement] | None) -> Finding:
    """Compares the installed packages with those that dinac needs."""
    if requirements is None:
        return note(
            "packages",
            f"there is no package data of {DISTRIBUTION}, so versions were not compared",
            "install dinac with pip",
            {},
        )
    facts = {one.name: one.version for one in requirements}
    wrong = [one for one in requirements if not one.holds]
    if not wrong:
        return ok("packages", ", ".join(f"{one.name} {one.version}" for one in requirements), facts)
    found = ", ".join(f"{one.name} {one.version or 'is missing'}" for one in wrong)
    wanted = " ".join(f"'{one.specifier}'" for one in wrong)
    return fail("packages", f"dinac needs other versions: {found}", f"pip install {wanted}", facts)


def measure_extras() -> Facts:
    """Imports the optional image decoders, and compares simplejpeg with Pillow.

    Runs in the probe: such a library can crash.
    """
    from dinac_cli.images.fast_jpeg import find_decoder
    from dinac_cli.images.optional_formats import list_missing_packages

    return {
        "simplejpeg": find_version("simplejpeg"),
        "same_pixels": find_decoder() is not None,
        "pi-heif": find_version("pi-heif"),
        "pylibjxl": find_version("pylibjxl"),
        "missing": list_missing_packages(),
    }


def judge_jpeg(facts: Facts) -> Finding:
    """Says which library reads JPEGs."""
    version, same = facts["simplejpeg"], facts["same_pixels"]
    known = {"simplejpeg": version, "same_pixels": same}
    if version is None:
        return note(
            "extra fast",
            "simplejpeg is not installed: damaged JPEGs are not recognised, and JPEGs are read "
            "more slowly",
            f"pip install '{DISTRIBUTION}[fast]'",
            known,
        )
    if not same:
        return note(
            "extra fast",
            f"simplejpeg {version} gives other pixels than Pillow, or cannot be loaded; therefore "
            "Pillow reads JPEGs, more slowly",
            "pip install -U simplejpeg pillow",
            known,
        )
    text = f"simplejpeg {version} reads JPEGs, with the same pixels as Pillow, and finds damage"
    return ok("extra fast", text, known)


def judge_formats(facts: Facts) -> Finding:
    """Says whether HEIC and JPEG XL can be read."""
    missing: dict[str, str] = facts["missing"]
    known = {name: facts[name] for name in ("pi-heif", "pylibjxl")}
    if not missing:
        versions = ", ".join(f"{name} {version}" for name, version in known.items())
        return ok("extra formats", f"{versions}: HEIC and JPEG XL are read", known)
    names = " and ".join(missing)
    verb = "is" if len(missing) == 1 else "are"
    text = f"{names} {verb} not installed: {' and '.join(missing.values())} files fail"
    return note("extra formats", text, f"pip install '{DISTRIBUTION}[formats]'", known)


def check_extra(extra: str) -> Finding:
    """Says whether the package of one of `EXTRAS` is installed."""
    package, purpose = EXTRAS[extra]
    version = find_version(package)
    facts = {package: version}
    if version is not None:
        return ok(f"extra {extra}", f"{package} {version}, for {purpose}", facts)
    return note(
        f"extra {extra}",
        f"{package} is not installed; only {purpose} needs it",
        f"pip install '{DISTRIBUTION}[{extra}]'",
        facts,
    )


def check_completions(home: Path) -> Finding:
    """Says whether the user's shell completes dinac's options."""
    shell = os.path.basename(os.environ.get("SHELL", ""))
    facts: dict[str, Any] = {"shell": shell or None}
    if shell not in _SHELLS:
        what = f"for the shell {shell}" if shell else "because SHELL is not set"
        text = f"not checked {what}; dinac completes in {', '.join(_SHELLS)}"
        return note("completions", text, "see 'dinac man running'", facts)
    place = next(filter(_mentions_dinac, _list_places(shell, home)), None)
    if place is not None:
        return ok("completions", f"{shell} completes dinac: {place}", facts | {"place": str(place)})
    return note(
        "completions",
        f"{shell} does not complete dinac's options yet",
        _SHELLS[shell],
        facts,
    )


_SHELLS = {
    "bash": "echo 'source <(dinac completions bash)' >> ~/.bashrc",
    "zsh": "save 'dinac completions zsh' as _dinac in a folder of fpath",
    "fish": "dinac completions fish > ~/.config/fish/completions/dinac.fish",
}
"""A shell → how to install its completions."""


def _list_places(shell: str, home: Path) -> Iterator[Path]:
    """Yields the files that usually install completions: the script, or a file that sources it."""
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    system = (Path(sys.prefix, "share"), Path("/usr/local/share"), Path("/usr/share"))
    if shell == "bash":
        for name in ("dinac", "dinac.bash"):
            yield data / "bash-completion/completions" / name
            yield from (folder / "bash-completion/completions" / name for folder in system)
            yield Path("/etc/bash_completion.d", name)
        yield from (home / name for name in (".bashrc", ".bash_profile", ".bash_completion"))
    elif shell == "zsh":
        folders = [Path(one) for one in os.environ.get("FPATH", "").split(os.pathsep) if one]
        folders += [home / ".zfunc", home / ".zsh/completions", data / "zsh/site-functions"]
        folders += [one / "zsh/site-functions" for one in system]
        yield from (folder / "_dinac" for folder in folders)
        yield Path(os.environ.get("ZDOTDIR") or home, ".zshrc")
    else:
        yield config / "fish/completions/dinac.fish"
        yield from (folder / "fish/vendor_completions.d/dinac.fish" for folder in system)
        yield config / "fish/config.fish"


def _mentions_dinac(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "_DINAC_COMPLETE" in text or "dinac completions" in text or "dinac.bash" in text


def _parse_version(text: str) -> tuple[int, ...]:
    """Returns the numbers of a version, without zeros at the end: 2.13.0+cpu is (2, 13)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
