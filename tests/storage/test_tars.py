"""Reading and writing tars: one input per rule, and agreement with tarfile and webdataset."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from typing import BinaryIO, cast

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dinac_cli.container.names import check_name, find_name_fault
from dinac_cli.errors import ArchiveError
from dinac_cli.storage import tars
from dinac_cli.storage.tars import (
    MAX_EXTENDED_BYTES,
    Member,
    Sample,
    TarWriter,
    group_samples,
    read_members,
    split_key,
)
from tests.storage.hand_made_tars import (
    BLOCK,
    END,
    make_header,
    make_member,
    make_pax,
    make_record,
    pad,
)


class Pipe:
    """A file that can only be read, in short pieces."""

    def __init__(self, data: bytes, most: int = 700) -> None:
        self._file = io.BytesIO(data)
        self._most = most

    def read(self, size: int) -> bytes:
        assert size >= 0
        return self._file.read(min(size, self._most))


def read(data: bytes, wants: Callable[[str], bool] = lambda name: True) -> list[Member]:
    members = list(read_members(io.BytesIO(data), wants))
    piped = read_members(cast(BinaryIO, Pipe(data)), wants)
    assert list(piped) == members
    for member in members:
        check_name(member.name)
        assert (member.data is None) == (member.problem is not None)
    return members


def refuse(data: bytes) -> str:
    with pytest.raises(ArchiveError) as caught:
        read(data)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 120
    return message


def write(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    tar = TarWriter(file.write)
    for name, data in files.items():
        tar.add(name, data)
    tar.finish()
    assert tar.size_bytes == len(file.getvalue())
    return file.getvalue()


FILES = {
    "a.jpg": b"1" * 700,
    "a.txt": b"",
    "b/" + "long/" * 40 + "c.jpg": b"2" * 512,
    "é.png": b"3",
}


# What is read


def test_files_are_read_in_order() -> None:
    assert read(write(FILES)) == [Member(name, data) for name, data in FILES.items()]


def test_unwanted_files_are_skipped() -> None:
    names = [member.name for member in read(write(FILES), lambda name: name.endswith(".png"))]
    assert names == ["é.png"]


def test_empty_tar_has_no_files() -> None:
    assert read(write({})) == []


@pytest.mark.parametrize("kind", [b"0", b"\0", b"7"])
def test_kinds_of_files(kind: bytes) -> None:
    assert read(make_member("a.jpg", b"abc", kind) + END) == [Member("a.jpg", b"abc")]


def test_prefix_of_ustar_belongs_to_the_name() -> None:
    header = make_header("c.jpg", 0, fields={345: b"a/b"})
    assert read(header + END) == [Member("a/b/c.jpg", b"")]


def test_times_of_gnu_are_no_prefix() -> None:
    header = make_header("c.jpg", 0, fields={257: b"ustar  \0", 345: b"14567654321\0"})
    assert read(header + END) == [Member("c.jpg", b"")]


def test_header_without_magic_is_read() -> None:
    header = make_header("c.jpg", 0, b"\0", fields={257: bytes(8)})
    assert read(header + END) == [Member("c.jpg", b"")]


def test_checksum_with_signs_is_valid() -> None:
    header = make_header("é.jpg", 0, signed=True)
    assert header != make_header("é.jpg", 0)
    assert read(header + END) == [Member("é.jpg", b"")]


def test_leading_dot_is_no_part_of_a_name() -> None:
    data = make_header("./", 0, b"5") + make_member("./a.jpg") + make_member(".//./b.jpg")
    assert [member.name for member in read(data + END)] == ["a.jpg", "b.jpg"]


def test_folders_are_skipped() -> None:
    data = make_header("a", 0, b"5") + make_header("b/", 0, b"\0") + make_member()
    assert [member.name for member in read(data + END)] == ["a.jpg"]


def test_old_file_is_no_folder_because_its_short_name_ends_in_a_slash() -> None:
    name = b"x" * 99 + b"/a.jpg"
    data = make_member("long", name + b"\0", b"L") + make_member(name[:100], b"abc", b"\0")
    assert read(data + END) == [Member(name.decode(), b"abc")]


def test_pax_path_and_size_replace_those_of_the_header() -> None:
    fields = {"mtime": "1.5", "path": "é/long.jpg", "size": "600"}
    data = make_pax(fields) + make_header("short", 3) + pad(b"y" * 600)
    assert read(data + make_member() + END) == [
        Member("é/long.jpg", b"y" * 600),
        Member("a.jpg", b"x"),
    ]


def test_pax_header_may_end_in_zeros() -> None:
    data = make_pax(make_record("path", "b.jpg") + bytes(20)) + make_member()
    assert read(data + END) == [Member("b.jpg", b"x")]


def test_first_of_two_extended_names_holds_as_in_tarfile() -> None:
    data = make_pax({"path": "pax.jpg"}) + make_member("long", b"gnu.jpg\0", b"L") + make_member()
    assert [member.name for member in read(data + END)] == ["pax.jpg"]
    with tarfile.open(fileobj=io.BytesIO(data + END)) as tar:
        assert tar.getnames() == ["pax.jpg"]


def test_global_header_is_ignored() -> None:
    data = make_pax({"comment": "c"}, b"g") + make_member()
    assert read(data + END) == [Member("a.jpg", b"x")]


def test_one_block_of_zeros_ends_a_tar() -> None:
    assert read(make_member() + bytes(BLOCK)) == [Member("a.jpg", b"x")]
    assert read(make_member() + bytes(BLOCK + 100)) == [Member("a.jpg", b"x")]


def test_reading_is_lazy() -> None:
    members = read_members(io.BytesIO(make_member()), lambda name: True)
    assert next(members) == Member("a.jpg", b"x")
    with pytest.raises(ArchiveError):
        next(members)


# Members with a problem; the tar is read on


def find_problem(member: bytes) -> str:
    """The problem of the first member; the next one is read."""
    first, second = read(member + make_member("next.jpg") + END)
    assert second == Member("next.jpg", b"x")
    assert first.problem is not None
    return first.problem


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (b"1", "a hard link, not a file"),
        (b"2", "a link, not a file"),
        (b"3", "a device, not a file"),
        (b"4", "a device, not a file"),
        (b"6", "a named pipe, not a file"),
    ],
)
def test_special_files_are_no_images(kind: bytes, words: str) -> None:
    header = make_header("a.jpg", 0, kind, {157: b"/etc/passwd"})
    assert find_problem(header).startswith(words)
    assert len(read(header + END, lambda name: False)) == 0


def test_links_have_no_data_whatever_their_size() -> None:
    assert find_problem(make_header("a.jpg", 5000, b"2")).startswith("a link")


@pytest.mark.parametrize("kind", [b"V", b"M", b"D", b"A"])
def test_other_kinds_are_no_files(kind: bytes) -> None:
    assert find_problem(make_member("a.jpg", b"data", kind)).startswith("of the type b'")


def test_sparse_file_of_gnu_is_refused() -> None:
    simple = make_header("a.jpg", 3, b"S") + pad(b"abc")
    assert find_problem(simple).startswith("a sparse file")
    more = bytes(504) + b"\1" + bytes(7)
    long = make_header("a.jpg", 3, b"S", {482: b"\1"}) + more + bytes(BLOCK) + pad(b"abc")
    assert find_problem(long).startswith("a sparse file")


def test_sparse_file_of_pax_is_refused() -> None:
    fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b.jpg"}
    data = make_pax(fields) + make_member("GNUSparseFile.0/b.jpg", b"1\n0\n3\n")
    assert find_problem(data).startswith("a sparse file")
    assert read(data + END, lambda name: name == "b.jpg")[0].name == "b.jpg"


@pytest.mark.parametrize(
    "name",
    ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", "a//b.jpg", "C:/a.jpg", "a\\b.jpg", "con.jpg",
     "a\n.jpg", "a\u202e.jpg", "a.jpg.", "a.jpg ", "x" * 300 + ".jpg", "y/" * 3000 + "a.jpg",
     b"\xff.jpg"],
)  # fmt: skip
def test_unsafe_names_are_refused(name: bytes | str) -> None:
    raw = name.encode() if isinstance(name, str) else name
    data = make_member("long", raw + b"\0", b"L") + make_member()
    assert find_problem(data).startswith("its name ")


def test_nameless_file_has_a_problem() -> None:
    [member] = read(make_member("") + END)
    assert member.name == "(no name)"
    assert member.problem is not None


def test_unsafe_name_in_pax_with_nul_is_refused() -> None:
    assert find_problem(make_pax({"path": "a.jpg\0.txt"}) + make_member()).startswith("its name ")


def test_second_file_of_a_name_has_a_problem() -> None:
    first, middle, last = read(
        make_member("a.jpg", b"1") + make_member("b.jpg", b"2") + make_member("./a.jpg", b"3") + END
    )
    assert (first.data, middle.data, last.data) == (b"1", b"2", None)
    assert last.problem == "the tar holds two files of this name; remove one"


def test_large_file_has_a_problem_and_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_INPUT_BYTES", 1000)
    large = make_member("a.jpg", bytes(1001))
    assert find_problem(large).startswith("larger than ")
    assert read(make_member("a.jpg", bytes(1000)) + END)[0].data == bytes(1000)


# Damage and bombs; the whole tar is refused


@pytest.mark.parametrize("size", [1, 511, 513, 1023, 1024, 1500, 1536, 2047])
def test_cut_inside_a_block_is_refused(size: int) -> None:
    whole = make_member("a.jpg", b"x" * 600) + make_member("b.jpg") + END
    assert "copy the file again" in refuse(whole[:size])


def test_cut_says_after_how_many_members() -> None:
    three = b"".join(make_member(f"{number}.jpg") for number in range(3))
    assert refuse(three) == "cut off after member 3: the end mark is missing; copy the file again"
    assert refuse(three[:-1]) == "cut off after 3 members; copy the file again"


def test_cut_inside_skipped_data_is_refused() -> None:
    data = make_member("a.jpg", b"x" * 600)
    with pytest.raises(ArchiveError, match="cut off"):
        list(read_members(io.BytesIO(data[:-1]), lambda name: False))


def test_empty_file_is_no_tar() -> None:
    assert refuse(b"") == "an empty file; copy it again"


@pytest.mark.parametrize(
    ("pack", "name"),
    [
        (gzip.compress, "gzip"),
        (bz2.compress, "bzip2"),
        (lzma.compress, "xz"),
        (zstandard.compress, "zstd"),
        (lambda data: b"\x04\x22\x4d\x18" + data, "lz4"),
    ],
)
def test_compressed_tar_is_named(pack: Callable[[bytes], bytes], name: str) -> None:
    assert refuse(pack(write(FILES))) == f"a compressed tar ({name}); unpack it first"
    noise = {"a.jpg": random.Random(0).randbytes(2000)}
    assert refuse(pack(write(noise))) == f"a compressed tar ({name}); unpack it first"


def test_name_may_begin_like_a_compressed_file() -> None:
    assert read(make_member("BZh.jpg") + END)[0].name == "BZh.jpg"


@pytest.mark.parametrize("data", [b"x", b"PK\x03\x04" * 300, b"<!DOCTYPE html>" * 100])
def test_other_file_is_no_tar(data: bytes) -> None:
    assert refuse(data) == "not a tar, or damaged at its start; copy the file again"


@pytest.mark.parametrize("at", [0, 130, 150, 156, 300, 511])
def test_changed_header_is_refused(at: int) -> None:
    data = bytearray(make_member("0.jpg") + make_member("1.jpg") + END)
    data[2 * BLOCK + at] ^= 1
    assert "damaged near member 2: the checksum of its header is wrong" in refuse(bytes(data))


@pytest.mark.parametrize(
    "size",
    [b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"-0000000001\0", b"0000000009\0\0",
     b"0x10\0" + bytes(7), b"1_000\0" + bytes(6), b"\x81" + bytes(11), "é".encode() + bytes(10)],
)  # fmt: skip
def test_impossible_size_is_refused(size: bytes) -> None:
    assert "impossible size" in refuse(make_header("a.jpg", size) + pad(b"x") + END)


@pytest.mark.parametrize("size", ["-1", "1e3", "", "0x1", "1_0", " 1", "9" * 30, "9" * 19, "٣"])
def test_impossible_size_in_pax_is_refused(size: str) -> None:
    assert "impossible size" in refuse(make_pax({"size": size}) + make_member() + END)


def test_binary_size_is_a_size() -> None:
    header = make_header("a.jpg", b"\x80" + (3).to_bytes(11, "big"))
    assert read(header + pad(b"abc") + END) == [Member("a.jpg", b"abc")]


@pytest.mark.parametrize("size", [2**31, 2**50])
def test_false_size_takes_no_memory(size: int) -> None:
    data = make_header("a.jpg", b"\x80" + size.to_bytes(11, "big")) + bytes(4000)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="cut off"):
            list(read_members(io.BytesIO(data), lambda name: True))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
def test_extended_header_is_bounded(kind: bytes) -> None:
    bomb = make_header("pax", 2**31, kind) + bytes(4000)
    assert "extended header is larger than 64 KiB" in refuse(bomb)
    data = make_member("long", b"b.jpg" + bytes(MAX_EXTENDED_BYTES - 5), b"L") + make_member()
    assert read(data + END)[0].name == "b.jpg"
    assert "extended header is larger" in refuse(make_header("pax", b"junk" + bytes(8), kind))


def test_extended_headers_are_counted() -> None:
    four = make_pax({"comment": "c"}) * 4 + make_member()
    assert read(four + END) == [Member("a.jpg", b"x")]
    assert "over 4 extended headers" in refuse(make_pax({"comment": "c"}) + four + END)


@pytest.mark.parametrize("end", [b"", END])
def test_extended_header_needs_its_member(end: bytes) -> None:
    assert "copy the file again" in refuse(make_member() + make_pax({"path": "b.jpg"}) + end)


@pytest.mark.parametrize(
    "data",
    [b"junk", b"8 path=a\n", b"11 path=a\n", b"0 path=a\n", b"999 path=a\n", b"10 path=a ",
     b"-9 path=a\n", b"0000009 path=a\n", b" 10 path=a\n", b"5 a=\nx", b"9path=abc\n", b"3 =\n",
     b"9 path=a\njunk"],
)  # fmt: skip
def test_damaged_extended_header_is_refused(data: bytes) -> None:
    assert "extended header is invalid" in refuse(make_pax(data) + make_member() + END)


@pytest.mark.parametrize("field", ["path", "size", "GNU.sparse.name"])
def test_global_header_must_not_change_the_members(field: str) -> None:
    data = make_pax({field: "1"}, b"g") + make_member() + END
    assert "a global header sets names or sizes" in refuse(data)


def test_data_after_the_end_mark_is_refused() -> None:
    joined = make_member() + END + make_member("b.jpg") + END
    assert refuse(joined).startswith("data follows the end mark after member 1")
    assert refuse(make_member() + bytes(BLOCK) + b"x").startswith("data follows the end mark")


def test_hole_at_the_end_is_refused() -> None:
    whole = make_member() + bytes(BLOCK + tars.MAX_END_BYTES)
    assert len(read(whole)) == 1
    assert "the file was not written to its end" in refuse(whole + b"\0")


def test_members_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_MEMBERS", 2)
    two = make_member("0.jpg") + make_member("1.jpg")
    assert len(read(two + END)) == 2
    assert "has over 2 members" in refuse(two + make_header("folder", 0, b"5") + END)


# Agreement with tarfile

names = st.text(
    st.sampled_from("abcXYZ012 _-éあ"), min_size=1, max_size=40
) | st.text(st.sampled_from("ab/é"), min_size=80, max_size=300)  # fmt: skip
files = st.dictionaries(names.map(lambda name: name + ".jpg"), st.binary(max_size=1500), max_size=6)


@settings(deadline=None, max_examples=60)
@given(
    content=files,
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    time=st.sampled_from([0, 1.25, 2**34]),
    owner=st.sampled_from(["", "é", "owner"]),
)
def test_reads_what_tarfile_writes(
    content: dict[str, bytes], form: int, time: float, owner: str
) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, encoding="utf-8") as tar:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.uname = len(data), owner
            entry.mtime = int(time) % 2**30 if form == tarfile.USTAR_FORMAT else time
            try:
                tar.addfile(entry, io.BytesIO(data))
            except ValueError:  # ustar cannot hold the name
                continue
    expected = read_with_tarfile(file.getvalue())
    members = read(file.getvalue())
    assert len(members) == len(expected)
    for member, (name, data) in zip(members, expected, strict=True):
        if find_name_fault(name) is None:
            assert member == Member(name, data)
        else:
            assert member.problem is not None


@settings(deadline=None, max_examples=40)
@given(content=files)
def test_cut_at_every_block_is_refused(content: dict[str, bytes]) -> None:
    file = io.BytesIO()
    tar = TarWriter(file.write)
    for name, data in content.items():
        tar.add(name, data)
    members = file.getvalue()
    for size in range(BLOCK, len(members) + 1, BLOCK):
        assert refuse(members[:size]).startswith("cut off after ")
    assert len(read(members + bytes(BLOCK))) == len(content)


def read_with_tarfile(content: bytes) -> list[tuple[str, bytes]]:
    found = []
    with tarfile.open(fileobj=io.BytesIO(content), encoding="utf-8") as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            assert file is not None
            found.append((entry.name, file.read()))
    return found


@settings(deadline=None, max_examples=40)
@given(content=files)
def test_tarfile_writes_the_same_bytes_and_reads_them(content: dict[str, bytes]) -> None:
    written = write(content)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    assert written == file.getvalue()
    assert read_with_tarfile(written) == list(content.items())


# Writing


def test_header_holds_nothing_of_the_machine() -> None:
    with tarfile.open(fileobj=io.BytesIO(write(FILES))) as tar:
        for entry in tar:
            assert (entry.mode, entry.mtime, entry.uid, entry.gid) == (0o644, 0, 0, 0)
            assert (entry.uname, entry.gname, entry.type) == ("", "", tarfile.REGTYPE)
            assert set(entry.pax_headers) <= {"path"}


def test_tar_is_padded_to_records() -> None:
    assert len(write({})) == 10_240
    assert len(write({"a": bytes(20 * BLOCK)})) == 2 * 10_240


def test_writer_holds_nothing() -> None:
    tar = TarWriter(lambda data: None)
    data = bytes(2**20)
    tracemalloc.start()
    try:
        for number in range(50):
            tar.add(f"{number}.jpg", data)
        tar.finish()
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# Samples


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a", "jpg")),
        ("a.b/c.seg.PNG", ("a.b/c", "seg.png")),
        ("a b/é.É", ("a b/é", "é")),
        ("a", None),
        ("a.b/c", None),
        (".hidden.jpg", None),
        ("__info__/a.jpg", None),
        ("__a__.jpg", ("__a__", "jpg")),
    ],
)
def test_split_key(name: str, parts: tuple[str, str] | None) -> None:
    assert split_key(name) == parts


def test_hidden_files_in_folders_belong_to_no_sample() -> None:
    assert split_key("a/._000.jpg") is None


def test_consecutive_files_of_a_key_are_a_sample() -> None:
    content = {"a.jpg": b"1", "a.TXT": b"2", "README": b"", "a.seg.png": b"3", "b/a.jpg": b"4"}
    first, second = group_samples(read(write(content)))
    assert first == Sample(
        "a",
        {"jpg": b"1", "txt": b"2", "seg.png": b"3"},
        {"jpg": "a.jpg", "txt": "a.TXT", "seg.png": "a.seg.png"},
        size_bytes=3,
    )
    assert (second.key, second.files, second.problem) == ("b/a", {"jpg": b"4"}, None)


def test_sample_that_comes_again_has_a_problem() -> None:
    samples = list(group_samples(read(write({"a.jpg": b"1", "b.jpg": b"2", "a.txt": b"3"}))))
    assert [sample.problem is None for sample in samples] == [True, True, False]
    assert str(samples[2].problem).startswith("an earlier sample has the key a;")


def test_problem_of_a_member_stays_with_its_sample() -> None:
    data = make_member("a.jpg") + make_header("a.txt", 0, b"2") + make_member("b.jpg") + END
    first, second = group_samples(read(data))
    assert first.files == {"jpg": b"x"}
    assert first.names == {"jpg": "a.jpg", "txt": "a.txt"}
    assert first.problems["txt"].startswith("a link")
    assert str(first.problem).startswith("a.txt: a link")
    assert second.problem is None


@pytest.mark.parametrize("again", ["a.jpg", "a.JPG"])
def test_two_files_of_an_extension_are_a_problem(again: str) -> None:
    data = make_member("a.jpg", b"1") + make_member(again, b"2") + END
    [sample] = group_samples(read(data))
    assert sample.files == {"jpg": b"1"}
    assert "two files" in sample.problems["jpg"]
    assert str(sample.problem).startswith(f"{again}: the ")


def test_sample_has_a_limit_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_SAMPLE_BYTES", 100)
    fits, large = group_samples(
        read(write({"a.1": bytes(50), "a.2": bytes(50), "b.1": bytes(60), "b.2": bytes(41)}))
    )
    assert fits.problem is None
    assert large.files == {}
    assert str(large.problem).startswith("the sample has over 1,000 files or 2 GiB")


def test_sample_has_a_limit_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_SAMPLE_FILES", 2)
    fits, large = group_samples(
        read(write({"a.1": b"", "a.2": b"", "b.1": b"", "b.2": b"", "b.3": b"", "b.4": b""}))
    )
    assert fits.problem is None
    assert large.files == {}
    assert len(large.names) == 2
    assert large.problem is not None


def test_sample_of_a_cut_tar_is_not_yielded() -> None:
    samples = group_samples(read_members(io.BytesIO(make_member()), lambda name: True))
    with pytest.raises(ArchiveError):
        next(samples)


def test_webdataset_reads_the_same_samples() -> None:
    webdataset = pytest.importorskip("webdataset.tariterators")
    content = {
        "a.jpg": b"1", "a.TXT": b"2", "README": b"", "b/c.d.seg.png": b"3" * 2000,
        "__meta__/x.json": b"", "é/" + "y" * 120 + ".dinac": b"4",
    }  # fmt: skip
    data = write(content)
    opened = [{"url": "0.tar", "stream": io.BytesIO(data)}]
    found = [
        (sample["__key__"], {key: value for key, value in sample.items() if key[0] != "_"})
        for sample in webdataset.group_by_keys(webdataset.tar_file_expander(opened))
    ]
    assert [(sample.key, sample.files) for sample in group_samples(read(data))] == found
    assert len(found) == 3
