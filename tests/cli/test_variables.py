"""DINAC_MODEL, DINAC_DEVICE and others: defaults of options, named in errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from .processes import run


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("DINAC_MODEL", "foo bar", "no such file or folder, and neither an alias (nano, d2, "),
        ("DINAC_DEVICE", "gpu", "choose one of auto, cpu, cuda, cuda:N, mps"),
        ("DINAC_DEVICE", "cuda:99", "device cuda:99 is not available; torch finds only "),
        ("DINAC_WORKERS", "0", "expected 1 or more"),
        ("DINAC_WORKERS", "many", "expected 1 or more"),
        ("DINAC_NO_PROGRESS", "maybe", "expected 1 or 0"),
    ],
)
def test_an_error_names_the_variable(
    work: Path, tmp_path: Path, variable: str, value: str, message: str
) -> None:
    done = run("encode", "photos", tmp_path / "out", cwd=work, environment={variable: value})
    assert done.code == (1 if "99" in value else 2)
    assert done.err.startswith(f"dinac: {variable}={value}: {message}")


@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("DINAC_MODEL", ("--model", "nano")),
        ("DINAC_DEVICE", ("--device", "cpu")),
        ("DINAC_WORKERS", ("--workers", "1")),
    ],
)
def test_an_option_wins_over_its_variable(
    work: Path, variable: str, option: tuple[str, str]
) -> None:
    line = ("encode", "photos", "latents", *option)
    done = run(*line, cwd=work, environment={variable: "bad"})
    assert (done.code, done.err) == (0, "")
    refused = run(*line[:-1], "worse", cwd=work, environment={variable: "bad"})
    assert refused.err.startswith(f"dinac: {option[0]} worse: ")


def test_a_model_that_is_not_cached_names_the_variable(work: Path, tmp_path: Path) -> None:
    done = run("encode", "photos", tmp_path, cwd=work, environment={"DINAC_MODEL": "d2"})
    assert done.code == 1
    assert done.err.startswith("dinac: DINAC_MODEL=d2: model data-archetype/dinac_ae_d2 ")


def test_a_conflict_names_the_variable(work: Path) -> None:
    model = Path(__file__).parent.parent / "golden/tiny"
    done = run("encode", "photos", "latents", cwd=work, environment={"DINAC_MODEL": str(model)})
    assert done.code == 2
    assert f"; you asked for DINAC_MODEL={model} (latent space " in done.err


def test_an_empty_variable_counts_as_not_set(work: Path) -> None:
    variables = dict.fromkeys(("DINAC_MODEL", "DINAC_DEVICE", "DINAC_WORKERS"), "")
    done = run("encode", "photos", "latents", cwd=work, environment=variables)
    assert (done.code, done.err) == (0, "")


def test_every_command_with_the_option_takes_the_variable() -> None:
    variables = {"DINAC_DEVICE": "gpu", "DINAC_WORKERS": "0"}
    device = (
        "dinac: DINAC_DEVICE=gpu: choose one of auto, cpu, cuda, cuda:N, mps; encode and decode "
        "also take all or a list such as cuda:0,cuda:1\n"
    )
    workers = "dinac: DINAC_WORKERS=0: expected 1 or more\n"
    for line, expected in (
        ("decode a b", device),
        ("verify a", device),
        ("plan a b", device),
        ("features a b.safetensors", device),
        ("bench", device),
        ("train a b", device),
        ("psnr a b", workers),
        ("info a", workers),
        ("export a b --to npz", workers),
        ("report a b c.html", workers),
    ):
        done = run(*line.split(), environment=variables)
        assert (line, done.code, done.err) == (line, 2, expected)
