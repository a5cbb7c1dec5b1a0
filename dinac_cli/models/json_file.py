"""Reads the JSON files of checkpoints. Does not import torch."""

from __future__ import annotations

import json
from pathlib import Path

from dinac_cli.errors import ModelError, quote_error

_MAX_BYTES = 1 << 20


def read_json(path: Path) -> object:
    """Reads a file such as `config.json`. Raises ModelError if it is large, damaged or missing."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ModelError(
                f"{path} is too large for a config.json; download the checkpoint again"
            )
        return json.loads(text)
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        message = f"{path} is not valid JSON; download the checkpoint again"
        raise ModelError(message, [quote_error(exc)]) from exc
