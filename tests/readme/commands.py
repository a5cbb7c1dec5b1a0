"""The commands of the README, as a reader would copy them, and what a test runs in their place."""

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
    """One command line, or one whole example in Python; `section` is the heading above."""

    section: str
    text: str
    is_python: bool = False


@dataclass(frozen=True)
class Substitution:
    """Part of a command that cannot run in a test, what runs instead, and why."""

    part: str
    instead: str
    why: str


IN_CI = 'grep -qF "pip install -q -e \'.[test]\' && .venv/bin/pytest -q" "$ROOT/.ci/run"'
BENCH_OF_NETWORKS = "dinac bench --only network --resolution 32 --seconds 0.1"
BROWSER = shutil.which("chromium")
SHORT_TRAINING = "--steps 1 --crop 32 --batch-size 2"

SUBSTITUTIONS = (
    Substitution(
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/dinac demo",
        "dinac demo",
        "what is installed is what is tested; packages come from a network",
    ),
    Substitution(
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest -q",
        IN_CI,
        "the tests would run themselves; .ci/run runs this very line",
    ),
    Substitution(
        ".venv/bin/pytest -q  ", IN_CI, "the tests would run themselves; .ci/run runs this"
    ),
    Substitution("--minutes 60", SHORT_TRAINING, "an hour"),
    Substitution("--steps 12000 --compile", SHORT_TRAINING, "74 minutes"),
    Substitution("--records 100000 --images 20000", "--records 20 --images 5", "9 minutes"),
    Substitution("--times 200 --steps 40", "--times 1 --steps 2", "18 minutes"),
    Substitution(
        "DINAC_FUZZ=8000 pytest -n 0 tests/",
        'DINAC_FUZZ=60 python -m pytest -q -n 0 -p no:cacheprovider "$ROOT"/tests/',
        "2 minutes",
    ),
    Substitution(
        "python -m tests.readme.picture",
        "python -m tests.readme.picture drawn.png",
        "the repository stays as it is",
    ),
    *(() if BROWSER else (Substitution("opening large.html", "opening -h", "needs a browser"),)),
    Substitution("--files 200 --files 2000", "--files 2 --files 3", "minutes"),
    Substitution("--files 50 --files 300", "--files 2 --files 3", "minutes"),
    Substitution(
        "dinac bench --random-weights d2 --compile --compare flux2",
        BENCH_OF_NETWORKS,
        "minutes, a C++ compiler, and a library that the tests do without",
    ),
    Substitution(
        "dinac bench --only network --random-weights d2 --compile --compare flux2 --seconds 60 "
        "--resolution 256",
        BENCH_OF_NETWORKS,
        "the same",
    ),
    Substitution("dinac bench  ", f"{BENCH_OF_NETWORKS}  ", "a minute"),
    Substitution(
        'python -m timeit -n 1 -r 5 -s "from pathlib',
        'python -W ignore -m timeit -n 1 -r 5 -s "from pathlib',
        "on a busy machine timeit warns that its figures vary, and here warnings are errors",
    ),
    Substitution(
        'python -m timeit -n 10 -s "import torch',
        'python -W ignore -m timeit -n 1 -r 1 -s "import torch',
        "half a minute",
    ),
    Substitution("torch.rand(16, 3, 256, 256)", "torch.rand(1, 3, 32, 32)", "half a minute"),
)


def substitute(text: str) -> str:
    """A command as a test runs it. The longest part is replaced first, each at most once."""
    for one in sorted(SUBSTITUTIONS, key=lambda one: -len(one.part)):
        text = text.replace(one.part, one.instead, 1)
    return text


def list_commands(readme: str = README) -> Iterator[Command]:
    """Commands of all indented and fenced blocks, in the order of the page."""
    section, block, fence = "", list[str](), None
    was_blank = True
    for line in [*readme.splitlines(), ""]:
        if fence is None and block and not line.startswith("    "):
            yield from _split(section, block)
            block = []
        if (found := _FENCE.match(line)) is not None:
            if fence == "python":
                yield Command(section, "\n".join(block), is_python=True)
            elif fence == "sh":
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
