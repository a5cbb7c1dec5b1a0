"""Compares `nano` on this machine with results that are stored in the package.

`python -m dinac_cli.artifacts reference` computes the stored results: the latents of a drawn image,
and the image that these latents decode to, both with the plain network in float32 on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dinac_cli.doctor.finding import Facts, Finding, fail, ok

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from dinac_cli.codec.engine import Engine
    from dinac_cli.images.pixels import Pixels

REFERENCE = Path(__file__).parent / "reference.safetensors"

_HEIGHT, _WIDTH = 45, 61  # neither is a multiple of the patch size


@dataclass(frozen=True)
class Limits:
    """The largest accepted errors: of latents, relative; of pixels, in levels of 255."""

    latents: float
    pixels: float


# Processors round differently: float32 differs by about 1e-6. In bfloat16, latents differ by 3e-3
# and pixels by 0.4 levels. A wrong kernel gives errors far above these limits.
LIMITS = {"f32": Limits(1e-4, 0.2), "bf16": Limits(2e-2, 2.0)}


def draw_image() -> Pixels:
    """Draws the image of the reference, uint8 [45, 61, 3], with integers only."""
    import numpy as np

    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    rings = (columns - 30) ** 2 + (rows - 22) ** 2
    channels = (
        _fold(5 * columns + 2 * rows, 160),
        _fold(rings, 400),
        _fold(3 * columns + 7 * rows, 230),
    )
    image = np.stack(channels, axis=-1).astype(np.uint8)
    image[10:20, 8:30] = (240, 30, 40)  # hard edges
    return image


def _fold(values: npt.NDArray[np.int64], period: int) -> npt.NDArray[np.int64]:
    """Returns a triangle wave from 0 to 255."""
    import numpy as np

    values = values % (2 * period)
    return np.minimum(values, 2 * period - values) * 255 // period


@dataclass(frozen=True)
class Reference:
    """The stored results: `latents`, float32 [C, h, w]; `pixels`, uint8 [H, W, 3].

    `weights` identifies the network that computed them.
    """

    latents: npt.NDArray[np.float32]
    pixels: Pixels
    weights: str


def read_reference() -> Reference:
    """Reads the stored results from the package."""
    from safetensors import safe_open

    with safe_open(REFERENCE, "np") as file:
        weights = file.metadata()["weights"]
        return Reference(file.get_tensor("latents"), file.get_tensor("pixels"), weights)


def write_reference(path: Path) -> None:
    """Computes the results with the plain network and writes them. Imports torch."""
    import numpy as np
    from safetensors.numpy import save

    from dinac_cli.codec.engine import Engine
    from dinac_cli.models.aliases import NANO
    from dinac_cli.models.dinac.autoencoder import DinacAE
    from dinac_cli.models.registry import resolve_model

    engine = Engine(DinacAE.from_pretrained(NANO))
    [latents] = engine.encode([draw_image()])
    pixels = np.ascontiguousarray(_decode(engine, latents))
    weights = resolve_model(NANO).identify().weights
    path.write_bytes(save({"latents": latents, "pixels": pixels}, {"weights": weights}))


def _decode(engine: Engine, latents: npt.NDArray[np.float32]) -> Pixels:
    from dinac_cli.models.interface import DinacAEInferenceConfig

    size = (_HEIGHT, _WIDTH)
    [pixels] = engine.decode([latents], [size], DinacAEInferenceConfig(seed=0))
    return pixels


def measure_float32(device: str) -> Facts:
    """Calls `measure_parity` for float32."""
    return measure_parity(device, "f32")


def measure_bfloat16(device: str) -> Facts | None:
    """Calls `measure_parity` for bfloat16, if that is what `--dtype auto` chooses."""
    import torch

    from dinac_cli.models.device import resolve_device, resolve_dtype

    is_used = resolve_dtype("auto", resolve_device(device)) == torch.bfloat16
    return measure_parity(device, "bf16") if is_used else None


def measure_parity(device: str, dtype: str) -> Facts:
    """Encodes and decodes with `nano` as a run does, and compares with the reference.

    An error is None if a value of the result is not a number. Imports torch. Raises DinacError.
    """
    from dinac_cli.codec.handle import DeviceChoice, ModelHandle
    from dinac_cli.models.aliases import NANO
    from dinac_cli.models.interface import DECODER, ENCODER
    from dinac_cli.models.registry import resolve_model

    expected = read_reference()
    choice = DeviceChoice(device=device, dtype=dtype)
    engine = ModelHandle(resolve_model(NANO), ENCODER, choice, (DECODER,)).engine
    [latents] = engine.encode([draw_image()])
    pixels = _decode(engine, expected.latents)
    return {
        "dtype": dtype,
        "compute": engine.compute,
        "latents_error": _drop_nan(measure_error(latents, expected.latents)),
        "pixels_error": _drop_nan(measure_levels(pixels, expected.pixels)),
    }


def measure_error(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Returns the relative L2 distance, or NaN if a value is not a number."""
    import numpy as np

    difference = found.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


def measure_levels(found: Pixels, expected: Pixels) -> float:
    """Returns the root mean square of the differences between two images, in levels of 255."""
    import numpy as np

    return float(np.sqrt(np.mean((found.astype(np.float64) - expected) ** 2)))


def _drop_nan(value: float) -> float | None:
    return value if math.isfinite(value) else None


def judge_parity(facts: Facts) -> Finding:
    """Compares the errors with their limits."""
    dtype, device = facts["dtype"], str(facts["compute"]).partition("/")[0]
    name, limits = f"nano in {dtype}", LIMITS[dtype]
    facts = {**facts, "latents_limit": limits.latents, "pixels_limit": limits.pixels}
    text = (
        f"latents {_compare(facts['latents_error'], limits.latents)}, "
        f"decoded pixels {_compare(facts['pixels_error'], limits.pixels, ' of 255 levels')}"
    )
    holds = all(
        error is not None and error <= limit
        for error, limit in (
            (facts["latents_error"], limits.latents),
            (facts["pixels_error"], limits.pixels),
        )
    )
    if holds:
        return ok(name, f"the embedded model gives the expected results on {device}: {text}", facts)
    remedy = "do not use results of this installation; reinstall torch, and open an issue"
    if device == "cuda":
        remedy = "do not use results of this device; try DINAC_CUDA=plain, and open an issue"
    return fail(name, f"the embedded model gives WRONG results on {device}: {text}", remedy, facts)


def _compare(error: float | None, limit: float, unit: str = "") -> str:
    if error is None:
        return "are not numbers"
    return f"differ by {error:.2g}{unit} (limit {limit:g})"
