"""What a wheel and a source distribution of the project contain."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

import dinac_cli

PACKAGE = Path(dinac_cli.__file__).parent
ROOT = PACKAGE.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="needs the project's own file"
)


def list_package() -> set[str]:
    """Files of the package in this checkout, without Python's caches."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_holds_the_whole_package_and_nothing_else(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    [path] = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        facts = f"dinac_cli-{dinac_cli.__version__}.dist-info"
        entry_points = archive.read(f"{facts}/entry_points.txt").decode()
    assert {name for name in names if not name.startswith(facts)} == list_package()
    assert f"{facts}/licenses/LICENSE" in names
    assert entry_points == "[console_scripts]\ndinac = dinac_cli.cli:main\n"
    assert names >= {
        f"dinac_cli/{name}"
        for name in (
            "man/dinac.1",
            "py.typed",
            "report/page.css",
            "report/page.html",
            "report/page.js",
            "weights/nano/config.json",
            "weights/nano/model.safetensors",
        )
    }


def test_source_distribution_holds_the_package_and_its_tests(tmp_path: Path) -> None:
    sdist = pytest.importorskip("hatchling.builders.sdist")
    [path] = sdist.SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in names if name.startswith("dinac_cli/")} == list_package()
    assert names >= {
        ".ci/run",
        "LICENSE",
        "README.md",
        "completions/_dinac",
        "pyproject.toml",
        "tests/constraints.txt",
        "tests/pages/picture.png",
    }
    assert not [name for name in names if "cache" in Path(name).parts[0] or name.endswith(".pyc")]
