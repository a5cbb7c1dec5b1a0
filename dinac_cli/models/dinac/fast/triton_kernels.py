"""The Triton kernels of `triton_operations`. Each kernel reads and writes an activation once.

Rows are positions, and columns are channels. Sums are float32, whatever the storage type. Columns
of a block beyond the last channel are masked.
"""

import triton
import triton.language as tl


@triton.jit
def normalize_rows(x, weight, y, dim: tl.constexpr, eps: tl.constexpr, block: tl.constexpr):
    """Computes y[row] = x[row] / rms(x[row]) · weight; one program per row."""
    column = tl.arange(0, block)
    inside = column < dim
    at = tl.program_id(0).to(tl.int64) * dim + column
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / dim + eps)
    value *= tl.load(weight + column, mask=inside, other=0.0)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def add_normalized_rows(
    x,
    update,
    weight,
    following,
    y,
    dim: tl.constexpr,
    eps: tl.constexpr,
    block: tl.constexpr,
    goes_on: tl.constexpr,
):
    """Adds the normalised update[row] to x[row]; one program per row.

    If `goes_on` is true, also writes the new x[row] to y[row], normalised with `following`.
    """
    column = tl.arange(0, block)
    inside = column < dim
    at = tl.program_id(0).to(tl.int64) * dim + column
    value = tl.load(update + at, mask=inside, other=0.0).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / dim + eps)
    value *= tl.load(weight + column, mask=inside, other=0.0)
    value += tl.load(x + at, mask=inside, other=0.0)
    tl.store(x + at, value, mask=inside)
    if goes_on:
        value *= tl.rsqrt(tl.sum(value * value, axis=0) / dim + eps)
        value *= tl.load(following + column, mask=inside, other=0.0)
        tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def rotate_rows(
    qkv,
    weight,
    rotation,
    tokens,
    heads: tl.constexpr,
    pairs: tl.constexpr,
    eps: tl.constexpr,
    head_block: tl.constexpr,
    pair_block: tl.constexpr,
):
    """Normalises and rotates queries and keys in place; one program per token.

    `heads` is the number of query heads plus the number of key heads.
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, head_block)[:, None]
    pair = tl.arange(0, pair_block)[None, :]
    inside = (head < heads) & (pair < pairs)
    dim: tl.constexpr = 2 * pairs
    at = row * (heads + heads // 2) * dim + head * dim + 2 * pair  # qkv also contains the values
    a = tl.load(qkv + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(qkv + at + 1, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(a * a + b * b, axis=1) / dim + eps)[:, None]
    a *= scale * tl.load(weight + head * dim + 2 * pair, mask=inside, other=0.0)
    b *= scale * tl.load(weight + head * dim + 2 * pair + 1, mask=inside, other=0.0)
    angle = rotation + ((row % tokens) * pairs + pair) * 2
    cos = tl.load(angle, mask=pair < pairs, other=0.0)
    sin = tl.load(angle + 1, mask=pair < pairs, other=0.0)
    kind = qkv.dtype.element_ty
    tl.store(qkv + at, (a * cos - b * sin).to(kind), mask=inside)
    tl.store(qkv + at + 1, (b * cos + a * sin).to(kind), mask=inside)


@triton.jit
def convolve_tiles(
    x,
    weight,
    bias,
    y,
    height,
    width,
    tiles_down,
    tiles_across,
    dim: tl.constexpr,
    size: tl.constexpr,
    side: tl.constexpr,
    block: tl.constexpr,
):
    """Convolves each channel. One program computes side² positions of `block` channels."""
    tile = tl.program_id(0)
    image = (tile // (tiles_down * tiles_across)).to(tl.int64)
    place = tl.arange(0, side * side)
    row = (tile // tiles_across % tiles_down) * side + place // side
    column = (tile % tiles_across) * side + place % side
    channel = tl.program_id(1) * block + tl.arange(0, block)
    exists = channel < dim
    total = tl.zeros((side * side, block), dtype=tl.float32)
    for tap in range(size * size):
        down = row + (tap // size - size // 2)
        across = column + (tap % size - size // 2)
        inside = (down >= 0) & (down < height) & (across >= 0) & (across < width)
        at = ((image * height + down) * width + across)[:, None] * dim + channel[None, :]
        value = tl.load(x + at, mask=inside[:, None] & exists[None, :], other=0.0)
        factor = tl.load(weight + channel * size * size + tap, mask=exists, other=0.0)
        total += value.to(tl.float32) * factor.to(tl.float32)[None, :]
    total += tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    at = ((image * height + row) * width + column)[:, None] * dim + channel[None, :]
    inside = ((row < height) & (column < width))[:, None] & exists[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def activate_columns(
    u,
    sums,
    positions,
    parts,
    dim: tl.constexpr,
    part: tl.constexpr,
    step: tl.constexpr,
    block: tl.constexpr,
):
    """Applies the exact GELU in place. Also sums the squares of each channel over part of an image.

    One program handles `block` channels of `part` positions. It reads `step` positions at a time.
    """
    program = tl.program_id(0)
    image = (program // parts).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    exists = channel < dim
    first = (program % parts) * part
    total = tl.zeros((block,), dtype=tl.float32)
    for start in range(0, part, step):
        row = first + start + tl.arange(0, step)
        inside = (row < positions)[:, None] & exists[None, :]
        at = (image * positions + row)[:, None] * dim + channel[None, :]
        value = tl.load(u + at, mask=inside, other=0.0).to(tl.float32)
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
        stored = value.to(u.dtype.element_ty)
        tl.store(u + at, stored, mask=inside)
        value = stored.to(tl.float32)
        total += tl.sum(value * value, axis=0)
    tl.store(sums + program * dim + channel, total, mask=exists)


@triton.jit
def weigh_response(
    sums, gamma, factor, parts, dim: tl.constexpr, eps: tl.constexpr, block: tl.constexpr
):
    """Computes factor = 1 + gamma · norm / (mean of all norms); one program per image."""
    image = tl.program_id(0)
    channel = tl.arange(0, block)
    exists = channel < dim
    total = tl.zeros((block,), dtype=tl.float32)
    for part in range(parts):
        total += tl.load(sums + (image * parts + part) * dim + channel, mask=exists, other=0.0)
    norm = tl.sqrt(total)
    relative = norm / (tl.sum(norm, axis=0) / dim + eps)
    weight = tl.load(gamma + channel, mask=exists, other=0.0)
    tl.store(factor + image * dim + channel, 1.0 + weight * relative, mask=exists)


@triton.jit
def add_gated_rows(x, gate, update, shift, y, dim: tl.constexpr, block: tl.constexpr):
    """Computes y[row] = x[row] + gate · (update[row] + shift); one program per row."""
    column = tl.arange(0, block)
    inside = column < dim
    at = tl.program_id(0).to(tl.int64) * dim + column
    value = tl.load(update + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(shift + column, mask=inside, other=0.0)
    value *= tl.load(gate + column, mask=inside, other=0.0)
    value += tl.load(x + at, mask=inside, other=0.0)
    tl.store(y + at, value, mask=inside)
