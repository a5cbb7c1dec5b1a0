"""The Triton kernels of `triton_operations`.

Rows are positions, and columns are channels. Sums are float32, whatever the storage type. Columns
of a block beyond the last channel are masked. Triton would compile a kernel again for each new
divisibility of an integer, so no integer that depends on the image size is specialised.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=("width",))
def read_patches(
    pixels, patches, width, dim: tl.constexpr, patch_size: tl.constexpr, block: tl.constexpr
):
    """Scales the pixels of one patch to [-1, 1], channel by channel; one program per patch."""
    token = tl.program_id(0)
    across = width // patch_size
    top = token // across * patch_size  # the images lie one below the other
    left = token % across * patch_size
    pixels += (top.to(tl.int64) * width + left) * 3
    patches += token.to(tl.int64) * dim
    area: tl.constexpr = patch_size * patch_size
    for start in tl.static_range(0, dim, block):
        at = start + tl.arange(0, block)
        down = at % area // patch_size
        source = (down * width + at % patch_size) * 3 + at // area
        level = tl.load(pixels + source, mask=at < dim, other=0).to(tl.float32)
        value = (level - 127.5) * (1 / 127.5)  # -1 and 1 are exact
        tl.store(patches + at, value.to(patches.dtype.element_ty), mask=at < dim)


@triton.jit(do_not_specialize=("width", "tokens", "stride"))
def finish_ddim(
    x,
    x0,
    pixels,
    width,
    tokens,
    stride,
    x_factor,
    x0_factor,
    dim: tl.constexpr,
    patch_size: tl.constexpr,
    block: tl.constexpr,
):
    """Clamps x_factor · x + x0_factor · x0 to [-1, 1] and rounds it; one program per patch.

    An image of `x` begins `stride` values after the one before: 0 if all images are equal.
    """
    token = tl.program_id(0)
    across = width // patch_size
    left = token % across * patch_size
    top = token % tokens // across * patch_size
    rows = token // across * patch_size  # the images lie one below the other
    x += (token // tokens).to(tl.int64) * stride + top.to(tl.int64) * width + left
    x0 += token.to(tl.int64) * dim
    pixels += (rows.to(tl.int64) * width + left) * 3
    plane = tokens * (patch_size * patch_size)
    for start in tl.static_range(0, dim, block):
        at = start + tl.arange(0, block)  # in the order of the pixels in memory
        channel = at % 3
        right = at // 3 % patch_size
        down = at // (3 * patch_size)
        source = (channel * patch_size + down) * patch_size + right
        value = x0_factor * tl.load(x0 + source, mask=at < dim, other=0.0)
        source = channel * plane + down * width + right
        value += x_factor * tl.load(x + source, mask=at < dim, other=0.0)
        value = tl.minimum(tl.maximum(value, -1.0), 1.0) * 127.5 + 127.5
        level = (value + 12582912.0) - 12582912.0  # 1.5 · 2²³ leaves no bits for fractions
        target = (down * width + right) * 3 + channel
        tl.store(pixels + target, level.to(tl.uint8), mask=at < dim)


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


@triton.jit(do_not_specialize=("goes_on",))
def add_normalized_rows(
    x,
    update,
    weight,
    following,
    y,
    goes_on,
    dim: tl.constexpr,
    eps: tl.constexpr,
    block: tl.constexpr,
):
    """Adds the normalised update[row] to x[row]; one program per row.

    If `goes_on` is not 0, also writes the new x[row] to y[row], normalised with `following`.
    """
    column = tl.arange(0, block)
    inside = column < dim
    at = tl.program_id(0).to(tl.int64) * dim + column
    value = tl.load(update + at, mask=inside, other=0.0).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / dim + eps)
    value *= tl.load(weight + column, mask=inside, other=0.0)
    value += tl.load(x + at, mask=inside, other=0.0)
    tl.store(x + at, value, mask=inside)
    if goes_on != 0:
        value *= tl.rsqrt(tl.sum(value * value, axis=0) / dim + eps)
        value *= tl.load(following + column, mask=inside, other=0.0)
        tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=("tokens",))
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

    `heads` is the number of query heads plus the number of key heads. Both values of a pair are
    loaded at once: a thread that loaded every second value would read memory in pieces.
    """
    token = tl.program_id(0)
    head = tl.arange(0, head_block)[:, None]
    column = tl.arange(0, 2 * pair_block)[None, :]
    dim: tl.constexpr = 2 * pairs
    inside = (head < heads) & (column < dim)
    qkv += token.to(tl.int64) * ((heads + heads // 2) * dim)  # qkv also contains the values
    at = head * dim + column
    value = tl.load(qkv + at, mask=inside, other=0.0).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=1) / dim + eps)[:, None]
    value *= tl.load(weight + at, mask=inside, other=0.0)
    a, b = tl.split(tl.reshape(value, (head_block, pair_block, 2)))
    angle = tl.load(rotation + (token % tokens) * dim + column, mask=column < dim, other=0.0)
    cos, sin = tl.split(tl.reshape(angle, (1, pair_block, 2)))
    rotated = tl.reshape(
        tl.join(a * cos - b * sin, b * cos + a * sin), (head_block, 2 * pair_block)
    )
    tl.store(qkv + at, rotated.to(qkv.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=("height", "width", "tiles_down", "tiles_across"))
def convolve_tiles(
    x,
    filters,
    bias,
    y,
    height,
    width,
    tiles_down,
    tiles_across,
    dim: tl.constexpr,
    size: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
):
    """Convolves each channel. One program computes rows · columns positions of `block` channels.

    For each column of the filter, an input row is read once and added to all output rows that it
    affects. `filters` is [size, size, dim].
    """
    tile = tl.program_id(0)
    half: tl.constexpr = size // 2
    image = (tile // (tiles_down * tiles_across)).to(tl.int64)
    top = (tile // tiles_across % tiles_down) * rows
    column = (tile % tiles_across) * columns + tl.arange(0, columns)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    exists = channel < dim
    x += image * height * width * dim
    y += image * height * width * dim
    totals = ()
    for _ in tl.static_range(rows):
        totals += (tl.zeros((columns, block), dtype=tl.float32),)
    for right in range(size):
        across = column + (right - half)
        inside = ((across >= 0) & (across < width))[:, None] & exists[None, :]
        at = across[:, None] * dim + channel[None, :]
        factors = ()
        for down in tl.static_range(size):
            factor = tl.load(
                filters + (down * size + right) * dim + channel, mask=exists, other=0.0
            )
            factors += (factor[None, :],)
        for source in tl.static_range(rows + size - 1):
            row = tl.full((1, 1), top + (source - half), tl.int32)
            present = inside & (row >= 0) & (row < height)
            value = tl.load(x + row.to(tl.int64) * width * dim + at, mask=present, other=0.0)
            sums = ()
            for target in tl.static_range(rows):
                if source >= target and source - target < size:
                    sums += (totals[target] + value * factors[source - target],)
                else:
                    sums += (totals[target],)
            totals = sums
    shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    inside = (column < width)[:, None] & exists[None, :]
    at = column[:, None] * dim + channel[None, :]
    for target in tl.static_range(rows):
        row = tl.full((1, 1), top + target, tl.int32)
        total = (totals[target] + shift).to(y.dtype.element_ty)
        tl.store(y + row.to(tl.int64) * width * dim + at, total, mask=inside & (row < height))


@triton.jit
def _gelu(value):
    """Computes the exact GELU, value · Φ(value). The error is at most 2e-7 · max(1, |value|).

    The tail Φ(-|value|) is 2 to the power of a polynomial, which falls with |value|. Its
    coefficients minimise the largest error of the product. This takes half the instructions of erf.
    """
    size = tl.abs(value)
    power = size * -1.90206639e-06 + 2.80569513e-05
    power = size * power - 1.31473283e-04
    power = size * power - 2.72075565e-04
    power = size * power + 7.24542097e-03
    power = size * power - 5.26276106e-02
    power = size * power - 4.59162143e-01
    power = size * power - 1.15111105
    power = size * power - 1.0
    return tl.maximum(value, 0.0) - size * tl.exp2(power)


@triton.jit(do_not_specialize=("positions", "parts"))
def sum_squares(
    u,
    sums,
    positions,
    parts,
    dim: tl.constexpr,
    part: tl.constexpr,
    step: tl.constexpr,
    block: tl.constexpr,
):
    """Sums the squares of each channel's GELU over part of an image.

    One program handles `block` channels of `part` positions. It reads `step` positions at a time.
    """
    program = tl.program_id(0)
    image = (program // parts).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    exists = channel < dim
    first = (program % parts) * part
    u += (image * positions + first) * dim
    row = tl.arange(0, step)
    at = row[:, None] * dim + channel[None, :]
    total = tl.zeros((step, block), dtype=tl.float32)
    for start in range(0, part, step):
        inside = (start + row < positions - first)[:, None] & exists[None, :]
        value = _gelu(tl.load(u + start * dim + at, mask=inside, other=0.0).to(tl.float32))
        total += value * value
    tl.store(sums + program * dim + channel, tl.sum(total, axis=0), mask=exists)


@triton.jit(do_not_specialize=("parts",))
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


@triton.jit(do_not_specialize=("positions", "parts"))
def apply_response(
    u,
    factor,
    positions,
    parts,
    dim: tl.constexpr,
    part: tl.constexpr,
    step: tl.constexpr,
    block: tl.constexpr,
):
    """Replaces `u` by its GELU, multiplied by the factor of the image and channel.

    A program handles the same values as one of `sum_squares`. To compute the GELU again takes less
    time than to write and read it.
    """
    program = tl.program_id(0)
    image = (program // parts).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    exists = channel < dim
    first = (program % parts) * part
    u += (image * positions + first) * dim
    row = tl.arange(0, step)
    at = row[:, None] * dim + channel[None, :]
    weight = tl.load(factor + image * dim + channel, mask=exists, other=0.0)[None, :]
    for start in range(0, part, step):
        inside = (start + row < positions - first)[:, None] & exists[None, :]
        value = _gelu(tl.load(u + start * dim + at, mask=inside, other=0.0).to(tl.float32))
        tl.store(u + start * dim + at, (value * weight).to(u.dtype.element_ty), mask=inside)


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
