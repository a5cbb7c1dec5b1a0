"""Names of outputs, and collisions between them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.storage.naming import (
    NameSet,
    ignores_case,
    name_image,
    name_latents,
    strip_suffix,
    undo_image_name,
)

PNG = OUTPUT_FORMATS["png"].suffixes
JPG = OUTPUT_FORMATS["jpg"].suffixes
SUFFIXES = tuple(suffix for form in OUTPUT_FORMATS.values() for suffix in form.suffixes)

NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def test_record_name_appends_the_suffix() -> None:
    assert name_latents("trip/a.jpg") == "trip/a.jpg.dinac"
    assert name_latents("a") == "a.dinac"
    assert name_latents("a.dinac") == "a.dinac.dinac"


def test_only_the_last_suffix_is_stripped() -> None:
    names = ["a.jpg.dinac", "a.DINAC", "a.dinac.dinac", "a.jpg", ".dinac"]
    assert list(map(strip_suffix, names)) == ["a.jpg", "a", "a.dinac", "a.jpg", ".dinac"]


@pytest.mark.parametrize(
    ("latents", "suffixes", "image"),
    [
        ("a.png.dinac", PNG, "a.png"),
        ("a.PNG.DINAC", PNG, "a.PNG"),
        ("a.jpg.dinac", PNG, "a.jpg.png"),
        ("a.jpeg.dinac", JPG, "a.jpeg"),
        ("a.png.dinac", JPG, "a.png.jpg"),
        ("a.dinac", PNG, "a.png"),
        ("trip.png/a.dinac", PNG, "trip.png/a.png"),
        ("a.tar.dinac", PNG, "a.tar.png"),
        ("no-suffix", PNG, "no-suffix.png"),
        (".dinac", PNG, ".dinac.png"),
        (".png.dinac", PNG, ".png.png"),
        ("a.png.dinac.dinac", PNG, "a.png.dinac.png"),
        ("trailing..dinac", PNG, "trailing..png"),
    ],
)
def test_image_name_drops_the_latent_suffix(
    latents: str, suffixes: tuple[str, ...], image: str
) -> None:
    assert name_image(latents, suffixes) == image


@given(st.lists(PATHS, unique=True, max_size=20))
def test_distinct_names_have_distinct_records(names: list[str]) -> None:
    assert len({name_latents(name) for name in names}) == len(names)


@given(PATHS, st.sampled_from(list(OUTPUT_FORMATS.values())).map(lambda form: form.suffixes))
def test_name_of_the_decoded_image_is_found_again(name: str, suffixes: tuple[str, ...]) -> None:
    decoded = name_image(name_latents(name), suffixes)
    assert decoded in undo_image_name(name, SUFFIXES)
    assert decoded.lower().endswith(suffixes)


def test_same_name_is_tried_first() -> None:
    assert undo_image_name("a.jpg", [".png", ".webp"]) == ["a.jpg", "a.jpg.png", "a.jpg.webp"]


class TestNameSet:
    def test_it_holds_what_was_added(self) -> None:
        names = NameSet()
        assert all(names.add(str(number)) for number in range(5000))
        assert not any(names.add(str(number)) for number in range(5000))
        assert all(str(number) in names for number in range(5000))
        assert not any(str(number) in names for number in range(5000, 10_000))

    @pytest.mark.parametrize(("one", "other"), [("a", "A"), ("ß", "SS")])
    def test_names_in_another_case_are_equal_only_if_case_is_folded(
        self, one: str, other: str
    ) -> None:
        for fold_case in (False, True):
            names = NameSet(fold_case=fold_case)
            assert names.add(one)
            assert (other in names) is names.equal(one, other) is fold_case
            assert names.add(other) is not fold_case

    def test_a_name_takes_few_bytes(self) -> None:
        names = NameSet()
        for number in range(100_000):
            names.add(f"some/folder/image-{number}.jpg")
        assert len(names._slots) * 8 <= 100_000 * 24

    def test_a_hash_of_zero_is_a_name_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dinac_cli.storage.naming.hash", lambda text: 0, raising=False)
        names = NameSet()
        assert "a" not in names
        assert names.add("a")
        assert "a" in names


class TestCaseOfTheFileSystem:
    def test_result_agrees_with_the_file_system(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        expected = os.path.exists(tmp_path / "OUT")
        assert ignores_case(str(tmp_path / "out")) is expected
        assert ignores_case(str(tmp_path / "out/not/made/yet")) is expected

    def test_other_folder_with_the_swapped_name_is_recognised(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "OUT").mkdir(exist_ok=True)
        assert ignores_case(str(tmp_path / "out")) is os.path.samefile(
            tmp_path / "out", tmp_path / "OUT"
        )

    def test_case_insensitive_file_system_is_recognised(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "out").mkdir()
        real = os.path.exists
        monkeypatch.setattr(os.path, "exists", lambda path: real(path) or path.endswith("OUT"))
        monkeypatch.setattr(os.path, "samefile", lambda one, other: one.lower() == other.lower())
        assert ignores_case(str(tmp_path / "out"))
        assert ignores_case(str(tmp_path / "out/not/made/yet"))

    def test_name_without_letters_counts_as_case_sensitive(self) -> None:
        assert not ignores_case("/")
