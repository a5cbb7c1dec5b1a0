"""Latents to planes and back: exact in f32, rounded as specified in bf16 and q8 to q3."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinac_cli.container.tensors import MAX_SYMBOL, join_planes, split_planes
from dinac_cli.errors import FormatError, Rejection

from .hand_made import make_latents

Float32 = npt.NDArray[np.float32]


def cube(values: npt.ArrayLike) -> Float32:
    """Returns values as latents of one channel and one row."""
    return np.asarray(values, np.float32)[None, None, :]


def from_bits(bits: npt.ArrayLike) -> Float32:
    return np.asarray(bits, np.uint32).view(np.float32)


def steps_of(*steps: float) -> Float32:
    return np.array(steps, np.float32)


def there_and_back(latents: Float32, precision: str, steps: Float32 | None = None) -> Float32:
    channels, rows, columns = latents.shape
    return join_planes(split_planes(latents, precision, steps), (channels, rows, columns))


def same_bits(a: Float32, b: Float32) -> bool:
    return a.tobytes() == b.tobytes()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_f32_is_exact(values: list[float]) -> None:
    assert same_bits(there_and_back(cube(values), "f32"), cube(values))


def test_bf16_is_exact_for_every_bfloat16() -> None:
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    latents = cube(from_bits(bits)[np.isfinite(from_bits(bits))])
    assert latents.size == 65536 - 256
    assert same_bits(there_and_back(latents, "bf16"), latents)


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F808000, 0x3F800000),  # tie: the even neighbour is below
        (0x3F818000, 0x3F820000),  # tie: the even neighbour is above
        (0x3F808001, 0x3F810000),
        (0x3F80FFFF, 0x3F810000),
        (0x3FFFFFFF, 0x40000000),  # the carry reaches the exponent
        (0xBF818000, 0xBF820000),
        (0x00008000, 0x00000000),
        (0x00018000, 0x00020000),  # subnormal
        (0x80000001, 0x80000000),  # minus zero
    ],
)
def test_bf16_rounds_to_nearest_even(bits: int, rounded: int) -> None:
    assert same_bits(there_and_back(cube(from_bits([bits])), "bf16"), cube(from_bits([rounded])))


def test_bf16_mantissa_plane_holds_the_sign() -> None:
    planes = split_planes(cube([-1.5, 2.0]), "bf16", None)
    assert {name: plane.ravel().tolist() for name, plane in planes.items()} == {
        "latents.exponent": [127, 128],
        "latents.mantissa": [0b1000000_1, 0],
    }


@pytest.mark.parametrize("precision", ["f32", "bf16", "q8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_written(precision: str, value: float) -> None:
    with pytest.raises(FormatError) as caught:
        split_planes(cube([0.0, value]), precision, steps_of(1.0))
    assert caught.value.rejection is Rejection.VALUE


def test_value_too_large_for_bfloat16_is_not_written() -> None:
    largest = cube(from_bits([0x7F7F7FFF]))
    assert np.isfinite(there_and_back(largest, "bf16")).all()
    with pytest.raises(FormatError, match="too large for bfloat16"):
        split_planes(cube(from_bits([0x7F7F8000])), "bf16", None)


def test_symbols_round_half_to_even() -> None:
    latents = cube([0.5, 1.5, 2.5, -0.5, -1.5, 0.51, 7.4])
    planes = split_planes(latents * 0.25, "q8", steps_of(0.25))
    packed = planes["latents.q"]
    assert packed.tolist() == [0x8A, 0xA8, 0x69, 0xF0]  # 0 2, 2 0, -2 1, 7 and an empty half
    np.testing.assert_array_equal(
        join_planes(planes, (1, 1, 7)), cube([0, 2, 2, 0, -2, 1, 7]) * np.float32(0.25)
    )


@pytest.mark.parametrize(
    ("extremes", "names"),
    [
        ((-8, 7), {"latents.step": "float32", "latents.q": "uint8"}),
        ((-8, 8), {"latents.step": "float32", "latents.q": "int8"}),
        ((-9, 7), {"latents.step": "float32", "latents.q": "int8"}),
        ((-128, 127), {"latents.step": "float32", "latents.q": "int8"}),
        (
            (-128, 128),
            {"latents.step": "float32", "latents.q.high": "int8", "latents.q.low": "int8"},
        ),
        (
            (-MAX_SYMBOL, MAX_SYMBOL),
            {"latents.step": "float32", "latents.q.high": "int8", "latents.q.low": "int8"},
        ),
    ],
)
def test_symbols_are_stored_in_the_narrowest_form(
    extremes: tuple[int, int], names: dict[str, str]
) -> None:
    latents = cube([*extremes, 0, 1, -1])
    planes = split_planes(latents, "q3", steps_of(1.0))
    assert {name: str(plane.dtype) for name, plane in planes.items()} == names
    np.testing.assert_array_equal(join_planes(planes, (1, 1, 5)), latents)


def test_every_symbol_comes_back() -> None:
    latents = cube(np.arange(-MAX_SYMBOL, MAX_SYMBOL + 1))
    planes = split_planes(latents, "q8", steps_of(1.0))
    np.testing.assert_array_equal(join_planes(planes, (1, 1, latents.size)), latents)
    few = np.abs(latents) <= 127
    assert not planes["latents.q.high"][few].any()  # zero for narrow symbols


@pytest.mark.parametrize("sign", [-1, 1])
def test_symbol_out_of_range_is_refused_and_not_clipped(sign: int) -> None:
    with pytest.raises(FormatError, match="more than 32639 steps from zero"):
        split_planes(cube([sign * (MAX_SYMBOL + 1)]), "q8", steps_of(1.0))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.integers(1, 7), st.sampled_from([0.01, 0.1, 1.0, 3.0]))
def test_quantised_latents_are_within_half_a_step_of_their_channel(
    c: int, w: int, step: float
) -> None:
    latents = make_latents((c, 2, w), seed=c * w)
    steps = (step * np.arange(1, c + 1)).astype(np.float32)
    back = there_and_back(latents, "q5", steps)
    limit = steps[:, None, None] * np.float32(0.5001)
    assert (np.abs(back - latents) <= limit).all()
    assert same_bits(there_and_back(back, "q5", steps), back)


@settings(max_examples=150)
@given(
    reach=st.sampled_from([7.4, 7.6, 127.4, 127.6, 32639.4]),
    step=st.floats(2**-20, 2**20, width=32),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9)),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_form_of_symbols_is_exact_to_half_a_step(
    reach: float, step: float, shape: tuple[int, int, int], seed: int
) -> None:
    """Packed, one byte or two: the error stays below half a step plus float32 rounding."""
    rng = np.random.default_rng(seed)
    steps = (step * rng.uniform(0.1, 1, shape[0])).astype(np.float32)
    latents = (rng.uniform(-reach, reach, shape) * steps[:, None, None]).astype(np.float32)
    planes = split_planes(latents, "q4", steps)
    error = np.abs(join_planes(planes, shape).astype(np.float64) - latents)
    rounding = 2.0**-22 * np.abs(latents) + 1e-44
    assert (error <= steps[:, None, None] / 2 + rounding).all()
    # The form is the narrowest that holds the largest symbol; symbols are never clipped to fit.
    symbols = np.rint(latents.astype(np.float64) / steps[:, None, None])
    form = {(True, True): "uint8", (False, True): "int8"}.get(
        (bool(symbols.min() >= -8 and symbols.max() <= 7), bool(np.abs(symbols).max() <= 127))
    )
    if form is None and symbols.min() >= -128 and symbols.max() <= 127:
        form = "int8"
    assert (str(planes["latents.q"].dtype) if "latents.q" in planes else None) == form


def test_groups_of_channels_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    latents, steps = make_latents((5, 3, 7)), np.linspace(0.1, 0.5, 5, dtype=np.float32)
    whole = [there_and_back(latents, "bf16"), there_and_back(latents, "q8", steps)]
    monkeypatch.setattr("dinac_cli.container.tensors._GROUP_VALUES", 50)
    grouped = [there_and_back(latents, "bf16"), there_and_back(latents, "q8", steps)]
    np.testing.assert_array_equal(grouped, whole)


@pytest.mark.parametrize("steps", [None, steps_of(), steps_of(1, 1), np.ones((1, 1), np.float32)])
def test_quantiser_needs_one_step_per_channel(steps: Float32 | None) -> None:
    with pytest.raises(FormatError, match="one step per channel"):
        split_planes(cube([1.0]), "q8", steps)


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf, 3e38])
def test_unusable_step_is_not_written(step: float) -> None:
    with pytest.raises(FormatError) as caught:
        split_planes(cube([1.0]), "q8", steps_of(step))
    assert caught.value.rejection is Rejection.STEP
