"""Which arithmetic `auto` chooses, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dinac_cli.doctor import arithmetic, probe
from dinac_cli.doctor.arithmetic import judge_arithmetic, measure_arithmetic, read_flags, read_model
from dinac_cli.doctor.finding import Level

from .canned import CPU, CUDA

FACTS = CPU[probe.ARITHMETIC]
FLOAT32 = {
    "dtype": "f32",
    "torch_amx": False,
    "torch_avx512_bf16": False,
    "bf16_gain": None,
}


def test_flags_of_the_processor(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    lines = ("processor\t: 0", "model name\t: A Processor", "flags\t\t: fpu avx512_bf16 amx_bf16x")
    path.write_text("\n".join(lines))
    assert read_flags(path) == ["avx512_bf16"]
    assert read_model(path) == "A Processor"
    path.write_text("Features\t: fp asimd bf16\n")
    assert read_flags(path) is None
    assert read_flags(tmp_path / "absent") is None


@pytest.mark.parametrize("is_fast", [True, False])
def test_bfloat16_is_timed_if_auto_chooses_it(
    is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: is_fast, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(arithmetic, "_SIDE", 16)
    facts = measure_arithmetic("cpu")
    assert facts["dtype"] == ("bf16" if is_fast else "f32")
    assert facts["torch_amx"] is is_fast
    assert (facts["bf16_gain"] is not None) is is_fast
    assert facts["torch_onednn"] is True


def test_a_probe_that_torch_lacks_is_unknown() -> None:
    assert arithmetic._ask(torch.cpu, "no_such_function") is None


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.OK, "has AMX and AVX512-BF16; matrix products in bf16 are 3.5 times as fast"),
        ({"bf16_gain": 0.9}, Level.NOTE, "0.9 times as fast"),
        ({"torch_onednn": False}, Level.NOTE, "no oneDNN"),
        ({**FLOAT32, "processor": []}, Level.OK, "neither AMX nor AVX512-BF16 (it uses AVX512)"),
        ({**FLOAT32, "processor": None}, Level.OK, "neither AMX nor AVX512-BF16"),
        (
            {**FLOAT32, "processor": ["amx_bf16"]},
            Level.NOTE,
            "the processor has amx_bf16, but torch does not use it",
        ),
    ],
)
def test_arithmetic_is_judged(changes: dict[str, Any], level: Level, words: str) -> None:
    found = judge_arithmetic({**FACTS, **changes})
    assert found.level is level
    assert words in found.text


def test_on_a_gpu_the_type_is_named() -> None:
    found = judge_arithmetic(CUDA[probe.ARITHMETIC])
    assert (found.level, found.text) == (Level.OK, "--dtype auto is bf16 on cuda")
