"""The rate of records, checked against known sizes and entropies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dinac_cli.bench.rate import measure_rates
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import pack_encoded
from dinac_cli.container.tensors import Encoded


def _pack(
    latents: np.ndarray, precision: str, step: float | None = None, *, twice: bool = False
) -> bytes:
    channels, rows, columns = latents.shape
    header = RecordHeader(
        shape=(channels, rows, columns),
        height=rows * 16,
        width=columns * 16,
        patch=16,
        latent_space="0" * 16,
        weights="0" * 16,
        precision=precision,
    )
    steps = None if step is None else np.full(channels, step, np.float32)
    latents = latents.astype(np.float32)
    encoded = Encoded(latents)
    return pack_encoded(header, encoded, steps, encoded if twice else None)


def test_counts_are_pooled_per_precision() -> None:
    rng = np.random.default_rng(0)
    records = [_pack(rng.standard_normal((4, 8, 8)), "bf16") for _ in range(3)]
    records.append(_pack(rng.standard_normal((4, 2, 2)), "f32"))
    rates = measure_rates(records)
    assert list(rates) == ["bf16", "f32"]
    assert rates["bf16"].records == 3
    assert rates["bf16"].values == 3 * 4 * 64
    assert rates["bf16"].pixels == 3 * 128 * 128
    assert rates["bf16"].record_bytes == sum(map(len, records[:3]))
    assert rates["bf16"].bits_per_pixel == pytest.approx(8 * sum(map(len, records[:3])) / 49152)
    assert rates["f32"].histograms.keys() == {f"latents.{byte}" for byte in range(4)}


def test_companions_are_counted_as_float32() -> None:
    header = RecordHeader(
        shape=(1, 16, 16),
        height=256,
        width=256,
        patch=16,
        latent_space="0" * 16,
        weights="0" * 16,
        precision="f32",
    )
    values = np.ones((1, 16, 16), np.float32)
    (rate,) = measure_rates([pack_encoded(header, Encoded(values, logsnr=-values))]).values()
    names = ("latents", "posterior.logsnr")
    assert rate.histograms.keys() == {f"{name}.{byte}" for name in names for byte in range(4)}
    assert rate.histograms["posterior.logsnr.3"][0xBF] == 256
    assert rate.entropy_bits == 0


def test_entropy_of_uniform_symbols_is_their_logarithm() -> None:
    symbols = np.tile(np.arange(64) - 32, 64).reshape(4, 32, 32)
    (rate,) = measure_rates([_pack(symbols, "q8", step=1.0)]).values()
    assert rate.entropy_bits == pytest.approx(math.log2(64))
    assert rate.payload_bytes < rate.record_bytes


def test_mirrored_twins_count_as_latents() -> None:
    symbols = np.tile(np.arange(64) - 32, 64).reshape(4, 32, 32)
    (rate,) = measure_rates([_pack(symbols, "q8", step=1.0, twice=True)]).values()
    assert rate.values == 2 * symbols.size
    assert rate.entropy_bits == pytest.approx(math.log2(64))


def test_entropy_of_packed_symbols_is_that_of_pairs() -> None:
    symbols = np.tile([-1, 1], 2048).reshape(4, 32, 32)
    (rate,) = measure_rates([_pack(symbols, "q3", step=1.0)]).values()
    assert rate.entropy_bits == pytest.approx(0.0)


def test_payload_of_noise_is_near_its_entropy_and_overhead_is_small() -> None:
    latents = np.random.default_rng(1).standard_normal((128, 16, 16))
    for precision, step in (("bf16", None), ("q8", 1 / 32), ("q5", 1 / 4), ("q3", 1.0)):
        (rate,) = measure_rates([_pack(latents, precision, step)]).values()
        # The entropy uses the image's own histogram, so the coder needs slightly more.
        assert rate.payload_bits < 1.04 * rate.entropy_bits, precision
        # The header and frames of a 256x256 image.
        assert rate.overhead_bytes <= 600
