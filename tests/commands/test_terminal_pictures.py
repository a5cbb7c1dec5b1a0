"""Pictures in terminals: the choice of the protocol, and the bytes of each."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest

from dinac_cli.commands.screen.terminal_pictures import (
    Pixels,
    Protocol,
    draw_blocks,
    draw_iterm2,
    draw_kitty,
    draw_sixel,
    find_protocol,
)


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({}, Protocol.BLOCKS),
        ({"TERM": "xterm-256color"}, Protocol.BLOCKS),
        ({"TERM": "xterm-kitty"}, Protocol.KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, Protocol.ITERM2),
        ({"TERM": "foot"}, Protocol.SIXEL),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, Protocol.BLOCKS),
        ({"TERM": "screen-256color", "TERM_PROGRAM": "WezTerm"}, Protocol.BLOCKS),
    ],
)
def test_protocol_follows_the_environment(environ: dict[str, str], protocol: Protocol) -> None:
    assert find_protocol(environ) is protocol


def test_blocks_have_one_colour_per_half() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, :2] = 255, 0, 1
    pixels[1, 2] = 7, 8, 9
    assert draw_blocks(pixels) == [
        "\x1b[38;2;255;0;1;48;2;0;0;0m▀▀\x1b[38;2;0;0;0;48;2;7;8;9m▀\x1b[0m"
    ]


def test_kitty_gets_the_png_in_chunks() -> None:
    png = bytes(range(256)) * 20
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", draw_kitty(png))
    assert [keys for keys, _ in parts] == ["a=T,f=100,q=2,m=1", "m=0"]
    assert all(len(chunk) <= 4096 for _, chunk in parts)
    assert base64.b64decode("".join(chunk for _, chunk in parts)) == png


def test_iterm2_gets_the_png() -> None:
    text = draw_iterm2(b"png")
    assert text == "\x1b]1337;File=inline=1;size=3;preserveAspectRatio=1:cG5n\x07"


def read_sixel(text: str) -> Pixels:
    """Draws sixels as a terminal does: [H, W, 3], in the colours of the palette."""
    head = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\', text)
    assert head is not None
    width, height = int(head[1]), int(head[2])
    pixels = np.zeros((height, width, 3), np.uint8)
    palette: dict[int, list[int]] = {}
    color, x, top = 0, 0, 0
    for match in re.finditer(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)(.)|(.)", head[3]):
        if match[1]:
            palette[int(match[1])] = [round(int(match[i]) * 2.55) for i in (2, 3, 4)]
        elif match[5]:
            color = int(match[5])
        elif match[8] == "$":
            x = 0
        elif match[8] == "-":
            x, top = 0, top + 6
        else:
            bits, count = ord(match[7] or match[8]) - 63, int(match[6] or 1)
            for row in range(6):
                if bits >> row & 1:
                    pixels[top + row, x : x + count] = palette[color]
            x += count
    return pixels


def test_sixels_are_the_picture() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (5, 3)).astype(np.uint8)
    pixels = colors[np.random.default_rng(1).integers(0, 5, (13, 9))]
    pixels[:, 4:] = colors[0]
    difference = np.abs(read_sixel(draw_sixel(pixels)).astype(int) - pixels)
    assert difference.max() <= 3  # sixels have colours in percent
