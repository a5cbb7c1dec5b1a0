"""Decides the norm of SemDisDiffAE's posterior mean, which its published files leave in doubt.

A `config.json` of the family says "disabled", and the description of its encoder says otherwise.
The whitening tells: on any photographs, whitened latents have a spread near 1 if the mean is
normalised as in training. Does not import torch unless a model must be tried.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import replace

from dinac_cli.errors import ModelError
from dinac_cli.models.checkpoint_files import CheckpointFiles
from dinac_cli.models.dinac.config import CONFIRMED, FCDM, NORM_MODES, DinacAEConfig
from dinac_cli.models.dinac.source import read_config, read_settings
from dinac_cli.models.identity import read_measurement

MARGIN = 3.0
"""The right mode gives a spread from 1/MARGIN to MARGIN, and the other mode does not.

The other one is also at least MARGIN times farther from 1, as a ratio.
"""

_lock = threading.Lock()


def decide_config(files: CheckpointFiles) -> DinacAEConfig:
    """Reads the configuration of a checkpoint; decides `bottleneck_norm_mode` if it is in doubt.

    The result of a trial is cached like an identity. Raises ModelError if the configuration is
    damaged, or if the trial does not tell the mode.
    """
    config = read_config(files)
    if config.encoder_type != FCDM or not config.has_latent_statistics:
        return config
    if read_settings(files).get(CONFIRMED) is True:
        return config
    with _lock:  # threads of one process try a model once
        spreads = read_measurement(
            files.weights, [config.latent_running_stats_eps], lambda: _measure(files, config)
        )
    mode = choose_mode(spreads)
    if mode is None:
        shown = " and ".join(f"{spreads.get(mode, math.nan):.3g} ({mode})" for mode in NORM_MODES)
        raise ModelError(
            f"{files.weights}: bottleneck_norm_mode is in doubt: the spread of the latents of "
            f"sample images is {shown}, and must be near 1 for exactly one of them; if you know "
            f'which is right, add it and "{CONFIRMED}": true to the config.json in a folder with '
            "these weights"
        )
    return replace(config, bottleneck_norm_mode=mode)


def choose_mode(spreads: Mapping[str, float]) -> str | None:
    """Returns the mode whose spread is near 1, or None if there is not exactly one."""
    distances = {mode: measure_distance(spreads.get(mode, math.nan)) for mode in NORM_MODES}
    right, wrong = sorted(NORM_MODES, key=distances.__getitem__)
    near, far = distances[right], distances[wrong]
    return right if near <= MARGIN < far and far >= MARGIN * near else None


def measure_distance(spread: float) -> float:
    """Returns the ratio of a spread to 1, or of 1 to it: at least 1; infinite if it is invalid."""
    return max(spread, 1 / spread) if math.isfinite(spread) and spread > 0 else math.inf


def _measure(files: CheckpointFiles, config: DinacAEConfig) -> dict[str, float]:
    from dinac_cli.models.dinac.norm_trial import measure_spreads

    return measure_spreads(files, config)
