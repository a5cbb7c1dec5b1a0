"""A stand-in for the Python that runs timed commands; it starts in milliseconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Called as `PYTHON -m dinac_cli COMMAND SOURCE OUT ...`. Takes 60 MiB of memory and writes one
# empty output per input.
_PROGRAM = f"""#!{sys.executable} -IS
import json, os, sys
_, _, _, command, source, out, *options = sys.argv
memory = b"x" * (60 * 2**20)
assert command in ("encode", "decode") and options[-1] == "--json"
os.mkdir(out)
for name in os.listdir(source):
    open(os.path.join(out, name), "w").close()
    print(json.dumps({{"file": name}}), flush=True)
print(json.dumps({{"written": len(os.listdir(out))}}))
"""


def replace_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "python"
    path.write_text(_PROGRAM)
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
