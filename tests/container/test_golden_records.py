"""Format version 1 is frozen: golden records keep reading and writing identically."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from dinac_cli.container.frame import FORMAT_VERSION
from dinac_cli.container.record import unpack_record

from .golden_records import FOLDER, INDEX, KINDS, build_record, content_of, describe

PINNED: dict[str, dict[str, Any]] = json.loads(INDEX.read_text(encoding="utf-8"))
INDEX_SHA256 = "1334eb1e79e97244f1da1bec91701d720373b852b7d910cbc9124cf25abbef96"


def test_index_of_golden_records_is_pinned() -> None:
    assert FORMAT_VERSION == 1
    assert hashlib.sha256(INDEX.read_bytes()).hexdigest() == INDEX_SHA256
    assert {path.stem for path in FOLDER.glob("*.dinac")} == set(PINNED) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_golden_record_reads_as_pinned(kind: str) -> None:
    assert describe((FOLDER / f"{kind}.dinac").read_bytes()) == PINNED[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_golden_content_is_written_as_pinned(kind: str) -> None:
    # Compares contents: another zstd release may compress the same content to other bytes.
    content = content_of(build_record(kind))
    assert hashlib.sha256(content).hexdigest() == PINNED[kind]["content_sha256"]


def test_reserved_tensors_do_not_change_header_or_latents() -> None:
    with_reserved = unpack_record((FOLDER / "reserved.dinac").read_bytes())
    plain = unpack_record((FOLDER / "bf16.dinac").read_bytes())
    assert with_reserved.header == plain.header
    np.testing.assert_array_equal(with_reserved.latents, plain.latents)


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("q8", {"latents.q.high", "latents.q.low", "latents.step"}),
        ("q5", {"latents.q", "latents.step"}),
        ("q3", {"latents.q", "latents.step"}),
    ],
)
def test_golden_records_cover_every_symbol_width(kind: str, tensors: set[str]) -> None:
    content = content_of((FOLDER / f"{kind}.dinac").read_bytes())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header.keys() - {"__metadata__"} == tensors
    dtypes = {"q8": "I8", "q5": "I8", "q3": "U8"}
    assert header[min(tensors)]["dtype"] == dtypes[kind]
