"""The latent file (`.dinac`): whitened latents and what they came from, one record an image.

Reading is hostile-input code: every limit is checked before memory is taken for it.
"""

from dinac_cli.container.frame import FORMAT_VERSION
from dinac_cli.container.header import PRECISIONS, RecordHeader
from dinac_cli.container.names import check_name, escape_name, escape_text
from dinac_cli.container.record import (
    Record,
    check_whole,
    hash_record,
    is_whole,
    measure_record,
    pack_record,
    read_header,
    read_latents,
    unpack_record,
)
from dinac_cli.container.stream import StreamItem, read_records

__all__ = [
    "FORMAT_VERSION",
    "PRECISIONS",
    "Record",
    "RecordHeader",
    "StreamItem",
    "check_name",
    "check_whole",
    "escape_name",
    "escape_text",
    "hash_record",
    "is_whole",
    "measure_record",
    "pack_record",
    "read_header",
    "read_latents",
    "read_records",
    "unpack_record",
]
