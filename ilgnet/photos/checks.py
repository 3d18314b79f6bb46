"""What can be measured of a photo without a net: sharpness, exposure, a perceptual hash, near-duplicates.

Everything is measured on the photo as `decode` returns it. None of it changes the net's score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VERSION = 1  # raise it when a figure changes, so that caches forget
SIDE = 1024  # pixels: sharpness is judged on the photo at this size at most
TILE = 48
SHARP = 0.47  # below: blurred, even in the sharpest region
WHITE = 250  # a pixel without detail: all channels at or above it. One alone is a saturated colour, a red flower's
BURNT, CRUSHED = 0.20, 0.40  # a larger share of pixels without detail: over-, under-exposed
BRIGHT, DARK = 0.80, 0.12  # mean brightness: the same, where nothing is clipped
SAME_BITS = 10  # of 64: photos whose hashes differ by no more are near-duplicates
BURST_BITS, BURST_SECONDS = 18, 3.0  # and so are those that were taken so soon after another


@dataclass(frozen=True)
class Checks:
    """sharpness: 0 to 1, of the sharpest region; brightness: mean of Rec. 601 luma, 0 to 1; burnt, crushed: shares of
    pixels at the upper and lower end; phash: 64 bits as 16 hexadecimal digits."""

    sharpness: float
    brightness: float
    burnt: float
    crushed: float
    phash: str

    @property
    def faults(self) -> list[str]:
        """What a photographer would call it."""
        found = ["blurred"] if self.sharpness < SHARP else []
        if self.burnt > BURNT or self.brightness > BRIGHT:
            found.append("over-exposed")
        if self.crushed > CRUSHED or self.brightness < DARK:
            found.append("under-exposed")
        return found


def measure(bgr: np.ndarray) -> Checks:
    """All checks of a photo, (H, W, 3) uint8 BGR."""
    import cv2

    longer = max(bgr.shape[:2])
    if longer > SIDE:
        size = (max(1, round(bgr.shape[1] * SIDE / longer)), max(1, round(bgr.shape[0] * SIDE / longer)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    return Checks(
        round(sharpness(grey), 4),
        round(float(grey.mean()) / 255, 4),
        round(float((bgr.min(axis=2) >= WHITE).mean()), 4),
        round(float((grey <= 5).mean()), 4),
        perceptual_hash(grey),
    )


def sharpness(grey: np.ndarray) -> float:
    """How sharp the sharpest region is, 0 to 1, of (H, W) uint8.

    Crete et al. ("The blur effect", SPIE 2007): blur a picture once more; what was sharp loses much of its variation,
    what was blurred already loses little. Here a tile at a time, and the 99th percentile of the tiles: a photo with a
    sharp subject before a soft background is sharp. Noise varies in every tile alike, so the loss of the quietest
    tiles (up to 4 grey levels) is subtracted everywhere. Tiles without structure (below 1 grey level a pixel) count as
    soft.
    """
    import cv2

    grey = grey.astype(np.float32)
    tile = max(1, min(TILE, grey.shape[0] - 1, grey.shape[1] - 1))
    shares = []
    for axis, box in ((0, (1, 9)), (1, (9, 1))):
        varies = np.abs(np.diff(grey, axis=axis))
        lost = np.maximum(varies - np.abs(np.diff(cv2.blur(grey, box), axis=axis)), 0)
        varies, lost = _tiles(varies, tile), _tiles(lost, tile)
        if not lost.size:
            return 0.0
        noise = min(float(np.percentile(lost, 5)), 4.0)
        shares.append((lost - noise) / np.maximum(varies, 1.0))
    rows, columns = (min(share.shape[axis] for share in shares) for axis in (0, 1))
    # The worse direction counts: a shaken photo is sharp across the shake.
    worse = np.minimum(shares[0][:rows, :columns], shares[1][:rows, :columns])
    return float(np.clip(np.percentile(worse, 99), 0, 1))


def _tiles(array: np.ndarray, side: int) -> np.ndarray:
    """Means of whole tiles."""
    rows, columns = array.shape[0] // side, array.shape[1] // side
    return array[: rows * side, : columns * side].reshape(rows, side, columns, side).mean(axis=(1, 3))


def perceptual_hash(grey: np.ndarray) -> str:
    """64 bits that survive resizing, compression and small changes: the signs, about their median, of the 8 x 8 lowest
    frequencies of the photo at 32 x 32 (pHash: C. Zauner, 2010)."""
    import cv2

    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].reshape(-1)
    return np.packbits(low > np.median(low)).tobytes().hex()


def signs_of(hashes: Sequence[str]) -> np.ndarray:
    """(n, 64) float32 of -1 and 1: a dot product is then the equal bits less the differing ones."""
    data = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), 8)
    return np.unpackbits(data, axis=1).astype(np.float32) * 2 - 1


def group(hashes: Sequence[str], taken: Sequence[float | None], order: Sequence[int]) -> list[int]:
    """Near-duplicates and bursts: for each photo the index of its group's best one (itself, where it stands alone).

    order: all indices, best first. A photo joins the best photo before it that it resembles, so every member resembles
    its group's best: chains of small differences do not join photos that have nothing in common. Only a burst may be
    chained, along its time: each shot follows another within BURST_SECONDS and looks somewhat like the best.
    """
    best = list(range(len(hashes)))
    runs, signs = np.array(_runs(taken), dtype=np.int64), signs_of(hashes)
    ranked = np.array(order, dtype=np.int64)
    leaders = ranked[:0]
    for start in range(0, len(ranked), 512):
        block = ranked[start : start + 512]
        names = np.concatenate((leaders, block))  # whom a photo of this block could join
        dots = signs[block] @ signs[names].T
        near = dots >= 64 - 2 * SAME_BITS
        if (runs[block] >= 0).any():
            burst = (runs[block, None] == runs[None, names]) & (runs[block, None] >= 0)
            near |= burst & (dots >= 64 - 2 * BURST_BITS)
        for row, i in enumerate(block):
            for k in np.flatnonzero(near[row, : len(leaders) + row]):
                j = int(names[k])
                if best[j] == j:
                    best[int(i)] = j
                    break
        leaders = np.concatenate((leaders, [i for i in block if best[i] == i])).astype(np.int64)
    return best


def _runs(taken: Sequence[float | None]) -> list[int]:
    """A number for each run of photos that follow one another within BURST_SECONDS; -1: no time known."""
    runs, number, last = [-1] * len(taken), 0, -math.inf
    for time, i in sorted((time, i) for i, time in enumerate(taken) if time is not None):
        number += time - last > BURST_SECONDS
        runs[i], last = number, time
    return runs
