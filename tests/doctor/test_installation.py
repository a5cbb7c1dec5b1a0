"""Versions, extras and completions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dinac_cli.doctor import installation, probe
from dinac_cli.doctor.finding import Level
from dinac_cli.doctor.installation import (
    Requirement,
    check_completions,
    check_extra,
    check_packages,
    check_system,
    judge_formats,
    judge_jpeg,
    list_requirements,
    measure_extras,
    parse_requirement,
)

from .canned import CPU

EXTRAS = CPU[probe.EXTRAS]


def test_the_system_is_named() -> None:
    found = check_system("9.9.9")
    assert found.level is Level.OK
    assert found.text.startswith("version 9.9.9; Python 3.")
    assert found.facts["dinac"] == "9.9.9"


@pytest.mark.parametrize(
    ("version", "holds"),
    [
        ("2.9", True),
        ("2.9.0", True),
        ("2.13.0+cpu", True),
        ("2.10.1.dev20260101", True),
        ("2.8.9", False),
        ("3.0", False),
        ("3.0.0a1", False),
        (None, False),
    ],
)
def test_versions_are_compared_by_numbers(version: str | None, holds: bool) -> None:
    assert Requirement("torch", "2.9", "3", version).holds is holds


@pytest.mark.parametrize(
    ("line", "specifier"),
    [
        ("torch<3,>=2.9", "torch>=2.9,<3"),
        ("numpy>=1.26", "numpy>=1.26"),
        ("rich (>=13.8)", "rich>=13.8"),
        ("zstandard", "zstandard"),
        ("x[y]>=1; python_version >= '3.11'", "x>=1"),
    ],
)
def test_requirements_are_parsed(line: str, specifier: str) -> None:
    assert parse_requirement(line).specifier == specifier


def test_the_packages_of_this_installation_are_listed() -> None:
    found = list_requirements()
    assert found is not None
    assert {"torch", "numpy", "pillow", "zstandard"} <= {one.name for one in found}
    assert "simplejpeg" not in {one.name for one in found}  # an extra
    assert all(one.version for one in found)


def test_a_wrong_version_is_a_fault_with_its_remedy() -> None:
    wanted = [
        Requirement("torch", "2.9", "3", "2.8.0"),
        Requirement("rich", "13.8", "", None),
        Requirement("numpy", "1.26", "", "2.0"),
    ]
    found = check_packages(wanted)
    assert found.level is Level.FAIL
    assert found.text.endswith(": torch 2.8.0, rich is missing")
    assert found.remedy == "pip install 'torch>=2.9,<3' 'rich>=13.8'"
    assert check_packages(wanted[2:]).level is Level.OK
    assert check_packages(None).level is Level.NOTE


def test_missing_package_data_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "DISTRIBUTION", "no-such-distribution")
    assert list_requirements() is None


def test_extras_are_measured_with_the_real_libraries() -> None:
    found = measure_extras()
    assert found["same_pixels"] is True
    assert judge_jpeg(found).level is Level.OK
    assert judge_formats(found).level in (Level.OK, Level.NOTE)


def test_simplejpeg_can_be_right_missing_or_different() -> None:
    assert judge_jpeg(EXTRAS).level is Level.OK
    missing = judge_jpeg({**EXTRAS, "simplejpeg": None, "same_pixels": False})
    assert (missing.level, missing.remedy) == (Level.NOTE, "pip install 'dinac-cli[fast]'")
    other = judge_jpeg({**EXTRAS, "same_pixels": False})
    assert other.level is Level.NOTE
    assert "other pixels than Pillow" in other.text


def test_formats_can_be_complete_or_missing() -> None:
    assert judge_formats(EXTRAS).level is Level.OK
    one = judge_formats({**EXTRAS, "missing": {"pylibjxl": "JPEG XL"}})
    assert one.text == "pylibjxl is not installed: JPEG XL files fail"
    both = judge_formats({**EXTRAS, "missing": {"pi-heif": "HEIC", "pylibjxl": "JPEG XL"}})
    assert both.text == "pi-heif and pylibjxl are not installed: HEIC and JPEG XL files fail"
    assert (both.level, both.remedy) == (Level.NOTE, "pip install 'dinac-cli[formats]'")


@pytest.mark.parametrize("extra", installation.EXTRAS)
def test_extras_of_one_package(monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    package, purpose = installation.EXTRAS[extra]
    project = Path(__file__, "../../../pyproject.toml").resolve().read_text("utf-8")
    assert re.search(rf'(?m)^{extra} = \[[^]]*"{package}\b', project)
    monkeypatch.setattr(installation, "find_version", {package: "0.36"}.get)
    found = check_extra(extra)
    assert (found.level, found.text) == (Level.OK, f"{package} 0.36, for {purpose}")
    monkeypatch.setattr(installation, "find_version", lambda name: None)
    found = check_extra(extra)
    assert found.text == f"{package} is not installed; only {purpose} needs it"
    assert (found.level, found.remedy) == (Level.NOTE, f"pip install 'dinac-cli[{extra}]'")


@pytest.mark.parametrize(
    ("shell", "name", "text"),
    [
        ("bash", ".bashrc", "source <(dinac completions bash)"),
        ("bash", ".local/share/bash-completion/completions/dinac", "_DINAC_COMPLETE"),
        ("zsh", ".zfunc/_dinac", "_DINAC_COMPLETE"),
        ("fish", ".config/fish/completions/dinac.fish", "_DINAC_COMPLETE"),
    ],
)
def test_completions_are_found(
    shell: str, name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR", "FPATH"):
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# nothing of ours\n")
    absent = check_completions(tmp_path)
    assert absent.level is Level.NOTE
    assert absent.text == f"{shell} does not complete dinac's options yet"
    path.write_text(f"# mine\n{text}\n")
    found = check_completions(tmp_path)
    assert (found.level, found.facts["place"]) == (Level.OK, str(path))


@pytest.mark.parametrize("shell", [None, "/bin/dash"])
def test_other_shells_are_a_note(
    shell: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHELL", raising=False)
    if shell is not None:
        monkeypatch.setenv("SHELL", shell)
    assert check_completions(tmp_path).level is Level.NOTE
