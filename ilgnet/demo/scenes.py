"""Painted scenes for the demo set: eight kinds, different for every seed, with the subject or horizon on a third of
the frame."""

import cv2
import numpy as np

from ilgnet.demo.brushes import (
    SKIES,
    Picture,
    Random,
    bell,
    below,
    blurred,
    bokeh,
    colour_of,
    conifers,
    cover,
    disc,
    distance,
    fixed_point,
    glow,
    gradient,
    land,
    mix,
    noise,
    one_of,
    palette,
    part,
    polygon,
    rgb,
    ridge,
    shape,
    sky_of,
    texture,
    third,
    tree,
    unit,
    water_under,
)


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
        rock = noise(rng, picture, 14, 4, 0.6)[..., None]
        cover(picture, colour * (0.85 + 0.3 * rock), mask)
        if depth == 0 and name != "teal":  # snow, thinner further down
            high = unit(1.1 - (rows - top) / (height * 0.13) - 0.9 * rock[..., 0])
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
    cover(picture, dark * 0.22, conifers(rng, picture, shore, rng.randint(5, 16), height * 0.2))
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
    sparkle = unit(noise(rng, picture[horizon:], 26, 3, 5) * 2.4 - 1.1)
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
    cover(picture, colour_of(rng, "7f8fd0 b58ec9 6fb3c9"), band * noise(rng, picture, 6, 5) ** 2 * 0.75)
    stars = np.zeros((height, width), np.float32)
    for size, count in ((0.5, 420), (0.8, 90), (1.3, 14)):
        for sx, sy in rng.rand(count, 2) * (width, height):
            cv2.circle(stars, (int(sx * 8), int(sy * 8)), int(size * 8), float(rng.uniform(0.4, 1)), -1, cv2.LINE_AA, 3)
    cover(picture, rgb("fff8ec"), unit(stars + 0.7 * blurred(stars, 1.6)))
    mx, my, radius = third(rng, width), part(rng, height, 0.2, 0.34), part(rng, width, 0.035, 0.06)
    glow(picture, mx, my, width * 0.14, rgb("aebfe8"), 0.75)
    craters = mix(rgb("fdf6e0"), rgb("cfc8b8"), 0.8) * texture(rng, picture, 0.85, 0.25, 34, 3)
    disc(picture, craters, mx, my, radius, 1.5)
    far = height * 0.74 - height * 0.1 * ridge(rng, width, 3)
    land(picture, tint * 0.42, far)
    tx = width - mx
    hill = height * 0.86 - height * 0.1 * bell(np.arange(width) - tx, width * 0.3)
    land(picture, rgb("04060d"), hill)
    cover(picture, rgb("04060d"), tree(rng, picture, tx, hill[int(tx)] + 2, part(rng, height, 0.38, 0.5)))
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
    away = distance(picture, x, y) / radius
    for layer, (reach, light) in enumerate(((1.0, 0.72), (0.78, 0.95))):
        for index in rng.permutation(count):
            angle = turn + (index + 0.5 * layer) * 2 * np.pi / count
            t = np.linspace(0, np.pi, 16)
            length, half = part(rng, radius * reach, 0.92, 1.05), radius * reach * 2.6 / count
            local = np.stack([length * (1 - np.cos(t)) / 2, half * np.sin(t) ** 0.8], 1)
            local = np.concatenate([local, local[::-1] * (1, -1)])
            rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            mask = polygon(picture, local @ rotation + (x, y))
            shade = part(rng, light * (0.66 + 0.4 * unit(away / reach)), 0.9, 1.08)
            edge = blurred(mask, 2.5)  # petals lie in each other's shadow
            cover(picture, picture * 0.72, unit(edge - mask))
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
        leaves = noise(rng, picture, 16 + 10 * (1 - depth), 4)
        crown = unit((leaves - 0.52 - 0.75 * np.linspace(0, 1, height)[:, None] ** 0.7 + 0.25) * 6)
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
        rays += polygon(picture, [(lx, ly), *ends]) * 0.22
    fade = np.exp(-distance(picture, lx, ly) / (width * 0.45))
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
    picture = picture + 0.5 * blurred(unit(picture - 0.75), 4)
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
    ripples = noise(rng, picture, 5, 2)
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
        tone = (1.06 - 0.16 * down + wavy - 0.45 * shade * unit(1.3 - down))[..., None]
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
        side = np.cos(t) ** 0.8 * np.where(t > 0.3, 1 - 0.42 * unit((t - 0.3) / 1.27), 1)
        down = np.sin(t) * np.where(t > 0, 1.35, 1)
        stripes = 11
        for stripe in range(stripes):
            near, far = (side * np.sin(np.pi * (s / stripes - 0.5)) for s in (stripe, stripe + 1))
            outline = np.stack([np.concatenate([near, far[::-1]]), np.concatenate([down, down[::-1]])], 1)
            light = 0.62 + 0.5 * np.cos((stripe + 0.5) / stripes * np.pi * 0.85 - 0.35)
            colour = mix(colours[stripe % 3], haze, 0.35 * (radius < height * 0.1)) * light
            shape(picture, unit(colour), outline * radius + (x, y))
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
    return name, unit(KINDS[name](rng, height, width)).astype(np.float32)
