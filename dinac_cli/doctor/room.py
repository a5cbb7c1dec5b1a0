"""Checks how large an image may be: the free memory and its limits."""

from __future__ import annotations

import math
from pathlib import Path

from dinac_cli.doctor.finding import Facts, Finding, fail, note, ok

_CGROUPS = Path("/sys/fs/cgroup")
_LIMIT_FILES = ("memory.max", "memory/memory.limit_in_bytes")
_NO_LIMIT = 2**60  # version 1 of control groups writes a huge number

PHOTO_PIXELS = 12_000_000
LEAST_PIXELS = 512 * 512


def measure_memory(device: str) -> Facts:
    """Returns the free memory of a device, and the largest image of each model.

    `largest` maps a model to a number of pixels. The numbers are None if the free memory is
    unknown. Imports torch.
    """
    from dinac_cli.codec.memory import free_bytes
    from dinac_cli.images.formats import MAX_PIXELS
    from dinac_cli.models.aliases import NANO
    from dinac_cli.models.device import resolve_device
    from dinac_cli.models.dinac.config import RELEASED
    from dinac_cli.models.registry import open_nano

    free = free_bytes(resolve_device(device))
    configs = {NANO: open_nano().read_config(), "d2": RELEASED["d2"]}
    return {
        "free_bytes": free,
        "limit_bytes": read_limit(_CGROUPS),
        "max_pixels": MAX_PIXELS,
        "largest": {
            name: None if free is None else free // one.traits.token_bytes * one.patch_size**2
            for name, one in configs.items()
        },
    }


def read_limit(groups: Path) -> int | None:
    """Returns the memory limit of the control group in bytes, or None if there is none."""
    for name in _LIMIT_FILES:
        try:
            limit = int((groups / name).read_text("ascii"))
        except (OSError, ValueError):  # without a limit, version 2 writes "max"
            continue
        return limit if limit < _NO_LIMIT else None
    return None


def judge_memory(facts: Facts, model: str) -> Finding:
    """Says how large an image may be for `model`, the default on the device."""
    free, limit, largest = facts["free_bytes"], facts["limit_bytes"], facts["largest"]
    if free is None:
        text = (
            "the free memory is unknown here; an image that is too large fails, and the run goes on"
        )
        return ok("memory", text, facts)
    amount = f"{free / 2**30:.1f} GiB free"
    if limit is not None:
        amount += f" of {limit / 2**30:.1f} GiB that the control group allows"
    most = facts["max_pixels"]
    sizes = (f"{_describe(count, most)} with {name}" for name, count in largest.items())
    text = f"{amount}; the largest image that fits: {', '.join(sizes)}"
    if largest[model] >= PHOTO_PIXELS:
        return ok("memory", text, facts)
    if largest[model] >= LEAST_PIXELS:
        side = math.isqrt(largest[model]) // 16 * 16
        return note("memory", text, f"free some memory, or scale down: --max-side {side}", facts)
    return fail("memory", f"{text}: too little for any work", "free some memory", facts)


def _describe(pixels: int, most: int) -> str:
    if pixels >= most:
        return f"{most / 1e6:.0f} megapixels (the limit of --max-pixels)"
    return f"{pixels / 1e6:.3g} megapixels"
