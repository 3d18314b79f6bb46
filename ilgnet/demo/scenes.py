"""Painted scenes for the demo set: eight kinds, different for every seed, with the subject or horizon on a third of
the frame. A picture is H x W x 3 float32 in RGB, 0 to 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

Random = np.random.RandomState
KINDS: dict[str, Callable[[Random, int, int], np.ndarray]] = {}

SKIES = {  # zenith, middle, horizon
    "noon": ("2f6fb5", "7db3e0", "d6ecf7"),
    "morning": ("5b7fb0", "e9b89a", "ffe3b3"),
    "sunset": ("2b2f63", "c8506a", "ffb14d"),
    "ember": ("3a1d4e", "d2453d", "ffc15e"),
    "dusk": ("141c3f", "4a4f8f", "e59a86"),
    "teal": ("0d3b4f", "3f8f9b", "f3dfb0"),
    "night": ("050916", "0e1c3b", "27406b"),
}


def kind(paint: Callable) -> Callable:
    """Register a scene under its function's name."""
    KINDS[paint.__name__] = paint
    return paint


def paint(rng: Random, height: int, width: int) -> tuple[str, np.ndarray]:
    """A scene of a random kind, and the kind's name."""
    name = sorted(KINDS)[rng.randint(len(KINDS))]
    return name, np.clip(KINDS[name](rng, height, width), 0, 1).astype(np.float32)


# -- brushes -------------------------------------------------------------------------------------------------------


def rgb(code: str) -> np.ndarray:
    """A colour from its hexadecimal code."""
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255


def mix(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Between two colours, or two pictures: 0 is a, 1 is b."""
    return a + (b - a) * share


def cover(picture: np.ndarray, colour: np.ndarray, mask: np.ndarray) -> None:
    """Paint a colour (or another picture) where the mask (H x W, 0 to 1) says."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))  # most masks are small
    if colour.ndim == 3:
        colour = colour[box] if colour.shape[:2] == mask.shape else colour
    picture[box] += (colour - picture[box]) * mask[box][..., None]


def gradient(height: int, width: int, colours: list[np.ndarray], power: float = 1.0) -> np.ndarray:
    """From the first colour at the top to the last at the bottom."""
    at = np.linspace(0, 1, height) ** power * (len(colours) - 1)
    rows = np.stack([np.interp(at, range(len(colours)), [c[i] for c in colours]) for i in range(3)], -1)
    return np.repeat(rows[:, None].astype(np.float32), width, 1)


def noise(rng: Random, height: int, width: int, cells: float, octaves: int = 4, stretch: float = 1.0) -> np.ndarray:
    """Cloudy values from 0 to 1; `cells` blobs across the picture's width, `stretch` times as wide as high."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        across = cells * 2**octave
        grid = rng.rand(max(2, int(across * stretch * height / width) + 2), max(2, int(across) + 2)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    low, high = total.min(), total.max()
    return (total - low) / (high - low + 1e-6)


def ridge(rng: Random, width: int, cells: float, octaves: int = 6, roughness: float = 0.5) -> np.ndarray:
    """A mountain line: `width` heights from 0 to 1."""
    line = np.zeros(width)
    for octave in range(octaves):
        knots = rng.rand(int(cells * 2**octave) + 3)
        line += np.interp(np.linspace(0, len(knots) - 1, width), range(len(knots)), knots) * roughness**octave
    return (line - line.min()) / (np.ptp(line) + 1e-6)


def below(line: np.ndarray, height: int) -> np.ndarray:
    """A mask of the area below a line of rows, with a smooth edge."""
    return np.clip(np.arange(height)[:, None] - line[None] + 0.5, 0, 1).astype(np.float32)


def polygon(height: int, width: int, points: np.ndarray) -> np.ndarray:
    """A mask of one polygon, or of several: points are (x, y)."""
    mask = np.zeros((height, width), np.uint8)
    shapes = points if isinstance(points, list) else [points]
    cv2.fillPoly(mask, [np.round(np.asarray(p) * 16).astype(np.int32) for p in shapes], 255, cv2.LINE_AA, shift=4)
    return mask.astype(np.float32) / 255


def distance(height: int, width: int, x: float, y: float) -> np.ndarray:
    """Every pixel's distance to a point."""
    return np.hypot(np.arange(width)[None] - x, np.arange(height)[:, None] - y).astype(np.float32)


def disc(height: int, width: int, x: float, y: float, radius: float, soft: float = 1.0) -> np.ndarray:
    """A mask of a disc with an edge `soft` pixels wide."""
    return np.clip((radius - distance(height, width, x, y)) / soft + 0.5, 0, 1)


def glow(picture: np.ndarray, x: float, y: float, radius: float, colour: np.ndarray, strength: float = 1.0) -> None:
    """Light around a point."""
    height, width = picture.shape[:2]
    shine = np.exp(-((distance(height, width, x, y) / radius) ** 1.3)) * strength
    picture += colour * shine[..., None] * (1.05 - np.clip(picture, 0, 1))


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Out of focus."""
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def one_of(rng: Random, *choices: Any) -> Any:
    """One of the choices, each as likely as the others."""
    return choices[rng.randint(len(choices))]


def third(rng: Random) -> float:
    """The left (upper) or the right (lower) third."""
    return one_of(rng, 1 / 3, 2 / 3)


def sky_colours(name: str) -> list[np.ndarray]:
    """A sky's colours at the zenith, in the middle and at the horizon."""
    return [rgb(code) for code in SKIES[name]]


def sky_of(rng: Random, height: int, width: int, name: str, clouds: float = 0.6) -> np.ndarray:
    """A sky with clouds lit from the horizon's side."""
    zenith, middle, horizon = sky_colours(name)
    sky = gradient(height, width, [zenith, middle, horizon])
    shape = noise(rng, height, width, rng.uniform(1.5, 3.5), 5, stretch=rng.uniform(2, 4))
    cover(sky, mix(horizon, rgb("ffffff"), 0.45), np.clip((shape - 0.5) * 2.6, 0, 1) * clouds)
    return sky


def water_under(rng: Random, picture: np.ndarray, row: int, tint: np.ndarray) -> None:
    """Fill the rows below `row` with the mirrored upper part, with more ripples towards the viewer."""
    height, width = picture.shape[:2]
    depth = height - row
    y, x = np.mgrid[:depth, :width].astype(np.float32)
    near = y / depth
    wave = noise(rng, depth, width, 7, 4, stretch=9) - 0.5
    source = row - 1 - y * (0.75 * row / depth if depth > row else 0.75) + wave * (4 + 26 * near)
    mirror = cv2.remap(picture, x + wave * 14 * near, np.clip(source, 0, row - 1), cv2.INTER_LINEAR)
    picture[row:] = mix(mirror, tint, 0.22) * (0.93 - 0.3 * near[..., None])


def conifers(rng: Random, height: int, width: int, base: np.ndarray, count: int, size: float) -> np.ndarray:
    """A mask of spruces that stand on a line."""
    shapes = []
    for _ in range(count):
        x = rng.uniform(0, width - 1)
        foot, tall = base[int(x)] + 3, size * rng.uniform(0.55, 1.3)
        wide = tall * rng.uniform(0.16, 0.24)
        tiers = 6
        for side in (-1, 1):
            outline = [(x, foot - tall)]
            for tier in range(1, tiers + 1):
                y = foot - tall + tall * tier / tiers
                outline.append((x + side * wide * tier / tiers * rng.uniform(0.8, 1.15), y))
                outline.append((x + side * wide * tier / tiers * 0.55, y - tall * 0.02))
            shapes.append(np.array([*outline, (x, foot)]))
    return np.clip(sum(polygon(height, width, shape) for shape in shapes), 0, 1)


def tree(rng: Random, height: int, width: int, x: float, foot: float, tall: float) -> np.ndarray:
    """A mask of a broad tree: branches that fork, and leaves in clumps at their ends."""
    mask = np.zeros((height, width), np.uint8)
    ends = []

    def grow(x0: float, y0: float, angle: float, length: float, thick: float) -> None:
        x1, y1 = x0 + np.cos(angle) * length, y0 - np.sin(angle) * length
        points = tuple(int(round(v * 16)) for v in (x0, y0, x1, y1))
        cv2.line(mask, points[:2], points[2:], 255, max(1, int(round(thick))), cv2.LINE_AA, 4)
        if length < tall * 0.07:
            ends.append((x1, y1))
            return
        for turn in (-1, 1, 0)[: 2 + (rng.rand() < 0.4)]:
            grow(x1, y1, angle + turn * rng.uniform(0.25, 0.6), length * rng.uniform(0.62, 0.8), thick * 0.66)

    grow(x, foot, np.pi / 2 + rng.uniform(-0.1, 0.1), tall * 0.3, tall * 0.05)
    for x1, y1 in ends:
        for _ in range(5):
            centre = (int((x1 + rng.randn() * tall * 0.03) * 16), int((y1 + rng.randn() * tall * 0.03) * 16))
            cv2.circle(mask, centre, int(tall * rng.uniform(0.008, 0.028) * 16), 255, -1, cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


def bokeh(rng: Random, height: int, width: int, colours: list[np.ndarray], discs: int) -> np.ndarray:
    """A background far out of focus, with discs of light."""
    picture = gradient(height, width, [colours[0] * 0.8, colours[1], colours[0] * 0.6])
    cover(picture, colours[2], noise(rng, height, width, 2.5, 3) * 0.7)
    picture = blurred(picture, width / 25)
    for _ in range(discs):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), width * rng.uniform(0.012, 0.05)
        colour = mix(colours[rng.randint(len(colours))], rgb("fff3d0"), rng.uniform(0.3, 0.9))
        ring = disc(height, width, x, y, radius, 3) * (0.75 + 0.25 * distance(height, width, x, y) / radius)
        cover(picture, colour, np.clip(ring, 0, 1) * rng.uniform(0.15, 0.55))
    return picture


# -- scenes --------------------------------------------------------------------------------------------------------


@kind
def mountains(rng: Random, height: int, width: int) -> np.ndarray:
    """Ranges that fade into the distance, over a lake or a wooded valley."""
    name = one_of(rng, "noon", "morning", "sunset", "dusk", "teal")
    zenith, middle, haze = sky_colours(name)
    horizon = int(height * rng.uniform(0.6, 0.68))
    picture = sky_of(rng, height, width, name, rng.uniform(0.3, 0.8))
    dark = mix(zenith, rgb(one_of(rng, "26402f", "2b2b3b", "1e3440")), 0.65)
    if rng.rand() < 0.8:
        x, y = width * third(rng), horizon * rng.uniform(0.3, 0.6)
        glow(picture, x, y, width * 0.2, mix(haze, rgb("fff1c4"), 0.6), 0.8)
        cover(picture, rgb("fffbe8"), disc(height, width, x, y, width * rng.uniform(0.02, 0.035), 2))
    ranges, peak = rng.randint(3, 6), width * rng.uniform(0.25, 0.75)
    for depth in range(ranges):
        near = (depth + 1) / ranges
        line = ridge(rng, width, 2 + 2 * near, 6, 0.45 + 0.08 * rng.rand())
        if depth == 0:  # one great peak
            line = 0.5 * line + np.exp(-(((np.arange(width) - peak) / (width * 0.22)) ** 2))
        top = horizon - height * (0.36 * (1 - near) + 0.07) * line - height * 0.015 * (ranges - depth)
        mask = below(top, height)
        colour = mix(haze, dark, 0.25 + 0.7 * near)
        rock = noise(rng, height, width, 14, 4, 0.6)
        cover(picture, colour * (0.85 + 0.3 * rock[..., None]), mask)
        if depth == 0 and name != "teal":  # snow, thinner further down
            high = np.clip(1.1 - (np.arange(height)[:, None] - top[None]) / (height * 0.13) - 0.9 * rock, 0, 1)
            cover(picture, mix(rgb("ffffff"), haze, 0.25), mask * high.astype(np.float32))
        mist = np.exp(-(((np.arange(height) - horizon) / (height * 0.05)) ** 2)).astype(np.float32)
        cover(picture, haze, np.repeat(mist[:, None], width, 1) * 0.3 * mask)
    if rng.rand() < 0.65:
        water_under(rng, picture, horizon, dark)
    else:
        meadow = mix(dark, rgb(one_of(rng, "6d8f3a", "8a7f3c", "3f6b4a")), 0.6)
        ground = noise(rng, height, width, 30, 4, 3)[..., None]
        cover(picture, meadow * (0.6 + 0.8 * ground), below(horizon + 6 * ridge(rng, width, 3), height))
    shore = height * rng.uniform(0.86, 0.95) + height * 0.06 * ridge(rng, width, 3)
    cover(picture, dark * 0.25, below(shore, height))
    cover(picture, dark * 0.22, conifers(rng, height, width, shore, rng.randint(5, 16), height * 0.2))
    return picture


@kind
def sea(rng: Random, height: int, width: int) -> np.ndarray:
    """A low sun over the sea, its path on the water, a sailing boat."""
    name = one_of(rng, "morning", "sunset", "ember", "dusk", "teal")
    zenith, middle, haze = sky_colours(name)
    horizon = int(height * rng.uniform(0.57, 0.67))
    x, radius = width * third(rng), width * rng.uniform(0.028, 0.05)
    picture = sky_of(rng, height, width, name, rng.uniform(0.3, 0.9))
    picture[:horizon] = cv2.resize(picture, (width, horizon))
    light = mix(haze, rgb("fff0b8"), 0.6)
    y = horizon - height * rng.uniform(0.03, 0.16)
    glow(picture, x, y, width * 0.26, light, 0.9)
    cover(picture, rgb("fffae0"), disc(height, width, x, y, radius, 2))
    if rng.rand() < 0.6:  # a headland
        side = np.linspace(1, 0, width) ** 2 if x > width / 2 else np.linspace(0, 1, width) ** 2
        land = below(horizon - height * 0.16 * side * (0.5 + ridge(rng, width, 3)), height)
        cover(picture, mix(zenith, middle, 0.25) * 0.6, land)
    water_under(rng, picture, horizon, mix(zenith, middle, 0.4))
    depth = height - horizon
    near = np.linspace(0, 1, depth)[:, None]
    path = np.exp(-(((np.arange(width)[None] - x) / (width * (0.03 + 0.13 * near))) ** 2))
    sparkle = np.clip(noise(rng, depth, width, 26, 3, 5) * 2.4 - 1.1, 0, 1)
    cover(picture[horizon:], light, (path * sparkle * 0.95).astype(np.float32))
    bx, by, tall = width * (1 - x / width) + width * rng.uniform(-0.08, 0.08), horizon + depth * 0.12, height * 0.15
    hull = np.array([(-0.45, 0), (0.5, 0), (0.34, 0.16), (-0.34, 0.16)])
    sails = [
        np.array([(0.03, -0.06), (0.03, -1), (0.45, -0.06)]),
        np.array([(-0.03, -0.06), (-0.03, -0.85), (-0.34, -0.06)]),
    ]
    dark = zenith * 0.35
    for shape in (hull, *sails):
        cover(picture, dark, polygon(height, width, shape * tall * 0.8 + (bx, by)) * 0.95)
    cover(
        picture, dark, polygon(height, width, np.array([(-0.3, 0.2), (0.3, 0.2), (0.04, 0.8)]) * tall + (bx, by)) * 0.35
    )
    return picture


@kind
def night(rng: Random, height: int, width: int) -> np.ndarray:
    """Stars and the moon over a lone tree on a hill."""
    tint = rgb(one_of(rng, "27406b", "3a2f6b", "1f5560", "6b4a4a"))
    picture = gradient(height, width, [*(rgb(code) for code in SKIES["night"][:2]), tint], rng.uniform(0.8, 1.5))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, offset = rng.uniform(-0.9, 0.9), rng.uniform(0.3, 0.7)
    band = np.exp(
        -((((x - width * offset) * np.cos(angle) + (y - height * 0.4) * np.sin(angle)) / (width * 0.13)) ** 2)
    )
    cover(picture, rgb(one_of(rng, "7f8fd0", "b58ec9", "6fb3c9")), band * noise(rng, height, width, 6, 5) ** 2 * 0.75)
    stars = np.zeros((height, width), np.float32)
    for size, count in ((0.5, 420), (0.8, 90), (1.3, 14)):
        for sx, sy in rng.rand(count, 2) * (width, height):
            cv2.circle(stars, (int(sx * 8), int(sy * 8)), int(size * 8), float(rng.uniform(0.4, 1)), -1, cv2.LINE_AA, 3)
    cover(picture, rgb("fff8ec"), np.clip(stars + 0.7 * blurred(stars, 1.6), 0, 1))
    mx, my, radius = width * third(rng), height * rng.uniform(0.2, 0.34), width * rng.uniform(0.035, 0.06)
    glow(picture, mx, my, width * 0.14, rgb("aebfe8"), 0.75)
    craters = mix(rgb("fdf6e0"), rgb("cfc8b8"), 0.8) * (0.85 + 0.25 * noise(rng, height, width, 34, 3)[..., None])
    cover(picture, craters, disc(height, width, mx, my, radius, 1.5))
    far = height * 0.74 - height * 0.1 * ridge(rng, width, 3)
    cover(picture, tint * 0.42, below(far, height))
    hill = height * 0.86 - height * 0.1 * np.exp(-(((np.arange(width) - (width - mx)) / (width * 0.3)) ** 2))
    cover(picture, rgb("04060d"), below(hill, height))
    tx = width - mx
    cover(picture, rgb("04060d"), tree(rng, height, width, tx, hill[int(tx)] + 2, height * rng.uniform(0.38, 0.5)))
    return picture


@kind
def flower(rng: Random, height: int, width: int) -> np.ndarray:
    """A flower close by, everything behind it out of focus."""
    backs = [
        ("1f4d2b", "5c9a3c", "d7d96b"),
        ("20354a", "4f7f8f", "d9c58a"),
        ("3c2a3f", "8a5a78", "e7b6a0"),
        ("274029", "7a8f3a", "f0d890"),
    ]
    picture = bokeh(rng, height, width, [rgb(code) for code in backs[rng.randint(len(backs))]], rng.randint(14, 34))
    petal = rgb(one_of(rng, "e8386d", "f26f2e", "f7d038", "f3eef5", "8a4fd0", "d8345f", "4f7be0"))
    x, y, radius = width * third(rng), height * rng.uniform(0.34, 0.46), min(height, width) * rng.uniform(0.2, 0.27)
    bend = rng.uniform(-0.2, 0.2) * width
    along = np.linspace(0, 1, 40)[:, None]
    stem = np.concatenate([x + bend * along**2, y + (height - y + 9) * along], 1)
    points = np.round(stem * 16).astype(np.int32)
    line = np.zeros((height, width), np.uint8)
    cv2.polylines(line, [points], False, 255, max(3, int(radius * 0.09)), cv2.LINE_AA, 4)
    cover(picture, rgb("3f7a35"), line.astype(np.float32) / 255)
    veins = 0.7 + 0.5 * noise(rng, height, width, 20, 2)[..., None]
    for side in (-1, 1):
        root, reach = stem[rng.randint(14, 26)], radius * rng.uniform(0.9, 1.4)
        leaf = [
            (root[0] + side * reach * t, root[1] - reach * (0.5 * t + s * 0.3 * np.sin(np.pi * t)))
            for s in (1, -0.2)
            for t in (np.linspace(0, 1, 12) if s == 1 else np.linspace(1, 0, 12))
        ]
        mask = polygon(height, width, np.array(leaf))
        cover(picture, rgb("4c8f3d") * veins, mask)
    count, turn = rng.randint(6, 15), rng.uniform(0, 6.28)
    away = distance(height, width, x, y) / radius
    for layer, (reach, light) in enumerate(((1.0, 0.72), (0.78, 0.95))):
        for index in rng.permutation(count):
            angle = turn + (index + 0.5 * layer) * 2 * np.pi / count
            t = np.linspace(0, np.pi, 16)
            length, half = radius * reach * rng.uniform(0.92, 1.05), radius * reach * 2.6 / count
            local = np.stack([length * (1 - np.cos(t)) / 2, half * np.sin(t) ** 0.8], 1)
            local = np.concatenate([local, local[::-1] * (1, -1)])
            rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            mask = polygon(height, width, local @ rotation + (x, y))
            shade = light * (0.66 + 0.4 * np.clip(away / reach, 0, 1)) * rng.uniform(0.9, 1.08)
            edge = blurred(mask, 2.5)  # petals lie in each other's shadow
            cover(picture, picture * 0.72, np.clip(edge - mask, 0, 1))
            cover(picture, mix(petal, rgb("ffffff"), 0.12 * layer) * shade[..., None], mask)
    core = noise(rng, height, width, 90, 2)[..., None]
    cover(
        picture,
        rgb(one_of(rng, "f4c430", "7a4a1e", "f5e27a")) * (0.55 + 0.7 * core),
        disc(height, width, x, y, radius * 0.24, 2),
    )
    return picture


@kind
def forest(rng: Random, height: int, width: int) -> np.ndarray:
    """Trunks in the mist, light falling between them."""
    light = rgb(one_of(rng, "f6e7b8", "e6f0d8", "f3c98a", "cfe3ea"))
    green = rgb(one_of(rng, "3d6b3a", "5c6b2f", "2f5a4f", "7a4b26"))
    picture = gradient(height, width, [mix(green, light, 0.55), light, mix(green, light, 0.25)])
    lx, ly = width * third(rng), height * 0.22
    glow(picture, lx, ly, width * 0.3, light, 0.8)
    for depth in np.linspace(0, 1, 7):
        colour = mix(mix(green, light, 0.7), mix(green, rgb("15120d"), 0.8), depth)
        ground = height * (0.66 + 0.2 * depth) + height * 0.03 * ridge(rng, width, 4)
        leaves = noise(rng, height, width, 16 + 10 * (1 - depth), 4)
        crown = np.clip((leaves - 0.52 - 0.75 * np.linspace(0, 1, height)[:, None] ** 0.7 + 0.25) * 6, 0, 1)
        cover(picture, mix(colour, green * 1.2, 0.5), crown.astype(np.float32) * (0.25 + 0.5 * depth))
        bark = 0.75 + 0.5 * noise(rng, height, width, 60, 2, 0.2)[..., None]
        for _ in range(int(9 - 5 * depth)):
            x, wide = rng.uniform(-0.02, 1.02) * width, width * (0.006 + 0.034 * depth**1.5) * rng.uniform(0.7, 1.3)
            if depth > 0.7 and abs(x - lx) < width * 0.14:
                continue  # keep the light's way free
            lean, foot = rng.uniform(-0.03, 0.03) * width, ground[int(np.clip(x, 0, width - 1))] + 5
            trunk = polygon(
                height,
                width,
                np.array(
                    [(x - wide * 0.7 + lean, -2), (x + wide * 0.7 + lean, -2), (x + wide, foot), (x - wide, foot)]
                ),
            )
            cover(picture, colour * bark, trunk)
        floor = mix(colour, green, 0.6) * (0.6 + 0.7 * noise(rng, height, width, 40, 4, 3)[..., None])
        cover(picture, floor, below(ground, height) * 0.85)
    rays = np.zeros((height, width), np.float32)
    for _ in range(7):
        angle, spread = rng.uniform(0.2, 2.9), rng.uniform(0.02, 0.07)
        ends = [(lx + 2 * width * np.cos(a), ly + 2 * width * np.sin(a)) for a in (angle - spread, angle + spread)]
        rays += polygon(height, width, np.array([(lx, ly), *ends])) * 0.22
    fade = np.exp(-distance(height, width, lx, ly) / (width * 0.45))
    cover(picture, mix(light, rgb("ffffff"), 0.3), np.clip(blurred(rays, 5) * fade, 0, 0.6))
    return picture


@kind
def city(rng: Random, height: int, width: int) -> np.ndarray:
    """A skyline with lit windows, mirrored in a river."""
    name = one_of(rng, "dusk", "night", "sunset", "teal")
    zenith, middle, haze = sky_colours(name)
    horizon = int(height * rng.uniform(0.6, 0.68))
    picture = sky_of(rng, height, width, name, 0.5)
    glow(picture, width * third(rng), horizon, width * 0.4, haze, 0.6)
    landmark = width * third(rng)
    for depth in range(3):
        colour = mix(haze, zenith * 0.5, 0.45 + 0.27 * depth)
        x = -rng.uniform(0, 20)
        while x < width:
            wide = width * rng.uniform(0.035, 0.08)
            tall = (
                height
                * rng.uniform(0.08, 0.26 - 0.05 * depth)
                * (1 + 0.8 * np.exp(-(((x - landmark) / (width * 0.18)) ** 2)))
            )
            left, right, top = int(x), int(x + wide), int(horizon - tall)
            picture[top:horizon, max(left, 0) : max(right, 0)] = colour * rng.uniform(0.8, 1.1)
            if depth:
                lit = rng.rand() * 0.6
                for row in range(top + 4, horizon - 3, 6):
                    for column in range(max(left, 0) + 3, min(right, width) - 3, 5):
                        if rng.rand() < lit:
                            picture[row : row + 3, column : column + 2] = mix(
                                rgb("ffd98a"), rgb("fff6dc"), rng.rand()
                            ) * rng.uniform(0.7, 1)
            x += wide + rng.uniform(-2, 5)
    tip = horizon - height * rng.uniform(0.44, 0.52)
    tower = np.array(
        [
            (landmark - 11, horizon),
            (landmark - 6, tip + 40),
            (landmark - 1.2, tip),
            (landmark + 1.2, tip),
            (landmark + 6, tip + 40),
            (landmark + 11, horizon),
        ]
    )
    cover(picture, zenith * 0.5, polygon(height, width, tower))
    for row in range(int(tip) + 44, horizon - 3, 6):
        picture[row : row + 3, int(landmark) - 4 : int(landmark) + 5 : 4] = rgb("ffe2a0")
    glow(picture, landmark, tip, width * 0.03, rgb("ff6a50"), 0.9)
    picture = picture + 0.5 * blurred(np.clip(picture - 0.75, 0, 1), 4)
    water_under(rng, picture, horizon, zenith * 0.6)
    river = picture[horizon:]
    picture[horizon:] = mix(cv2.GaussianBlur(river, (0, 0), 1, sigmaY=height / 40), middle, 0.25)
    picture[horizon - 2 : horizon + 3] *= 0.35  # the quay
    return picture


@kind
def dunes(rng: Random, height: int, width: int) -> np.ndarray:
    """Sand dunes with a sharp line between light and shade, and a walker on the crest."""
    name = one_of(rng, "noon", "morning", "sunset", "ember")
    zenith, middle, haze = sky_colours(name)
    picture = sky_of(rng, height, width, name, 0.25)
    sand = mix(rgb(one_of(rng, "e2a55b", "d98c4a", "e8c48a", "c9784a")), haze, 0.2)
    horizon = height * rng.uniform(0.32, 0.4)
    sx = width * third(rng)
    glow(picture, sx, horizon * 0.6, width * 0.22, rgb("fff2cf"), 0.7)
    ripples = noise(rng, height, width, 5, 2)
    y = np.arange(height)[:, None]
    count = rng.randint(3, 6)
    for depth in range(count):
        near = depth / (count - 1)
        swing = np.interp(np.linspace(0, 5, width), range(6), rng.rand(6))
        swing = cv2.GaussianBlur(swing[None].astype(np.float32), (0, 0), width / 14)[0]
        crest = horizon + height * 0.5 * near - height * (0.06 + 0.22 * near) * (swing - 0.5)
        mask = below(crest, height)
        slope = np.gradient(crest) * (1 if sx < width / 2 else -1)
        shade = cv2.GaussianBlur((slope > 0).astype(np.float32)[None], (0, 0), 3)
        down = (y - crest[None]) / (height * 0.3)
        lean = np.arange(width)[None] + (1 if sx < width / 2 else -1) * down * height * (
            0.35 + 0.3 * near
        )  # slip faces
        shade = cv2.remap(
            np.repeat(shade, 3, 0),
            lean.astype(np.float32),
            np.ones_like(lean, np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        wavy = 0.04 * np.sin(y * 0.9 + 30 * ripples + np.arange(width)[None] * 0.08) * near
        tone = (1.06 - 0.16 * down + wavy - 0.45 * shade * np.clip(1.3 - down, 0, 1))[..., None]
        cover(picture, mix(haze, sand, 0.45 + 0.55 * near) * tone.astype(np.float32), mask)
        if depth == count // 2:
            walker = (width - sx, crest[int(width - sx)])
    x, foot = walker
    tall = height * 0.07
    body = np.array(
        [
            (-0.1, 0),
            (-0.13, -0.5),
            (-0.1, -0.78),
            (0.1, -0.78),
            (0.13, -0.5),
            (0.1, 0),
            (0.02, 0),
            (0, -0.4),
            (-0.02, 0),
        ]
    )
    cover(picture, rgb("20150f"), polygon(height, width, body * tall + (x, foot + 2)))
    cover(picture, rgb("20150f"), disc(height, width, x, foot - 0.88 * tall, tall * 0.1))
    return picture


@kind
def balloons(rng: Random, height: int, width: int) -> np.ndarray:
    """Hot-air balloons over hills."""
    name = one_of(rng, "noon", "morning", "sunset", "teal")
    zenith, middle, haze = sky_colours(name)
    picture = sky_of(rng, height, width, name, 0.7)
    green = rgb(one_of(rng, "5f8a3f", "8c8a45", "4b7a5a", "9a7a4a"))
    for depth in range(4):
        near = (depth + 1) / 4
        line = height * (0.7 + 0.075 * depth) - height * 0.09 * ridge(rng, width, 2 + depth, 3, 0.35)
        fields = 0.75 + 0.5 * noise(rng, height, width, 9 + 6 * depth, 3, 2.5)[..., None]
        cover(picture, mix(haze, green * (1.05 - 0.35 * near), 0.35 + 0.6 * near) * fields, below(line, height))
    paints = [rgb(code) for code in ("d6323a", "f2b632", "2f6db5", "f4efe2", "3f8f5a", "7a3f8f", "f07f3a")]
    places = [(width * third(rng), height * rng.uniform(0.32, 0.38), height * rng.uniform(0.17, 0.22))]
    for _ in range(rng.randint(0, 4)):
        place = (width * rng.uniform(0.08, 0.92), height * rng.uniform(0.12, 0.6), height * rng.uniform(0.025, 0.06))
        if abs(place[0] - places[0][0]) > 1.5 * places[0][2]:
            places.append(place)
    for x, y, radius in places[::-1]:
        colours = [paints[i] for i in rng.permutation(len(paints))[:3]]
        t = np.linspace(-np.pi / 2, np.pi / 2, 30)
        side = np.cos(t) ** 0.8 * np.where(t > 0.3, 1 - 0.42 * np.clip((t - 0.3) / 1.27, 0, 1), 1)
        down = np.sin(t) * np.where(t > 0, 1.35, 1)
        stripes = 11
        for stripe in range(stripes):
            edges = [np.sin(np.pi * (s / stripes - 0.5)) for s in (stripe, stripe + 1)]
            outline = np.concatenate([np.stack([side * edges[0], down], 1), np.stack([side * edges[1], down], 1)[::-1]])
            light = 0.62 + 0.5 * np.cos((stripe + 0.5) / stripes * np.pi * 0.85 - 0.35)
            mask = polygon(height, width, outline * radius + (x, y))
            cover(picture, np.clip(mix(colours[stripe % 3], haze, 0.35 * (radius < height * 0.1)) * light, 0, 1), mask)
        basket = np.array([(-0.14, 1.62), (0.14, 1.62), (0.11, 1.84), (-0.11, 1.84)]) * radius + (x, y)
        ropes = np.array([(-0.2, 1.3), (-0.14, 1.62), (-0.11, 1.62), (-0.15, 1.3)]) * radius
        cover(picture, rgb("3a2416"), polygon(height, width, basket))
        for flip in (-1, 1):
            cover(picture, rgb("3a2416"), polygon(height, width, ropes * (flip, 1) + (x, y)) * 0.8)
    return picture
