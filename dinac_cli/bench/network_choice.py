"""Chooses the network that a benchmark times. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dinac_cli.errors import UsageError
from dinac_cli.models.aliases import AUTO
from dinac_cli.models.dinac.config import RELEASED
from dinac_cli.models.interface import ENCODER

if TYPE_CHECKING:
    from dinac_cli.models.dinac.model import DinacModel

RANDOM_WEIGHTS = tuple(RELEASED)
"""The published networks that can be drawn with random weights."""


def choose_network(
    model: str,
    revision: str | None,
    random_weights: str | None,
    device: str,
    announce: Callable[[str], None],
) -> DinacModel | None:
    """Returns the model to time, or None for random weights. Raises ModelError, UsageError."""
    from dinac_cli.models.dinac.model import DinacModel
    from dinac_cli.models.registry import choose_default, resolve_model

    if random_weights is not None:
        if model != AUTO:
            raise UsageError("--random-weights and --model cannot be used together; leave one out")
        return None
    if model == AUTO:
        model = choose_default(device)
    found = resolve_model(model, revision, announce=announce)
    if not isinstance(found, DinacModel):
        raise UsageError(f"--model {model}: bench times DINAC-AE models only; see dinac compare")
    if ENCODER not in found.read_traits().parts:
        raise UsageError(f"--model {model}: it has no encoder; bench times whole models only")
    return found
