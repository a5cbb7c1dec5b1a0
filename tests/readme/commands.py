"""The shell commands of the README, and what a test runs in their place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

_FENCE = re.compile(r"^```(\w*)$")


@dataclass(frozen=True)
class Command:
    """One command line; `section` is the heading above it."""

    section: str
    text: str


@dataclass(frozen=True)
class Substitution:
    """Part of a command that cannot run in a test, its replacement, and the reason."""

    part: str
    instead: str
    why: str


INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q -c tests/constraints.txt"
IN_CI = 'grep -qF "-c tests/constraints.txt -e \'.[test]\' && .venv/bin/pytest -q" "$ROOT/.ci/run"'
BROWSER = shutil.which("chromium")

SUBSTITUTIONS = (
    Substitution(
        f"{INSTALL} . && .venv/bin/dinac demo",
        "dinac demo",
        "the tests run the installed package; packages come from the internet",
    ),
    Substitution(
        f"{INSTALL} -e '.[test]' && .venv/bin/pytest -q",
        IN_CI,
        "the tests would run themselves; .ci/run runs this line",
    ),
    Substitution(
        ".venv/bin/pytest -q  ", IN_CI, "the tests would run themselves; .ci/run runs this line"
    ),
    Substitution("--records 100000 --images 20000", "--records 20 --images 5", "9 minutes"),
    Substitution(
        "DINAC_FUZZ=8000 pytest -n 0 tests/",
        'grep -q DINAC_FUZZ "$ROOT"/tests/',
        "2 minutes; the test itself runs beside this one",
    ),
    Substitution(
        "python -m tests.readme.picture",
        'python -c "import tests.readme.picture"',
        "test_picture.py draws the picture",
    ),
    *(() if BROWSER else (Substitution("opening large.html", "opening -h", "needs a browser"),)),
    Substitution(
        'python -m timeit -n 1 -r 5 -s "from pathlib',
        'python -W ignore -m timeit -n 1 -r 1 -s "from pathlib',
        "on a busy machine timeit warns that its figures vary, and here warnings are errors",
    ),
    Substitution(
        'python -m timeit -n 10 -s "import torch',
        'python -W ignore -m timeit -n 1 -r 1 -s "import torch',
        "half a minute",
    ),
    Substitution("torch.rand(16, 3, 256, 256)", "torch.rand(1, 3, 32, 32)", "half a minute"),
)

UNRUN = {
    "dinac bench": "tests/cli/test_bench.py",
    "dinac train": "tests/cli/test_train.py",
    "python -m tests.cli.kills": "tests/cli/kills/test_kills.py",
}
"""Start of a command that takes long → the test that runs it; here only its options are checked."""


def is_unrun(text: str) -> bool:
    """Whether only the options of a command are checked."""
    return text.startswith(tuple(UNRUN))


def substitute(text: str) -> str:
    """A command as a test runs it. Replaces the longest part first, each at most once."""
    for one in sorted(SUBSTITUTIONS, key=lambda one: -len(one.part)):
        text = text.replace(one.part, one.instead, 1)
    return text


def list_commands(readme: str = README) -> Iterator[Command]:
    """Commands of all indented and `sh` blocks, in the order of the page."""
    section, block, fence = "", list[str](), None
    was_blank = True
    for line in [*readme.splitlines(), ""]:
        if fence is None and block and not line.startswith("    "):
            yield from _split(section, block)
            block = []
        if (found := _FENCE.match(line)) is not None:
            if fence == "sh":
                yield from _split(section, block)
            fence, block = (found[1] or "text", []) if fence is None else (None, [])
        elif fence is not None:
            block.append(line)
        elif line.startswith("    ") and (block or was_blank):
            block.append(line[4:])
        elif line.startswith(("## ", "### ")):
            section = line.lstrip("# ")
        was_blank = not line.strip()


def _split(section: str, block: list[str]) -> Iterator[Command]:
    lines = "\n".join(block).replace("\\\n", " ").splitlines()
    return (Command(section, line) for line in lines if line.strip())
