"""The card is valid Markdown whatever the names are, and compares speeds of unlike decoders."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.compare.card import is_card, write_card
from dinac_cli.compare.figure_tables import tabulate_speed
from dinac_cli.compare.figures import Comparison, Speed, summarise_variant
from dinac_cli.compare.result_files import Measure, SourceStat
from dinac_cli.compare.variants import ComparedModel, Variant
from dinac_cli.models.interface import DinacAEInferenceConfig

MACHINE = {"name": "a machine", "device": "cuda", "dtype": "bf16", "torch": "2", "dinac": "1"}


def make_measure(psnr_db: float, ssim: float | None = 0.5) -> Measure:
    return Measure(
        source_sha256="ab" * 32,
        source=SourceStat(1, 2, 3),
        record_sha256="cd" * 32,
        record_bytes=100,
        height=10,
        width=20,
        psnr_db=psnr_db,
        ssim=ssim,
        ms_ssim=None,
    )


def make_comparison(label: str = "nano", command: str = "dinac compare a b") -> Comparison:
    handle: Any = None  # no table needs it
    model = ComparedModel(label, label, handle)
    variant = Variant(model, "q6", DinacAEInferenceConfig(), 1, "0" * 16, "1" * 16)
    measures = [make_measure(30.0), make_measure(40.0, None)]
    return Comparison(
        images=["a", "b"],
        left_out=0,
        shown=[],
        models=[model],
        variants=[summarise_variant(variant, measures)],
        speeds=[],
        baseline=None,
        machine=MACHINE,
        settings={},
        command=command,
        results={},
    )


def make_speed(model: str, task: str, steps: int, ms: float, peak: float | None) -> Speed:
    return Speed(
        model=model, task=task, steps=steps, side=256, batch=128, ms_per_batch=ms, peak_mib=peak
    )


def test_figures_are_those_of_the_measures() -> None:
    [figures] = make_comparison().variants
    assert (figures.psnr.mean, figures.psnr.std) == (35.0, 5.0)
    assert (figures.ssim, figures.ssim_images, figures.ms_ssim) == (0.5, 1, None)
    assert figures.bits_per_pixel == 8 * 200 / 400


@pytest.mark.parametrize("label", ["a|b", "x*y_z`w`", "<b>", "back\\slash", "two\nlines"])
def test_names_stay_in_their_cells(label: str) -> None:
    card = write_card(make_comparison(label)).decode()
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert len(rows) == 3
    cells = [re.split(r"(?<!\\)\|", row) for row in rows]
    assert {len(row) for row in cells} == {13}
    shown = re.sub(r"\\(.)", r"\1", cells[2][1]).strip()
    assert shown == " ".join(label.split())


def test_a_command_with_backticks_stays_in_its_block() -> None:
    card = write_card(make_comparison(command="dinac compare 'a```b' out")).decode()
    assert "````sh\ndinac compare 'a```b' out\n````\n" in card


def test_a_decoder_without_steps_is_compared_with_every_number_of_steps() -> None:
    speeds = [
        make_speed("d2", "decode", 1, 50.0, 1000.0),
        make_speed("d2", "decode", 4, 200.0, None),
        make_speed("flux2", "decode", 0, 100.0, 4000.0),
    ]
    comparison = replace(make_comparison(), speeds=speeds, baseline="flux2")
    heads, *rows = tabulate_speed(comparison, "decode")
    assert heads[-2:] == ["Speedup vs flux2", "Memory reduction vs flux2"]
    assert [row[2:4] + row[-3:] for row in rows] == [
        ["d2", "1", "1000.0", "2.00x", "75.0%"],
        ["d2", "4", "-", "0.50x", "-"],
        ["flux2", "-", "4000.0", "1.00x", "0.0%"],
    ]
    assert tabulate_speed(comparison, "encode")[1:] == []


def test_a_card_knows_whether_it_was_edited(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    assert not is_card(str(path))
    path.write_bytes(write_card(make_comparison()))
    assert is_card(str(path))
    path.write_bytes(path.read_bytes().replace(b"35.00", b"36.00"))
    assert not is_card(str(path))
    path.write_bytes(b"short")
    assert not is_card(str(path))
