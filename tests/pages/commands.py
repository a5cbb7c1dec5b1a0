"""The shell commands of all pages, and what a test runs in their place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from .pages import PAGES, Page


@dataclass(frozen=True)
class Command:
    """One command line of a page; `section` is the heading above it.

    `output` is the output that the page shows, or None if it shows none.
    """

    page: str
    section: str
    text: str
    output: str | None = None


@dataclass(frozen=True)
class Substitution:
    """Part of a command that cannot run in a test, its replacement, and the reason."""

    part: str
    instead: str
    why: str


INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q -c tests/constraints.txt"
TESTS = f"{INSTALL} -e '.[test]' && .venv/bin/pytest -q"
IN_CI = (
    'grep -qF -e "-c tests/constraints.txt -e \'.[test]\' && .venv/bin/pytest -q" "$ROOT/.ci/run"'
)
BROWSER = shutil.which("chromium")

SUBSTITUTIONS = (
    Substitution(
        f"{INSTALL} '.[fast]' && .venv/bin/dinac demo",
        "dinac demo",
        "the tests run the installed package; packages come from the internet",
    ),
    Substitution(TESTS, IN_CI, "the tests would run themselves; .ci/run runs this line"),
    Substitution(
        "--records 100000 --images 20000 --tars 20000 --parquet 20000",
        "--records 20 --images 5 --tars 20 --parquet 20 --indexes 20 --facts 20",
        "10 minutes",
    ),
    Substitution(
        "DINAC_FUZZ=8000 pytest -n 0 tests/",
        'grep -q DINAC_FUZZ "$ROOT"/tests/',
        "2 minutes; the test itself runs beside this one",
    ),
    Substitution(
        "pytest -q -n 0 tests/cli/test_psnr.py -k",
        'grep "$ROOT/tests/cli/test_psnr.py" -e',
        "the tests would run themselves",
    ),
    Substitution(
        "ruff check && ruff format --check && mypy",
        'grep -q ruff "$ROOT/.ci/run"',
        "a quarter of a minute; .ci/run runs them",
    ),
    Substitution(
        "python -m tests.pages.picture",
        'python -c "import tests.pages.picture"',
        "test_picture.py draws the picture",
    ),
    Substitution("compare photos/ card/", "compare photos/ card/ --no-speed", "a minute"),
    *(() if BROWSER else (Substitution("opening large.html", "opening -h", "needs a browser"),)),
    Substitution(
        'python -m timeit -n 1 -r 5 -s "from pathlib',
        'python -W ignore -m timeit -n 1 -r 1 -s "from pathlib',
        "on a busy machine timeit warns that its figures vary, and here warnings are errors",
    ),
    Substitution(
        'python -m timeit -n 1 -r 5 -s "import numpy',
        'python -W ignore -m timeit -n 1 -r 1 -s "import numpy',
        "on a busy machine timeit warns that its figures vary, and here warnings are errors",
    ),
    Substitution(
        'python -m timeit -n 10 -s "import torch',
        'python -W ignore -m timeit -n 1 -r 1 -s "import torch',
        "half a minute",
    ),
    *(
        Substitution(f"--device {devices}", "--device cpu", "needs several GPUs")
        for devices in ("all", "cuda:0,cuda:1")
    ),
    Substitution("torch.rand(16, 3, 256, 256)", "torch.rand(1, 3, 32, 32)", "half a minute"),
)

UNRUN = {
    "dinac bench": "tests/cli/test_bench.py",
    "dinac encode photos/ semdis/": "tests/cli/test_semdisdiffae.py",  # the weights cannot be had
    "dinac encode photos/ on-ray/": "tests/cli/test_encode_on_ray.py",
    "dinac psnr --metrics": "tests/cli/test_psnr.py",  # the weights cannot be had
    "dinac train": "tests/cli/test_train.py",
    "python -m tests.cli.kills": "tests/cli/kills/test_kills.py",
    "python -m tests.jobs.ray_faults": "tests/jobs/test_ray.py",
    "python -m tests.fuzzing.program": "tests/fuzzing/program/test_program.py",
}
"""Start of a command that takes long → the test that runs it; here only its options are checked."""

_VARYING = re.compile(r"\d+(?:[.,:]\d+)*(?: ?[kMG]?B\b)?")


def is_unrun(text: str) -> bool:
    """Whether only the options of a command are checked."""
    return text.startswith(tuple(UNRUN))


def substitute(text: str) -> str:
    """A command as a test runs it. Replaces the longest part first, each at most once."""
    for one in sorted(SUBSTITUTIONS, key=lambda one: -len(one.part)):
        text = text.replace(one.part, one.instead, 1)
    return text


def list_commands(page: Page) -> Iterator[Command]:
    """The commands of all `sh` and `console` blocks, in the order of the page.

    In a `console` block, a line that begins with `$ ` is a command, and other lines are its output.
    """
    for block in page.list_blocks("sh", "console"):
        if block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.strip():
                    yield Command(page.name, block.section, line)
            continue
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            text, _, output = part.partition("\n")
            yield Command(page.name, block.section, text, output)


def blur(output: str) -> str:
    """Removes what differs between machines: numbers, sizes and the widths of columns."""
    return re.sub(r" +", " ", _VARYING.sub("0", output)).strip()


COMMANDS = [command for page in PAGES for command in list_commands(page)]
