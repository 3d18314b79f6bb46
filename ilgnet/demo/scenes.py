"""Painted scenes for the demo set: eight kinds, different for every seed, with the subject or horizon on a third of
the frame."""

from typing import Any

import cv2
import numpy as np

Random = np.random.RandomState
Picture = np.ndarray  # H x W x 3 float32 in RGB, 0 to 1; a colour is such a pixel
Mask = np.ndarray  # H x W, 0 to 1


# -- colours and random choices ------------------------------------------------------------------------------------


def rgb(code: str) -> Picture:
    """A colour from its hexadecimal code."""
    return np.array([*bytes.fromhex(code)], np.float32) / 255


def palette(codes: str) -> list[Picture]:
    """Colours from their hexadecimal codes."""
    return [rgb(code) for code in codes.split()]


SKIES = {  # zenith, middle, horizon
    "noon": palette("2f6fb5 7db3e0 d6ecf7"),
    "morning": palette("5b7fb0 e9b89a ffe3b3"),
    "sunset": palette("2b2f63 c8506a ffb14d"),
    "ember": palette("3a1d4e d2453d ffc15e"),
    "dusk": palette("141c3f 4a4f8f e59a86"),
    "teal": palette("0d3b4f 3f8f9b f3dfb0"),
    "night": palette("050916 0e1c3b 27406b"),
}


def mix(a: Picture, b: Picture, share: float) -> Picture:
    """Between two colours, or two pictures: 0 is a, 1 is b."""
    return a + (b - a) * share


def one_of(rng: Random, *choices: Any) -> Any:
    """One of the choices, each as likely as the others."""
    return choices[rng.randint(len(choices))]


def colour_of(rng: Random, codes: str) -> Picture:
    """One of the colours with these codes."""
    return one_of(rng, *palette(codes))


def part(rng: Random, whole: Any, low: float, high: float) -> Any:
    """A random part of a length (or of a colour's brightness), between two shares of it."""
    return whole * rng.uniform(low, high)


def third(rng: Random, whole: float) -> float:
    """The left (upper) or the right (lower) third of a length."""
    return whole * one_of(rng, 1 / 3, 2 / 3)


# -- textures, lines and masks -------------------------------------------------------------------------------------


def gradient(height: int, width: int, colours: list[Picture], power: float = 1.0) -> Picture:
    """From the first colour at the top to the last at the bottom."""
    at = np.linspace(0, 1, height) ** power * (len(colours) - 1)
    rows = np.stack([np.interp(at, range(len(colours)), channel) for channel in zip(*colours)], -1)
    return np.repeat(rows[:, None].astype(np.float32), width, 1)


def noise(rng: Random, height: int, width: int, cells: float, octaves: int = 4, stretch: float = 1.0) -> Mask:
    """Cloudy values from 0 to 1; `cells` blobs across the picture's width, `stretch` times as wide as high."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        across = cells * 2**octave
        grid = rng.rand(max(2, int(across * stretch * height / width) + 2), max(2, int(across) + 2)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return stretched(total)


def size_of(picture: Picture) -> tuple[int, int]:
    """Height and width."""
    height, width = picture.shape[:2]
    return height, width


def texture(
    rng: Random, picture: Picture, low: float, span: float, cells: float, octaves: int = 4, stretch: float = 1.0
) -> np.ndarray:
    """Noise (H x W x 1) from low to low + span, to multiply a colour by."""
    return low + span * noise(rng, *size_of(picture), cells, octaves, stretch)[..., None]


def ridge(rng: Random, width: int, cells: float, octaves: int = 6, roughness: float = 0.5) -> np.ndarray:
    """A mountain line: `width` heights from 0 to 1."""
    line = np.zeros(width)
    for octave in range(octaves):
        knots = rng.rand(int(cells * 2**octave) + 3)
        line += np.interp(np.linspace(0, len(knots) - 1, width), range(len(knots)), knots) * roughness**octave
    return stretched(line)


def stretched(values: np.ndarray) -> np.ndarray:
    """Values moved and scaled to the range from 0 to 1."""
    return (values - values.min()) / (np.ptp(values) + 1e-6)


def bell(away: Any, width: Any) -> Any:
    """A bell curve, 1 where `away` is 0."""
    return np.exp(-((away / width) ** 2))


def below(line: np.ndarray, height: int) -> Mask:
    """A mask of the area below a line of rows, with a smooth edge."""
    return np.clip(np.arange(height)[:, None] - line[None] + 0.5, 0, 1).astype(np.float32)


def polygon(height: int, width: int, points: Any) -> Mask:
    """A mask of a polygon: points are (x, y)."""
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [fixed_point(points)], 255, cv2.LINE_AA, shift=4)
    return mask.astype(np.float32) / 255


def fixed_point(points: Any) -> np.ndarray:
    """Coordinates as OpenCV draws them with shift 4: whole 16ths of a pixel."""
    return np.round(np.asarray(points) * 16).astype(np.int32)


def distance(height: int, width: int, x: float, y: float) -> np.ndarray:
    """Every pixel's distance to a point."""
    return np.hypot(np.arange(width)[None] - x, np.arange(height)[:, None] - y).astype(np.float32)


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Out of focus."""
    return cv2.GaussianBlur(picture, (0, 0), sigma)


# -- brushes -------------------------------------------------------------------------------------------------------


def cover(picture: Picture, colour: Picture, mask: Mask) -> None:
    """Paint a colour (or another picture) where the mask says."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # most masks are small
    if colour.ndim == 3:
        colour = colour[box]
    picture[box] += (colour - picture[box]) * mask[box][..., None]


def land(picture: Picture, colour: Picture, line: np.ndarray, share: float = 1) -> None:
    """Paint the area below a line of rows."""
    cover(picture, colour, below(line, len(picture)) * share)


def shape(picture: Picture, colour: Picture, points: Any, share: float = 1) -> None:
    """Paint a polygon."""
    cover(picture, colour, polygon(*size_of(picture), points) * share)


def disc(picture: Picture, colour: Picture, x: float, y: float, radius: float, soft: float = 1) -> None:
    """Paint a disc with an edge `soft` pixels wide."""
    cover(picture, colour, np.clip((radius - distance(*size_of(picture), x, y)) / soft + 0.5, 0, 1))


def glow(picture: Picture, x: float, y: float, radius: float, colour: Picture, strength: float) -> None:
    """Light around a point."""
    shine = np.exp(-((distance(*size_of(picture), x, y) / radius) ** 1.3)) * strength
    picture += colour * shine[..., None] * (1.05 - np.clip(picture, 0, 1))


def sky_of(rng: Random, height: int, width: int, colours: list[Picture], clouds: float) -> Picture:
    """A sky with clouds lit from the horizon's side."""
    sky = gradient(height, width, colours)
    clouded = noise(rng, height, width, rng.uniform(1.5, 3.5), 5, rng.uniform(2, 4))
    cover(sky, mix(colours[2], rgb("ffffff"), 0.45), np.clip((clouded - 0.5) * 2.6, 0, 1) * clouds)
    return sky


def water_under(rng: Random, picture: Picture, row: int, tint: Picture) -> None:
    """Fill the rows below `row` with the mirrored upper part, with more ripples towards the viewer."""
    height, width = size_of(picture)
    depth = height - row
    y, x = np.mgrid[:depth, :width].astype(np.float32)
    near = y / depth
    wave = noise(rng, depth, width, 7, 4, 9) - 0.5
    source = row - 1 - y * (0.75 * row / depth if depth > row else 0.75) + wave * (4 + 26 * near)
    mirror = cv2.remap(picture, x + wave * 14 * near, np.clip(source, 0, row - 1), cv2.INTER_LINEAR)
    picture[row:] = mix(mirror, tint, 0.22) * (0.93 - 0.3 * near[..., None])


def conifers(rng: Random, height: int, width: int, base: np.ndarray, count: int, size: float) -> Mask:
    """A mask of spruces that stand on a line."""
    halves = []
    for _ in range(count):
        x = rng.uniform(0, width - 1)
        foot, tall = base[int(x)] + 3, part(rng, size, 0.55, 1.3)
        wide = part(rng, tall, 0.16, 0.24)
        tiers = 6
        for side in (-1, 1):
            outline = [(x, foot - tall)]
            for tier in range(1, tiers + 1):
                y, reach = foot - tall + tall * tier / tiers, side * wide * tier / tiers
                outline += [(x + part(rng, reach, 0.8, 1.15), y), (x + reach * 0.55, y - tall * 0.02)]
            halves.append(polygon(height, width, [*outline, (x, foot)]))
    return np.clip(sum(halves), 0, 1)


def tree(rng: Random, height: int, width: int, x: float, foot: float, tall: float) -> Mask:
    """A mask of a broad tree: branches that fork, and leaves in clumps at their ends."""
    mask = np.zeros((height, width), np.uint8)
    ends = []

    def grow(x0: float, y0: float, angle: float, length: float, thick: float) -> None:
        x1, y1 = x0 + np.cos(angle) * length, y0 - np.sin(angle) * length
        start, end = fixed_point([(x0, y0), (x1, y1)]).tolist()
        cv2.line(mask, start, end, 255, max(1, round(thick)), cv2.LINE_AA, 4)
        if length < tall * 0.07:
            ends.append((x1, y1))
            return
        for turn in (-1, 1, 0)[: 2 + (rng.rand() < 0.4)]:
            grow(x1, y1, angle + part(rng, turn, 0.25, 0.6), part(rng, length, 0.62, 0.8), thick * 0.66)

    grow(x, foot, np.pi / 2 + rng.uniform(-0.1, 0.1), tall * 0.3, tall * 0.05)
    for end in ends:
        for _ in range(5):
            centre = [int((at + rng.randn() * tall * 0.03) * 16) for at in end]
            cv2.circle(mask, centre, int(part(rng, tall, 0.008, 0.028) * 16), 255, -1, cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


def bokeh(rng: Random, height: int, width: int, colours: list[Picture], discs: int) -> Picture:
    """A background far out of focus, with discs of light."""
    picture = gradient(height, width, [colours[0] * 0.8, colours[1], colours[0] * 0.6])
    cover(picture, colours[2], noise(rng, height, width, 2.5, 3) * 0.7)
    picture = blurred(picture, width / 25)
    for _ in range(discs):
        x, y, radius = part(rng, width, 0, 1), part(rng, height, 0, 1), part(rng, width, 0.012, 0.05)
        colour = mix(one_of(rng, *colours), rgb("fff3d0"), rng.uniform(0.3, 0.9))
        away = distance(height, width, x, y)
        ring = np.clip((radius - away) / 3 + 0.5, 0, 1) * (0.75 + 0.25 * away / radius)
        cover(picture, colour, np.clip(ring, 0, 1) * rng.uniform(0.15, 0.55))
    return picture


# -- scenes --------------------------------------------------------------------------------------------------------


def mountains(rng: Random, height: int, width: int) -> Picture:
    """Ranges that fade into the distance, over a lake or a wooded valley."""
    name = one_of(rng, "noon", "morning", "sunset", "dusk", "teal")
    zenith, _, haze = sky = SKIES[name]
    horizon = int(part(rng, height, 0.6, 0.68))
    picture = sky_of(rng, height, width, sky, rng.uniform(0.3, 0.8))
    dark = mix(zenith, colour_of(rng, "26402f 2b2b3b 1e3440"), 0.65)
    if rng.rand() < 0.8:
        x, y = third(rng, width), part(rng, horizon, 0.3, 0.6)
        glow(picture, x, y, width * 0.2, mix(haze, rgb("fff1c4"), 0.6), 0.8)
        disc(picture, rgb("fffbe8"), x, y, part(rng, width, 0.02, 0.035), 2)
    ranges, peak = rng.randint(3, 6), part(rng, width, 0.25, 0.75)
    rows = np.arange(height)[:, None]
    for depth in range(ranges):
        near = (depth + 1) / ranges
        line = ridge(rng, width, 2 + 2 * near, 6, 0.45 + 0.08 * rng.rand())
        if depth == 0:  # one great peak
            line = 0.5 * line + bell(np.arange(width) - peak, width * 0.22)
        top = horizon - height * (0.36 * (1 - near) + 0.07) * line - height * 0.015 * (ranges - depth)
        mask = below(top, height)
        colour = mix(haze, dark, 0.25 + 0.7 * near)
        rock = noise(rng, height, width, 14, 4, 0.6)[..., None]
        cover(picture, colour * (0.85 + 0.3 * rock), mask)
        if depth == 0 and name != "teal":  # snow, thinner further down
            high = np.clip(1.1 - (rows - top) / (height * 0.13) - 0.9 * rock[..., 0], 0, 1)
            cover(picture, mix(rgb("ffffff"), haze, 0.25), mask * high.astype(np.float32))
        mist = bell(rows - horizon, height * 0.05).astype(np.float32)
        cover(picture, haze, mist * 0.3 * mask)
    if rng.rand() < 0.65:
        water_under(rng, picture, horizon, dark)
    else:
        meadow = mix(dark, colour_of(rng, "6d8f3a 8a7f3c 3f6b4a"), 0.6)
        land(picture, meadow * texture(rng, picture, 0.6, 0.8, 30, 4, 3), horizon + 6 * ridge(rng, width, 3))
    shore = part(rng, height, 0.86, 0.95) + height * 0.06 * ridge(rng, width, 3)
    land(picture, dark * 0.25, shore)
    cover(picture, dark * 0.22, conifers(rng, height, width, shore, rng.randint(5, 16), height * 0.2))
    return picture


def sea(rng: Random, height: int, width: int) -> Picture:
    """A low sun over the sea, its path on the water, a sailing boat."""
    zenith, middle, haze = sky = SKIES[one_of(rng, "morning", "sunset", "ember", "dusk", "teal")]
    horizon = int(part(rng, height, 0.57, 0.67))
    x, radius = third(rng, width), part(rng, width, 0.028, 0.05)
    picture = sky_of(rng, height, width, sky, rng.uniform(0.3, 0.9))
    picture[:horizon] = cv2.resize(picture, (width, horizon))
    light = mix(haze, rgb("fff0b8"), 0.6)
    y = horizon - part(rng, height, 0.03, 0.16)
    glow(picture, x, y, width * 0.26, light, 0.9)
    disc(picture, rgb("fffae0"), x, y, radius, 2)
    if rng.rand() < 0.6:  # a headland
        left = int(x > width / 2)
        rise = height * 0.16 * np.linspace(left, 1 - left, width) ** 2
        land(picture, mix(zenith, middle, 0.25) * 0.6, horizon - rise * (0.5 + ridge(rng, width, 3)))
    water_under(rng, picture, horizon, mix(zenith, middle, 0.4))
    depth = height - horizon
    near = np.linspace(0, 1, depth)[:, None]
    path = bell(np.arange(width) - x, width * (0.03 + 0.13 * near))
    sparkle = np.clip(noise(rng, depth, width, 26, 3, 5) * 2.4 - 1.1, 0, 1)
    cover(picture[horizon:], light, (path * sparkle * 0.95).astype(np.float32))
    bx, by, tall = width * (1 - x / width) + part(rng, width, -0.08, 0.08), horizon + depth * 0.12, height * 0.15
    hull = (-0.45, 0), (0.5, 0), (0.34, 0.16), (-0.34, 0.16)
    sails = ((0.03, -0.06), (0.03, -1), (0.45, -0.06)), ((-0.03, -0.06), (-0.03, -0.85), (-0.34, -0.06))
    mirrored = (-0.3, 0.2), (0.3, 0.2), (0.04, 0.8)
    for points, size, share in (*((points, 0.8, 0.95) for points in (hull, *sails)), (mirrored, 1, 0.35)):
        shape(picture, zenith * 0.35, np.array(points) * tall * size + (bx, by), share)
    return picture


def night(rng: Random, height: int, width: int) -> Picture:
    """Stars and the moon over a lone tree on a hill."""
    tint = colour_of(rng, "27406b 3a2f6b 1f5560 6b4a4a")
    picture = gradient(height, width, [*SKIES["night"][:2], tint], rng.uniform(0.8, 1.5))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, offset = rng.uniform(-0.9, 0.9), rng.uniform(0.3, 0.7)
    band = bell((x - width * offset) * np.cos(angle) + (y - height * 0.4) * np.sin(angle), width * 0.13)
    cover(picture, colour_of(rng, "7f8fd0 b58ec9 6fb3c9"), band * noise(rng, height, width, 6, 5) ** 2 * 0.75)
    stars = np.zeros((height, width), np.float32)
    for size, count in ((0.5, 420), (0.8, 90), (1.3, 14)):
        for sx, sy in rng.rand(count, 2) * (width, height):
            cv2.circle(stars, (int(sx * 8), int(sy * 8)), int(size * 8), float(rng.uniform(0.4, 1)), -1, cv2.LINE_AA, 3)
    cover(picture, rgb("fff8ec"), np.clip(stars + 0.7 * blurred(stars, 1.6), 0, 1))
    mx, my, radius = third(rng, width), part(rng, height, 0.2, 0.34), part(rng, width, 0.035, 0.06)
    glow(picture, mx, my, width * 0.14, rgb("aebfe8"), 0.75)
    craters = mix(rgb("fdf6e0"), rgb("cfc8b8"), 0.8) * texture(rng, picture, 0.85, 0.25, 34, 3)
    disc(picture, craters, mx, my, radius, 1.5)
    far = height * 0.74 - height * 0.1 * ridge(rng, width, 3)
    land(picture, tint * 0.42, far)
    tx = width - mx
    hill = height * 0.86 - height * 0.1 * bell(np.arange(width) - tx, width * 0.3)
    land(picture, rgb("04060d"), hill)
    cover(picture, rgb("04060d"), tree(rng, height, width, tx, hill[int(tx)] + 2, part(rng, height, 0.38, 0.5)))
    return picture


def flower(rng: Random, height: int, width: int) -> Picture:
    """A flower close by, everything behind it out of focus."""
    backs = ("1f4d2b 5c9a3c d7d96b", "20354a 4f7f8f d9c58a", "3c2a3f 8a5a78 e7b6a0", "274029 7a8f3a f0d890")
    picture = bokeh(rng, height, width, palette(one_of(rng, *backs)), rng.randint(14, 34))
    petal = colour_of(rng, "e8386d f26f2e f7d038 f3eef5 8a4fd0 d8345f 4f7be0")
    x, y, radius = third(rng, width), part(rng, height, 0.34, 0.46), part(rng, min(height, width), 0.2, 0.27)
    bend = part(rng, width, -0.2, 0.2)
    along = np.linspace(0, 1, 40)[:, None]
    stem = np.concatenate([x + bend * along**2, y + (height - y + 9) * along], 1)
    line = np.zeros((height, width), np.uint8)
    cv2.polylines(line, [fixed_point(stem)], False, 255, max(3, int(radius * 0.09)), cv2.LINE_AA, 4)
    cover(picture, rgb("3f7a35"), line.astype(np.float32) / 255)
    veins = texture(rng, picture, 0.7, 0.5, 20, 2)
    for side in (-1, 1):
        (fx, fy), reach = stem[rng.randint(14, 26)], part(rng, radius, 0.9, 1.4)
        leaf = [
            (fx + side * reach * t, fy - reach * (0.5 * t + bulge * np.sin(np.pi * t)))
            for bulge, ends in ((0.3, (0, 1)), (-0.2 * 0.3, (1, 0)))
            for t in np.linspace(*ends, 12)
        ]
        shape(picture, rgb("4c8f3d") * veins, leaf)
    count, turn = rng.randint(6, 15), rng.uniform(0, 6.28)
    away = distance(height, width, x, y) / radius
    for layer, (reach, light) in enumerate(((1.0, 0.72), (0.78, 0.95))):
        for index in rng.permutation(count):
            angle = turn + (index + 0.5 * layer) * 2 * np.pi / count
            t = np.linspace(0, np.pi, 16)
            length, half = part(rng, radius * reach, 0.92, 1.05), radius * reach * 2.6 / count
            local = np.stack([length * (1 - np.cos(t)) / 2, half * np.sin(t) ** 0.8], 1)
            local = np.concatenate([local, local[::-1] * (1, -1)])
            rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            mask = polygon(height, width, local @ rotation + (x, y))
            shade = part(rng, light * (0.66 + 0.4 * np.clip(away / reach, 0, 1)), 0.9, 1.08)
            edge = blurred(mask, 2.5)  # petals lie in each other's shadow
            cover(picture, picture * 0.72, np.clip(edge - mask, 0, 1))
            cover(picture, mix(petal, rgb("ffffff"), 0.12 * layer) * shade[..., None], mask)
    core = texture(rng, picture, 0.55, 0.7, 90, 2)
    disc(picture, colour_of(rng, "f4c430 7a4a1e f5e27a") * core, x, y, radius * 0.24, 2)
    return picture


def forest(rng: Random, height: int, width: int) -> Picture:
    """Trunks in the mist, light falling between them."""
    light = colour_of(rng, "f6e7b8 e6f0d8 f3c98a cfe3ea")
    green = colour_of(rng, "3d6b3a 5c6b2f 2f5a4f 7a4b26")
    picture = gradient(height, width, [mix(green, light, 0.55), light, mix(green, light, 0.25)])
    lx, ly = third(rng, width), height * 0.22
    glow(picture, lx, ly, width * 0.3, light, 0.8)
    for depth in np.linspace(0, 1, 7):
        colour = mix(mix(green, light, 0.7), mix(green, rgb("15120d"), 0.8), depth)
        ground = height * (0.66 + 0.2 * depth) + height * 0.03 * ridge(rng, width, 4)
        leaves = noise(rng, height, width, 16 + 10 * (1 - depth), 4)
        crown = np.clip((leaves - 0.52 - 0.75 * np.linspace(0, 1, height)[:, None] ** 0.7 + 0.25) * 6, 0, 1)
        cover(picture, mix(colour, green * 1.2, 0.5), crown.astype(np.float32) * (0.25 + 0.5 * depth))
        bark = texture(rng, picture, 0.75, 0.5, 60, 2, 0.2)
        for _ in range(int(9 - 5 * depth)):
            x, wide = part(rng, width, -0.02, 1.02), part(rng, width * (0.006 + 0.034 * depth**1.5), 0.7, 1.3)
            if depth > 0.7 and abs(x - lx) < width * 0.14:
                continue  # keep the light's way free
            lean, foot = part(rng, width, -0.03, 0.03), ground[int(np.clip(x, 0, width - 1))] + 5
            top = [(x + side * wide * 0.7 + lean, -2) for side in (-1, 1)]
            shape(picture, colour * bark, [*top, (x + wide, foot), (x - wide, foot)])
        floor = mix(colour, green, 0.6) * texture(rng, picture, 0.6, 0.7, 40, 4, 3)
        land(picture, floor, ground, 0.85)
    rays = np.zeros((height, width), np.float32)
    for _ in range(7):
        angle, spread = rng.uniform(0.2, 2.9), rng.uniform(0.02, 0.07)
        ends = [(lx + 2 * width * np.cos(a), ly + 2 * width * np.sin(a)) for a in (angle - spread, angle + spread)]
        rays += polygon(height, width, [(lx, ly), *ends]) * 0.22
    fade = np.exp(-distance(height, width, lx, ly) / (width * 0.45))
    cover(picture, mix(light, rgb("ffffff"), 0.3), np.clip(blurred(rays, 5) * fade, 0, 0.6))
    return picture


def city(rng: Random, height: int, width: int) -> Picture:
    """A skyline with lit windows, mirrored in a river."""
    zenith, middle, haze = sky = SKIES[one_of(rng, "dusk", "night", "sunset", "teal")]
    horizon = int(part(rng, height, 0.6, 0.68))
    picture = sky_of(rng, height, width, sky, 0.5)
    glow(picture, third(rng, width), horizon, width * 0.4, haze, 0.6)
    landmark = third(rng, width)
    for depth in range(3):
        colour = mix(haze, zenith * 0.5, 0.45 + 0.27 * depth)
        x = -rng.uniform(0, 20)
        while x < width:
            wide = part(rng, width, 0.035, 0.08)
            tall = part(rng, height, 0.08, 0.26 - 0.05 * depth) * (1 + 0.8 * bell(x - landmark, width * 0.18))
            left, right, top = max(int(x), 0), max(int(x + wide), 0), int(horizon - tall)
            picture[top:horizon, left:right] = part(rng, colour, 0.8, 1.1)
            if depth:
                lit = rng.rand() * 0.6
                for row in range(top + 4, horizon - 3, 6):
                    for column in range(left + 3, min(right, width) - 3, 5):
                        if rng.rand() < lit:
                            lamp = mix(rgb("ffd98a"), rgb("fff6dc"), rng.rand())
                            picture[row : row + 3, column : column + 2] = part(rng, lamp, 0.7, 1)
            x += wide + rng.uniform(-2, 5)
    tip = horizon - part(rng, height, 0.44, 0.52)
    half = [(11, horizon), (6, tip + 40), (1.2, tip)]
    sides = [(landmark - wide, y) for wide, y in half] + [(landmark + wide, y) for wide, y in half[::-1]]
    shape(picture, zenith * 0.5, sides)
    for row in range(int(tip) + 44, horizon - 3, 6):
        picture[row : row + 3, int(landmark) - 4 : int(landmark) + 5 : 4] = rgb("ffe2a0")
    glow(picture, landmark, tip, width * 0.03, rgb("ff6a50"), 0.9)
    picture = picture + 0.5 * blurred(np.clip(picture - 0.75, 0, 1), 4)
    water_under(rng, picture, horizon, zenith * 0.6)
    river = picture[horizon:]
    picture[horizon:] = mix(cv2.GaussianBlur(river, (0, 0), 1, sigmaY=height / 40), middle, 0.25)
    picture[horizon - 2 : horizon + 3] *= 0.35  # the quay
    return picture


def dunes(rng: Random, height: int, width: int) -> Picture:
    """Sand dunes with a sharp line between light and shade, and a walker on the crest."""
    _, _, haze = sky = SKIES[one_of(rng, "noon", "morning", "sunset", "ember")]
    picture = sky_of(rng, height, width, sky, 0.25)
    sand = mix(colour_of(rng, "e2a55b d98c4a e8c48a c9784a"), haze, 0.2)
    horizon = part(rng, height, 0.32, 0.4)
    sx = third(rng, width)
    glow(picture, sx, horizon * 0.6, width * 0.22, rgb("fff2cf"), 0.7)
    ripples = noise(rng, height, width, 5, 2)
    x, y = np.arange(width), np.arange(height)[:, None]
    side = 1 if sx < width / 2 else -1
    count = rng.randint(3, 6)
    for depth in range(count):
        near = depth / (count - 1)
        swing = np.interp(np.linspace(0, 5, width), range(6), rng.rand(6))
        swing = blurred(swing[None].astype(np.float32), width / 14)[0]
        crest = horizon + height * 0.5 * near - height * (0.06 + 0.22 * near) * (swing - 0.5)
        mask = below(crest, height)
        shade = blurred((np.gradient(crest) * side > 0).astype(np.float32)[None], 3)
        down = (y - crest) / (height * 0.3)
        lean = (x + side * down * height * (0.35 + 0.3 * near)).astype(np.float32)  # slip faces
        shade = cv2.remap(
            np.repeat(shade, 3, 0), lean, np.ones_like(lean), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        wavy = 0.04 * np.sin(y * 0.9 + 30 * ripples + x * 0.08) * near
        tone = (1.06 - 0.16 * down + wavy - 0.45 * shade * np.clip(1.3 - down, 0, 1))[..., None]
        cover(picture, mix(haze, sand, 0.45 + 0.55 * near) * tone.astype(np.float32), mask)
        if depth == count // 2:
            walker = (width - sx, crest[int(width - sx)])
    sx, foot = walker
    tall = height * 0.07
    half = np.array([(0.1, -0.78), (0.13, -0.5), (0.1, 0), (0.02, 0)])
    body = np.concatenate([half[2::-1] * (-1, 1), half, [(0, -0.4), (-0.02, 0)]])
    shape(picture, rgb("20150f"), body * tall + (sx, foot + 2))
    disc(picture, rgb("20150f"), sx, foot - 0.88 * tall, tall * 0.1)
    return picture


def balloons(rng: Random, height: int, width: int) -> Picture:
    """Hot-air balloons over hills."""
    _, _, haze = sky = SKIES[one_of(rng, "noon", "morning", "sunset", "teal")]
    picture = sky_of(rng, height, width, sky, 0.7)
    green = colour_of(rng, "5f8a3f 8c8a45 4b7a5a 9a7a4a")
    for depth in range(4):
        near = (depth + 1) / 4
        line = height * (0.7 + 0.075 * depth) - height * 0.09 * ridge(rng, width, 2 + depth, 3, 0.35)
        fields = texture(rng, picture, 0.75, 0.5, 9 + 6 * depth, 3, 2.5)
        land(picture, mix(haze, green * (1.05 - 0.35 * near), 0.35 + 0.6 * near) * fields, line)
    paints = palette("d6323a f2b632 2f6db5 f4efe2 3f8f5a 7a3f8f f07f3a")
    places = [(third(rng, width), part(rng, height, 0.32, 0.38), part(rng, height, 0.17, 0.22))]
    for _ in range(rng.randint(0, 4)):
        place = (part(rng, width, 0.08, 0.92), part(rng, height, 0.12, 0.6), part(rng, height, 0.025, 0.06))
        if abs(place[0] - places[0][0]) > 1.5 * places[0][2]:
            places.append(place)
    for x, y, radius in places[::-1]:
        colours = [paints[i] for i in rng.permutation(len(paints))[:3]]
        t = np.linspace(-np.pi / 2, np.pi / 2, 30)
        side = np.cos(t) ** 0.8 * np.where(t > 0.3, 1 - 0.42 * np.clip((t - 0.3) / 1.27, 0, 1), 1)
        down = np.sin(t) * np.where(t > 0, 1.35, 1)
        stripes = 11
        for stripe in range(stripes):
            near, far = (side * np.sin(np.pi * (s / stripes - 0.5)) for s in (stripe, stripe + 1))
            outline = np.stack([np.concatenate([near, far[::-1]]), np.concatenate([down, down[::-1]])], 1)
            light = 0.62 + 0.5 * np.cos((stripe + 0.5) / stripes * np.pi * 0.85 - 0.35)
            colour = mix(colours[stripe % 3], haze, 0.35 * (radius < height * 0.1)) * light
            shape(picture, np.clip(colour, 0, 1), outline * radius + (x, y))
        basket = np.array([(-0.14, 1.62), (0.14, 1.62), (0.11, 1.84), (-0.11, 1.84)]) * radius + (x, y)
        ropes = np.array([(-0.2, 1.3), (-0.14, 1.62), (-0.11, 1.62), (-0.15, 1.3)]) * radius
        shape(picture, rgb("3a2416"), basket)
        for flip in (-1, 1):
            shape(picture, rgb("3a2416"), ropes * (flip, 1) + (x, y), 0.8)
    return picture


KINDS = {scene.__name__: scene for scene in (balloons, city, dunes, flower, forest, mountains, night, sea)}


def paint(rng: Random, height: int, width: int) -> tuple[str, Picture]:
    """A scene of a random kind, and the kind's name."""
    name = one_of(rng, *KINDS)
    return name, np.clip(KINDS[name](rng, height, width), 0, 1).astype(np.float32)
