"""The fast writer of headers writes the bytes of the plain one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinac_cli.container import layout
from dinac_cli.container.layout import LayoutWriter, write_layout
from dinac_cli.container.zstd import MAX_HEADER_BYTES
from dinac_cli.errors import FormatError, Rejection

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\1"), max_size=12
)  # a header has no control characters
METADATA = st.fixed_dictionaries(
    dict.fromkeys(("name", "source_bytes", "source_sha256", "image", "zebra", "a"), TEXTS)
)
TENSORS = st.dictionaries(
    st.sampled_from(["latents.exponent", "latents.mantissa", "logsnr"]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda shape: np.zeros(shape, np.uint8)),
    min_size=1,
)


@given(st.lists(st.tuples(METADATA, TENSORS), min_size=1, max_size=4))
def test_headers_are_those_of_the_plain_writer(
    headers: list[tuple[dict[str, str], dict[str, np.ndarray]]],
) -> None:
    writer = LayoutWriter("name", "source_bytes", "source_sha256")
    for metadata, tensors in headers * 2:
        assert writer.write(metadata, tensors) == write_layout(metadata, tensors)
        other = {**metadata, "name": metadata["name"] + 'Ü"\\', "source_bytes": "17"}
        assert writer.write(other, tensors) == write_layout(other, tensors)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_MOST_KINDS", 3)
    writer = LayoutWriter("name")
    tensors = {"t": np.zeros(1, np.uint8)}
    for number in range(10):
        metadata = {"name": "n", "image": str(number)}
        assert writer.write(metadata, tensors) == write_layout(metadata, tensors)
        assert len(writer._texts) <= 3


def test_a_header_that_is_too_large_is_refused() -> None:
    writer = LayoutWriter("name")
    tensors = {"t": np.zeros(1, np.uint8)}
    writer.write({"name": "short"}, tensors)
    with pytest.raises(FormatError) as caught:
        writer.write({"name": "n" * MAX_HEADER_BYTES}, tensors)
    assert caught.value.rejection is Rejection.HEADER_SIZE
