"""Mutants of tars and parquet files, and the checks on reading one."""

from __future__ import annotations

import functools
import io
import json
import random
import tarfile
from collections.abc import Callable
from typing import Any

from dinac_cli.container.names import check_name
from dinac_cli.errors import ArchiveError, UsageError
from dinac_cli.storage.parquet import read_rows
from dinac_cli.storage.tars import Member, TarWriter, group_samples, read_members
from dinac_cli.storage.thrift import (
    BINARY,
    I32,
    I64,
    LIST,
    STRUCT,
    Fields,
    ThriftReader,
    Value,
    pack_struct,
)
from tests.fuzzing.mutation import mutate_bytes
from tests.storage.hand_made_parquet import (
    DELTA_BYTE_ARRAY,
    DICTIONARY_PAGE,
    PLAIN,
    RLE_DICTIONARY,
    UNCOMPRESSED,
    ZSTD,
    Long,
    Page,
    make_file,
    pack_texts,
    pack_varint,
)
from tests.storage.hand_made_tars import BLOCK, END, make_header, make_member, make_pax, pad

COLUMN = "image"

_NAMES = (b"a.jpg", b"b/c.txt", b"../a.jpg", b"/a", b"a/", b"./a.jpg", b"C:\\x", b"con", b"x" * 100,
          b"\xff.jpg", b"a\n.jpg", b"", b".", b"__m__", b"a.JPG", b"a..jpg")  # fmt: skip
_KINDS = b"\x00012345678xgXLKSVMDN"
_SIZES = (b"00000000000\0", b"00000000001\0", b"00000000777\0", b"00000001000\0",
          b"77777777777\0", b"00000200001\0", b"-0000000001\0", b"99999999999\0",
          b"           \0", b"\0" * 12, b"\x80" + bytes(10) + b"\5", b"\x80" + b"\x7f" * 11,
          b"\xff" * 12, b"\x80\0\0\2" + bytes(8))  # fmt: skip
_FIELDS = (b"path", b"size", b"mtime", b"linkpath", b"GNU.sparse.name", b"GNU.sparse.map",
           b"GNU.sparse.major", b"hdrcharset", b"comment")  # fmt: skip
_VALUES = (b"", b"0", b"1", b"-1", b"512", b"99999999999999999999", b"1e9", b"BINARY", b"a.jpg",
           b"../a", b"x" * 300, b"\xff", b"a\nb", b"1,2")  # fmt: skip


@functools.cache
def list_tars() -> list[bytes]:
    """Returns valid tars of every format."""
    seeds = [END, make_member() + END, make_header("a", 0, b"5") + make_member("./a/b.jpg") + END]
    content = {
        "a.jpg": b"1" * 600,
        "a.txt": b"",
        "d" * 60 + "/" + "é" * 30: b"2",
        "c.jpg": b"3" * 512,
    }
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name, data in content.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = len(data), 1.5 if form == tarfile.PAX_FORMAT else 1
                tar.addfile(entry, io.BytesIO(data))
        seeds.append(pad(file.getvalue().rstrip(b"\0")) + END)
    long = make_member("long", b"x" * 120 + b".jpg\0", b"L") + make_member("long", b"y\0", b"K")
    seeds.append(
        long + make_member() + make_pax({"comment": "c"}, b"g") + make_member("b.jpg") + END
    )
    seeds.append(make_pax({"GNU.sparse.map": "0,1", "path": "s.jpg"}) + make_member() + END)
    seeds.append(
        make_header("s.jpg", 1, b"S", {482: b"\1"}) + bytes(BLOCK) + make_member()[BLOCK:] + END
    )
    return seeds


def mutate_tar(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, bool]:
    """Returns a mutant of a tar, and whether the checksums of its headers were repaired."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data, other), False
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_TAR_MUTATORS)(rng, data, other)
    return _repair_checksums(data), True


def _change_header(rng: random.Random, data: bytes, other: bytes) -> bytes:
    starts = _find_headers(data)
    if not starts:
        return data
    at = rng.choice(starts)
    place, values = rng.choice(
        (
            (0, _NAMES),
            (124, _SIZES),
            (156, [bytes([kind]) for kind in _KINDS]),
            (257, (b"ustar  \0", b"ustar\x0000", bytes(8))),
            (345, (b"a/b\0", b"..\0", b"\0")),
            (482, (b"\0", b"\1")),
        )
    )
    value = rng.choice(values)
    return data[: at + place] + value + data[at + place + len(value) :]


def _insert_header(rng: random.Random, data: bytes, other: bytes) -> bytes:
    kind = rng.choice((b"x", b"g", b"X", b"L", b"K"))
    text = b"".join(_draw_field(rng) for _ in range(rng.randint(0, 3)))
    text = rng.choice((text, rng.choice(_NAMES), mutate_bytes(rng, text, b"1 a=b\n")))
    starts = _find_headers(data) or [0]
    at = rng.choice(starts)
    return data[:at] + make_member("h", text, kind) + data[at:]


def _draw_field(rng: random.Random) -> bytes:
    rest = b" " + rng.choice(_FIELDS) + b"=" + rng.choice(_VALUES) + b"\n"
    size = len(rest) + len(str(len(rest)))
    size += len(str(size)) + len(rest) - size
    return str(size + rng.choice((0, 0, 0, 0, 1, -1))).encode() + rest


def _drop_blocks(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) // BLOCK + 1) * BLOCK
    return data[:at] + data[at + rng.randint(1, 3) * BLOCK :]


def _copy_blocks(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) // BLOCK + 1) * BLOCK
    start = rng.randrange(len(other) // BLOCK + 1) * BLOCK
    return data[:at] + other[start : start + rng.randint(1, 4) * BLOCK] + data[at:]


def _cut_blocks(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) // BLOCK + 1) * BLOCK]


_TAR_MUTATORS: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    *(_change_header,) * 4,
    *(_insert_header,) * 3,
    _drop_blocks,
    _copy_blocks,
    _cut_blocks,
    mutate_bytes,
)


def _find_headers(data: bytes) -> list[int]:
    return [at for at in range(0, len(data), BLOCK) if data[at + 257 : at + 262] == b"ustar"]


def _repair_checksums(data: bytes) -> bytes:
    changed = bytearray(data)
    for at in _find_headers(data):
        changed[at + 148 : at + 156] = b" " * 8
        changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + BLOCK])
    return bytes(changed)


def check_tar(data: bytes) -> str:
    """Reads a mutant; returns "accepted" or the first words of the error.

    Any exception but ArchiveError, and any member that fails a check, is a bug in the reader.
    """
    try:
        members = list(read_members(io.BytesIO(data), lambda name: True))
    except ArchiveError as exc:
        return _name_outcome(exc)
    whole = [member for member in members if member.data is not None]
    assert sum(len(member.data or b"") for member in whole) <= len(data)
    assert len({member.name for member in whole}) == len(whole)
    for member in members:
        check_name(member.name)
        assert (member.data is None) == (member.problem is not None)
    for sample in group_samples(members):
        assert sample.files.keys() <= sample.names.keys()
        assert sample.problems.keys() <= sample.names.keys()
        assert bool(sample.problem) >= bool(sample.problems)
    assert _copy_members(whole) == whole
    return "accepted"


def _copy_members(members: list[Member]) -> list[Member]:
    file = io.BytesIO()
    tar = TarWriter(file.write)
    for member in members:
        tar.add(member.name, member.data or b"")
    tar.finish()
    file.seek(0)
    return list(read_members(file, lambda name: True))


@functools.cache
def list_parquet_files() -> list[bytes]:
    """Returns valid parquet files with several forms of pages and columns."""
    import pyarrow
    import pyarrow.parquet

    images = [b"%d" % (number % 5) * 40 if number % 3 else None for number in range(20)]
    pairs = [{"bytes": image, "path": f"{number}.jpg"} for number, image in enumerate(images)]
    texts = [f"text {number % 7}" for number in range(20)]
    times = pyarrow.array(range(20), pyarrow.timestamp("us", "UTC"))
    plain = pyarrow.table({COLUMN: images, "text": texts, "score": [0.5] * 20, "time": times})
    struct = pyarrow.table({COLUMN: pairs, "box": [{"x": 1, "y": "a"}] * 20, "list": [[1]] * 20})
    seeds = []
    for table in (plain, struct):
        for options in (
            {"compression": "none", "row_group_size": 8},
            {"compression": "zstd", "use_dictionary": False, "data_page_version": "2.0"},
            {"compression": "snappy", "data_page_size": 100, "write_batch_size": 4},
            {"compression": "gzip", "write_page_checksum": True},
        ):
            file = io.BytesIO()
            pyarrow.parquet.write_table(table, file, **options)
            seeds.append(file.getvalue())
    encodings = {COLUMN: "PLAIN", "text": "PLAIN", "score": "BYTE_STREAM_SPLIT"}
    encodings["time"] = "DELTA_BINARY_PACKED"
    file = io.BytesIO()
    pyarrow.parquet.write_table(plain, file, use_dictionary=False, column_encoding=encodings)
    return [*seeds, file.getvalue(), make_file([Page(pack_texts(b"one", b"two"), 2)], 2)]


def mutate_parquet(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, bool]:
    """Returns a mutant of a parquet file, and whether its footer can be found."""
    kind = rng.random()
    if kind < 0.1:
        return mutate_bytes(rng, data, other), False
    if kind < 0.4:
        return _make_lying_file(rng), True
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if not 4 <= start <= len(data) - 8:
        return mutate_bytes(rng, data, other), False
    body, footer = data[4:start], data[start:-8]
    if kind < 0.5:
        body = mutate_bytes(rng, body, other[4:])
    elif kind < 0.7 and body:  # nothing moves, so that most pages are found
        changed = bytearray(body)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(body))] = rng.randrange(256)
        body = bytes(changed)
    elif kind < 0.8:
        footer = mutate_bytes(rng, footer, other[-400:-8])
    else:
        footer = _change_footer(rng, footer)
    return b"PAR1" + body + footer + len(footer).to_bytes(4, "little") + b"PAR1", True


def _change_footer(rng: random.Random, footer: bytes) -> bytes:
    """Changes or drops some values of a footer, whose structure stays valid."""
    try:
        fields = ThriftReader(footer, 0, 10_000).read_struct()
        for _ in range(rng.choice((1, 1, 2, 4))):
            _change_value(rng, fields)
        return pack_struct(fields)
    except (ValueError, AssertionError):  # damaged, or with a map
        return mutate_bytes(rng, footer, b"")


def _change_value(rng: random.Random, fields: Fields) -> None:
    """Follows random fields down to a value, and changes it."""
    while fields:
        number = rng.choice(list(fields))
        kind, content = fields[number]
        if rng.random() < 0.05:
            del fields[number]
            return
        if kind == STRUCT or (kind == LIST and content.kind == STRUCT and content.contents):
            if kind == LIST and rng.random() < 0.05:
                content.contents.insert(0, rng.choice(content.contents))
                return
            fields = content if kind == STRUCT else rng.choice(content.contents)
            continue
        if kind in (I32, I64):
            changed = rng.choice((content + 1, content - 1, rng.choice(_COUNTS)))
            fields[number] = Value(kind, max(-(2**31), min(2**31 - 1, changed)))
        elif kind == BINARY:
            fields[number] = Value(kind, mutate_bytes(rng, content, b"image"))
        return


_COUNTS = (0, 1, 2, 3, -1, 4, 8, 100, 127, 2**15, 2**20, 2**28, 2**31 - 1, -(2**31))


def _make_lying_file(rng: random.Random) -> bytes:
    def lie(fields: dict[int, Any], chance: float = 0.15) -> dict[int, Any]:
        changed = {key: rng.choice(_COUNTS) for key in fields if rng.random() < chance}
        return {key: type(fields[key])(value) for key, value in changed.items()}

    rows = rng.choice((0, 1, 2, 3, 1000))
    indices = b"\1" + pack_varint(rows << 1) + b"\0"
    pages = [
        Page(pack_texts(b"1"), 1, PLAIN, DICTIONARY_PAGE),
        Page(indices, rows, RLE_DICTIONARY),
        Page(pack_texts(b"1", b"22"), 2),
        Page(rng.randbytes(rng.randint(0, 30)), rows, rng.choice((PLAIN, 5, 6, DELTA_BYTE_ARRAY))),
    ]
    chosen = rng.choices(pages, k=rng.randint(1, 3))
    for page in chosen:
        page.fields = lie({2: 0, 3: 0})
        page.inner = lie({1: 0, 2: 0})
    return make_file(
        chosen,
        rows,
        name=COLUMN,
        codec=rng.choice((UNCOMPRESSED, ZSTD, 1)),
        column=lie({4: 0, 5: Long(), 6: Long(), 7: Long(), 9: Long()}),
        group=lie({2: Long(), 3: Long()}),
        footer=lie({1: 0, 3: Long()}),
    )


def check_parquet(data: bytes) -> str:
    """Reads a mutant; returns "accepted" or the first words of the error.

    Any exception but ArchiveError or UsageError, and any row that fails a check, is a bug.
    """
    for with_others in (False, True):
        numbers = []
        try:
            for row in read_rows(io.BytesIO(data), COLUMN, with_others=with_others):
                numbers.append(row.number)
                assert (row.data is None) == (row.problem is not None)
                json.dumps(row.others, allow_nan=False).encode()
                assert with_others or not row.others
        except (ArchiveError, UsageError) as exc:
            return _name_outcome(exc)
        assert numbers == list(range(len(numbers)))
    return "accepted"


def _name_outcome(exc: ArchiveError | UsageError) -> str:
    message = str(exc)
    assert "\n" not in message
    return " ".join(message.partition(":")[0].split()[:2])
