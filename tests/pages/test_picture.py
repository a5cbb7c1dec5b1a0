"""The README shows the picture that its command draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .pages import README
from .picture import MAX_BYTES, TARGET, write_picture


def test_picture_is_small_and_up_to_date(tmp_path: Path) -> None:
    assert f"](tests/pages/{TARGET.name})" in README.text
    assert TARGET.stat().st_size <= MAX_BYTES
    write_picture(tmp_path / "picture.png")
    with Image.open(TARGET) as kept, Image.open(tmp_path / "picture.png") as drawn:
        assert kept.size == drawn.size
        difference = np.asarray(kept.convert("RGB"), np.int16) - np.asarray(drawn.convert("RGB"))
    # Another machine's arithmetic or Pillow's fonts change single pixels.
    assert np.abs(difference).mean() < 3
