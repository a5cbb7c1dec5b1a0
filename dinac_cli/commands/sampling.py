"""The demo's sample images on disk."""

from __future__ import annotations

import os

from dinac_cli.images.formats import format_of_suffix
from dinac_cli.images.samples import draw_samples
from dinac_cli.images.writing import write_image
from dinac_cli.storage.output import Output, OutputKind


def write_samples(folder: str) -> int:
    """Write the samples below `folder`, those that are not there yet; returns how many there are.

    Raises OutputError.
    """
    output = Output(folder, OutputKind.FOLDER, is_ours=lambda path: False)
    count = 0
    for name, pixels in draw_samples():
        count += 1
        target = output.locate(name)
        form = format_of_suffix(name)
        assert form is not None, "samples have suffixes that can be written"
        if not os.path.lexists(target):
            output.write(target, write_image(pixels, form.name))
    return count
