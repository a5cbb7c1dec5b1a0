"""The short names of models. Imports nothing, because the help lists them."""

from __future__ import annotations

NANO = "nano"
"""The embedded model."""

AUTO = "auto"
"""The value of `--model` that leaves the choice to dinac."""

HUB_ALIASES = {
    "d2": "data-archetype/dinac_ae_d2",
    "dinac-ae": "data-archetype/dinac_ae",
    "flux2": "black-forest-labs/FLUX.2-small-decoder",
    "semdisdiffae": "data-archetype/semdisdiffae",
    "semdisdiffae-p32": "data-archetype/semdisdiffae_p32_v2",
}
"""The Hub repositories of the models with short names."""
