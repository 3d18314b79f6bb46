"""Colours, textures, lines, masks and brushes, with which scenes are painted.

A function that takes a picture for its size alone says `like`."""

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


def unit(values: Any) -> Any:
    """The values, limited to the range from 0 to 1."""
    return np.clip(values, 0, 1)


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


def noise(rng: Random, like: Picture, cells: float, octaves: int = 4, stretch: float = 1.0) -> Mask:
    """Cloudy values from 0 to 1; `cells` blobs across the picture's width, `stretch` times as wide as high."""
    height, width = like.shape[:2]
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        across = cells * 2**octave
        grid = rng.rand(max(2, int(across * stretch * height / width) + 2), max(2, int(across) + 2)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return stretched(total)


def texture(
    rng: Random, like: Picture, low: float, span: float, cells: float, octaves: int = 4, stretch: float = 1.0
) -> np.ndarray:
    """Noise (H x W x 1) from low to low + span, to multiply a colour by."""
    return low + span * noise(rng, like, cells, octaves, stretch)[..., None]


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
    return unit(np.arange(height)[:, None] - line[None] + 0.5).astype(np.float32)


def polygon(like: Picture, points: Any) -> Mask:
    """A mask of a polygon: points are (x, y)."""
    mask = np.zeros(like.shape[:2], np.uint8)
    cv2.fillPoly(mask, [fixed_point(points)], 255, cv2.LINE_AA, shift=4)
    return mask.astype(np.float32) / 255


def fixed_point(points: Any) -> np.ndarray:
    """Coordinates as OpenCV draws them with shift 4: whole 16ths of a pixel."""
    return np.round(np.asarray(points) * 16).astype(np.int32)


def distance(like: Picture, x: float, y: float) -> np.ndarray:
    """Every pixel's distance to a point."""
    height, width = like.shape[:2]
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
    cover(picture, colour, polygon(picture, points) * share)


def disc(picture: Picture, colour: Picture, x: float, y: float, radius: float, soft: float = 1) -> None:
    """Paint a disc with an edge `soft` pixels wide."""
    cover(picture, colour, unit((radius - distance(picture, x, y)) / soft + 0.5))


def glow(picture: Picture, x: float, y: float, radius: float, colour: Picture, strength: float) -> None:
    """Light around a point."""
    shine = np.exp(-((distance(picture, x, y) / radius) ** 1.3)) * strength
    picture += colour * shine[..., None] * (1.05 - unit(picture))


def sky_of(rng: Random, height: int, width: int, colours: list[Picture], clouds: float) -> Picture:
    """A sky with clouds lit from the horizon's side."""
    sky = gradient(height, width, colours)
    clouded = noise(rng, sky, rng.uniform(1.5, 3.5), 5, rng.uniform(2, 4))
    cover(sky, mix(colours[2], rgb("ffffff"), 0.45), unit((clouded - 0.5) * 2.6) * clouds)
    return sky


def water_under(rng: Random, picture: Picture, row: int, tint: Picture) -> None:
    """Fill the rows below `row` with the mirrored upper part, with more ripples towards the viewer."""
    depth, width = picture[row:].shape[:2]
    y, x = np.mgrid[:depth, :width].astype(np.float32)
    near = y / depth
    wave = noise(rng, picture[row:], 7, 4, 9) - 0.5
    source = row - 1 - y * (0.75 * row / depth if depth > row else 0.75) + wave * (4 + 26 * near)
    mirror = cv2.remap(picture, x + wave * 14 * near, np.clip(source, 0, row - 1), cv2.INTER_LINEAR)
    picture[row:] = mix(mirror, tint, 0.22) * (0.93 - 0.3 * near[..., None])


def conifers(rng: Random, like: Picture, base: np.ndarray, count: int, size: float) -> Mask:
    """A mask of spruces that stand on a line."""
    halves = []
    for _ in range(count):
        x = rng.uniform(0, len(base) - 1)
        foot, tall = base[int(x)] + 3, part(rng, size, 0.55, 1.3)
        wide = part(rng, tall, 0.16, 0.24)
        tiers = 6
        for side in (-1, 1):
            outline = [(x, foot - tall)]
            for tier in range(1, tiers + 1):
                y, reach = foot - tall + tall * tier / tiers, side * wide * tier / tiers
                outline += [(x + part(rng, reach, 0.8, 1.15), y), (x + reach * 0.55, y - tall * 0.02)]
            halves.append(polygon(like, [*outline, (x, foot)]))
    return unit(sum(halves))


def tree(rng: Random, like: Picture, x: float, foot: float, tall: float) -> Mask:
    """A mask of a broad tree: branches that fork, and leaves in clumps at their ends."""
    mask = np.zeros(like.shape[:2], np.uint8)
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
    cover(picture, colours[2], noise(rng, picture, 2.5, 3) * 0.7)
    picture = blurred(picture, width / 25)
    for _ in range(discs):
        x, y, radius = part(rng, width, 0, 1), part(rng, height, 0, 1), part(rng, width, 0.012, 0.05)
        colour = mix(one_of(rng, *colours), rgb("fff3d0"), rng.uniform(0.3, 0.9))
        away = distance(picture, x, y)
        ring = unit((radius - away) / 3 + 0.5) * (0.75 + 0.25 * away / radius)
        cover(picture, colour, unit(ring) * rng.uniform(0.15, 0.55))
    return picture
