"""The shown images are spread over the set, and a failure changes little."""

from __future__ import annotations

import pytest

from dinac_cli.compare.gallery import choose_shown
from dinac_cli.compare.variants import name_safely

NAMES = [f"{number:02}" for number in range(20)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, ["10"]), (2, ["05", "15"]), (4, ["02", "07", "12", "17"]), (20, NAMES)],
)
def test_names_are_spread(count: int, expected: list[str]) -> None:
    assert choose_shown(NAMES, count, lambda name: True) == expected


def test_all_usable_names_are_shown_if_there_are_few() -> None:
    assert choose_shown(NAMES, 99, lambda name: int(name) % 3 == 0) == NAMES[::3]
    assert choose_shown([], 5, lambda name: True) == []
    assert choose_shown(NAMES, 5, lambda name: False) == []


def test_an_unusable_name_is_replaced_by_the_next_one() -> None:
    usable = set(NAMES) - {"07", "08", "17", "18", "19"}
    assert choose_shown(NAMES, 4, usable.__contains__) == ["00", "02", "09", "12"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nano-bf16-1", "nano-bf16-1-01234567"),
        ("owner/CON: <x>|?*-q6-4", "owner-con-x-q6-4-01234567"),
        ("é" * 99, "01234567"),
        ("../..", "01234567"),
    ],
)
def test_names_of_files_are_valid_everywhere(text: str, expected: str) -> None:
    assert name_safely(text, "0123456789abcdef") == expected
