"""The process that decodes one HEIC image with pi-heif; see `heic.py`.

Reads the file from standard input. Writes one line of JSON and, if asked to decode, the pixels.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

DECODE, MEASURE = "decode", "measure"


def main(task: str) -> None:
    """Does `task` (DECODE or MEASURE) and writes the answer to standard output."""
    pixels = b""
    try:
        answer, pixels = _answer(task, sys.stdin.buffer.read())
    except Exception as exc:  # the parent process explains it
        answer = {"error": f"{type(exc).__name__}: {exc}"}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + pixels)
    sys.stdout.buffer.flush()


def _answer(task: str, data: bytes) -> tuple[dict[str, Any], bytes]:
    from pi_heif import HeifImageFile

    opened = HeifImageFile(io.BytesIO(data))
    frames = opened.n_frames
    if task == DECODE:
        opened.load()
    nclx = opened.info.get("nclx_profile")
    codes = nclx and (nclx["color_primaries"], nclx["transfer_characteristics"])
    profile = opened.info.get("icc_profile")
    answer = {
        "size": opened.size,
        "mode": opened.mode,
        "frames": frames,
        "codes": codes,
        "profile": None if profile is None else profile.hex(),
    }
    return answer, opened.tobytes() if task == DECODE else b""
