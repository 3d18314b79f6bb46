"""Caffe's random streams, bit for bit: boost::mt19937 and the boost 1.74 distributions as BVLC Caffe 1.0.0 uses them.

Every method draws exactly the 32-bit numbers ("raws") that Caffe draws, so that the stream is always at Caffe's
position. NumPy's MT19937 makes the raws; their use is vectorised here, in chunks that fit a cache. Arithmetic is
float32, in Caffe's order, unless stated otherwise.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from torchcaffe.base.errors import CaffeError

CHUNK = 1 << 17  # raws at a time: limits extra memory, and keeps temporaries in the cache
_F = np.float32
_TO_UNIT = _F(2.0**-32)
_ROUNDS_TO_ONE = (1 << 32) - 128  # raws from here on round to 2^32 in float32: boost's uniform_01 draws again


class Rng:
    """A mt19937 stream, seeded as by Caffe::set_random_seed. Raises CaffeError unless `seed` has 32 unsigned bits."""

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 1 << 32:
            raise CaffeError(f"random seed {seed}: not an unsigned 32-bit number")
        self._mt = np.random.RandomState(int(seed))  # an int seeds by init_genrand, as in boost

    def state(self) -> np.ndarray:
        """The stream's position as uint32[625]: mt19937's 624 words and the index of the next."""
        state = self._mt.get_state(legacy=False)["state"]
        return np.append(state["key"], state["pos"]).astype(np.uint32)

    def set_state(self, state: np.ndarray) -> None:
        """Go to a position that `state()` returned. Raises CaffeError for anything else."""
        state = np.asarray(state)
        if state.shape != (625,) or state.dtype != np.uint32 or state[624] > 624:
            raise CaffeError("random state: not the 625 unsigned numbers of a mt19937 stream")
        self._mt.set_state({"bit_generator": "MT19937", "state": {"key": state[:624], "pos": int(state[624])}})

    def raw(self, n: int) -> np.ndarray:
        """The next `n` raws, uint32."""
        return self._mt.randint(0, 1 << 32, size=n, dtype=np.uint32)

    def rand(self) -> int:
        """One raw (caffe_rng_rand)."""
        return int(self.raw(1)[0])

    def uniform(self, n: int, a: float, b: float, out: np.ndarray | None = None) -> np.ndarray:
        """`n` float32 in [a, b], both ends included (caffe_rng_uniform). One raw each, and one for each rejected value.

        out: a float32 vector of length n to write to. Raises CaffeError unless a <= b, both finite."""
        low, last = _F(a), _F(b)
        # To include b, Caffe passes the next float to boost, whose interval is half-open.
        high = np.nextafter(last, np.finfo(_F).max)
        if not (low <= last and low < high and np.isfinite(low) and np.isfinite(last)):
            raise CaffeError(f"uniform random numbers from min {a} to max {b}: min must not exceed max")
        half, one = _F(0.5), _F(1)
        # boost halves an interval if its width would overflow, and doubles the result.
        factor = _F(2) if high * half - low * half > np.finfo(_F).max * half else one
        if factor != one:
            low, high = low * half, high * half
        width = high - low
        out = _vector(n, out)
        done = 0
        while done < n:
            raw = self.raw(min(n - done, CHUNK))
            values = out[done : done + len(raw)]
            np.multiply(raw, _TO_UNIT, out=values, dtype=_F, casting="same_kind")
            values *= width
            values += low
            if values.max() >= high:  # rounded up to the excluded end: boost draws again
                kept = values[values < high]
                out[done : done + len(kept)] = kept
                values = out[done : done + len(kept)]
            if factor != one:
                values *= factor
            done += len(values)
        return out

    def gaussian(self, n: int, mu: float, sigma: float, out: np.ndarray | None = None) -> np.ndarray:
        """`n` normal float32 (caffe_rng_gaussian: boost 1.74's ziggurat of 128 layers).

        98.8% take one raw: the low 8 bits are sign and layer, the high 24 bits the place in the layer. The rest take
        another one for the layer's wedge, and start again if rejected; or two or more exponentials for the tail.
        out: a float32 vector of length n to write to. Raises CaffeError unless sigma > 0."""
        if not _F(sigma) > 0:
            raise CaffeError(f"gaussian random numbers: std {sigma} must be positive")
        out = _vector(n, out)
        done = 0
        while done < n:
            # Not more raws than missing values: a raw gives at most one value, so none is left over.
            values = self._unit_normals(self.raw(min(n - done, CHUNK)))
            values *= _F(sigma)
            values += _F(mu)
            out[done : done + len(values)] = values
            done += len(values)
        return out

    def bernoulli(self, n: int, p: float, single: bool = False) -> np.ndarray:
        """`n` int32, 1 with probability `p` (caffe_rng_bernoulli). One raw each; none if p is 0.

        Caffe has a version in double precision, for Dropout with p = 1 - float32(dropout_ratio), and one in single
        precision, for the sparse Gaussian filler. Raises CaffeError unless 0 <= p <= 1."""
        if not 0 <= p <= 1:
            raise CaffeError(f"random bits: probability {p} is not between 0 and 1")
        p = float(_F(p)) if single else float(p)
        out = np.zeros(n, np.int32)
        if p == 0:
            return out
        for start in range(0, n, CHUNK):
            raw = self.raw(min(n - start, CHUNK))
            if single:
                out[start : start + CHUNK] = raw.astype(_F) <= _F(p * 2.0**32)
            else:
                out[start : start + CHUNK] = raw <= np.uint32(p * 4294967295.0)
        return out

    def shuffle(self, items: list[Any]) -> None:
        """Shuffle a list in place (caffe::shuffle: from the last item on, swap each with one at or before it)."""
        i = len(items) - 1
        while i > 0:
            last = np.arange(i, max(i - CHUNK, 0), -1, dtype=np.uint32)
            raw = self.raw(len(last))
            # boost's uniform_int: the 2^32 raws in equal buckets; it draws again for a raw beyond the last one.
            size = np.uint32(0xFFFFFFFF) // (last + np.uint32(1))
            size += np.uint32(0xFFFFFFFF) % (last + np.uint32(1)) == last
            first = 0
            while first < len(raw):
                pick = raw[first:] // size[: len(raw) - first]
                beyond = np.flatnonzero(pick > last[: len(pick)])
                used = beyond[0] if len(beyond) else len(pick)
                for j in pick[:used].tolist():
                    items[i], items[j] = items[j], items[i]
                    i -= 1
                first += used + 1
                last, size = last[used:], size[used:]

    def _unit_normals(self, raw: np.ndarray) -> np.ndarray:
        """The normals that start within `raw`, float32. Draws more raws if the last one needs them."""
        z = _normal_layers()
        place = raw >> np.uint32(8)
        bucket = (raw & np.uint32(255)).astype(np.intp)
        values = place.astype(_F)
        values *= z.signed_scale[bucket]
        slow = np.flatnonzero(place >= z.inside[bucket])
        if not len(slow):
            return values
        # Nearly all of these are wedges, which the following raw decides: decide all as if each started a value.
        following = raw[np.minimum(slow + 1, len(raw) - 1)]
        accepted = z.in_wedge(np.abs(values[slow]), bucket[slow] >> 1, following)
        plain = (bucket[slow] > 1) & (slow + 1 < len(raw)) & (following < _ROUNDS_TO_ONE)
        start = 0  # the first raw that no value has used yet
        unused = []  # raws that do not start a value
        for i, is_plain, is_accepted in zip(slow.tolist(), plain.tolist(), accepted.tolist()):
            if i < start:
                continue
            if is_plain:
                start = i + 2
                unused.append(i + 1)
            else:
                reader = _Reader(self, raw, i + 1)
                is_accepted = True
                if bucket[i] > 1:
                    is_accepted = z.in_wedge(np.abs(values[i]), bucket[i] >> 1, reader.unit_raw())
                else:
                    values[i] = np.copysign(_tail(reader), z.signed_scale[bucket[i]])
                start = reader.position
                unused.extend(range(i + 1, min(start, len(raw))))
            if not is_accepted:
                unused.append(i)
        keep = np.ones(len(raw), bool)
        keep[unused] = False
        return values[keep]


class _Reader:
    """Raws one by one: first those at hand, from `position` on, then new ones of the stream."""

    def __init__(self, rng: Rng, raw: np.ndarray, position: int) -> None:
        self.rng, self.at_hand, self.position = rng, raw, position

    def raw(self) -> np.uint32:
        self.position += 1
        return self.at_hand[self.position - 1] if self.position <= len(self.at_hand) else self.rng.raw(1)[0]

    def unit_raw(self) -> np.uint32:
        """A raw that uniform_01 accepts: as float32 below 2^32."""
        while True:
            raw = self.raw()
            if raw < _ROUNDS_TO_ONE:
                return raw


def _vector(n: int, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return np.empty(n, _F)
    if out.shape != (n,) or out.dtype != _F:
        raise ValueError(f"out must be a float32 vector of {n}")
    return out


class _Layers(NamedTuple):
    """Ziggurat layers: right ends x (decreasing), heights y (increasing), and their differences, all float32."""

    x: np.ndarray
    y: np.ndarray
    dx: np.ndarray  # x[i] - x[i+1], computed in double
    dy: np.ndarray
    signed_scale: np.ndarray  # by a raw's low byte: sign * x * 2^-24
    inside: np.ndarray  # by a raw's low byte: the number of places left of the next layer's end, which need no test

    def in_wedge(self, x: np.ndarray, i: np.ndarray, raw: Any) -> np.ndarray:
        """Whether the point at `x` in layer `i` > 0, at the height given by `raw`, lies under the normal curve.

        boost first compares the height with the layer's chord and the tangent at its right end, in float32. The curve
        lies between them: it is convex beyond 1 and concave before. Because of rounding these tests affect results."""
        unit = raw.astype(_F) * _TO_UNIT
        y = self.y[i] + unit * self.dy[i]
        to_end = self.x[i] - x
        above_chord = self.dx[i] * unit - to_end
        above_tangent = y - (self.y[i] + to_end * self.y[i] * self.x[i])
        convex = self.x[i] >= _F(1)
        above_upper = np.where(convex, above_chord, above_tangent)
        above_lower = np.where(convex, above_tangent, above_chord)
        curve = np.exp(-(x * x * _F(0.5)).astype(np.float64)).astype(_F)
        return (above_upper < 0) & ((above_lower < 0) | (y < curve))


# The two rightmost layer ends, the number of layers, the curve and its inverse.
NORMAL = (
    "3.7130862467403632609",
    "3.4426198558966521214",
    128,
    lambda x: (-x * x / 2).exp(),
    lambda y: (-2 * y.ln()).sqrt(),
)
EXPONENTIAL = (
    "8.6971174701310497140",
    "7.6971174701310497140",
    256,
    lambda x: (-x).exp(),
    lambda y: -y.ln(),
)


def _ziggurat(first: str, second: str, count: int, curve: Any, inverse: Any) -> tuple[np.ndarray, np.ndarray]:
    """Layer ends x and heights y, float64[count + 1], of layers of equal areas; computed in decimals, then rounded."""
    with localcontext() as context:
        context.prec = 50
        x = [Decimal(first), Decimal(second)]
        y = [Decimal(0), curve(x[1])]
        area = x[0] * y[1]
        while len(x) < count:
            y.append(y[-1] + area / x[-1])
            x.append(inverse(y[-1]))
        return np.array([float(v) for v in x] + [0.0]), np.array([float(v) for v in y] + [1.0])


@cache
def _normal_layers() -> _Layers:
    ends, heights = _ziggurat(*NORMAL)
    x = ends.astype(_F)
    scale = x[:-1] * _F(2.0**-24)
    # boost tests float32(place * end) < next end in double. Find the number of passing places, of 2^24, among seven
    # near the quotient.
    around = np.floor(ends[1:] / ends[:-1] * 2**24)[:, None] + np.arange(-3, 4)
    inside = around[:, 0] + np.sum(around.astype(_F) * scale[:, None] < ends[1:, None], axis=1)
    inside[-1] = 0
    sign = np.tile(np.array([-1, 1], _F), 128)
    return _Layers(
        x=x,
        y=heights.astype(_F),
        dx=(ends[:-1] - ends[1:]).astype(_F),
        dy=np.diff(heights).astype(_F),
        signed_scale=sign * np.repeat(scale, 2),
        inside=np.repeat(inside, 2).astype(np.uint32),
    )


@cache
def _exponential_layers() -> _Layers:
    ends, heights = _ziggurat(*EXPONENTIAL)
    x = ends.astype(_F)
    return _Layers(
        x=x,
        y=heights.astype(_F),
        dx=(ends[:-1] - ends[1:]).astype(_F),
        dy=np.diff(heights).astype(_F),
        signed_scale=x[:-1] * _F(2.0**-24),
        inside=np.empty(0, _F),
    )


def _tail(reader: _Reader) -> np.float32:
    """A normal beyond the last layer's end, by rejection from a shifted exponential."""
    end = _normal_layers().x[1]
    while True:
        x = _exponential(reader) / end
        y = _exponential(reader)
        if y + y > x * x:
            return x + end


def _exponential(reader: _Reader) -> np.float32:
    """An exponential float32 of rate 1 (boost 1.74's ziggurat of 256 layers); one raw in 98.9% of cases."""
    z = _exponential_layers()
    shift = _F(0)
    while True:
        raw = int(reader.raw())
        i = raw & 255
        x = _F(raw >> 8) * z.signed_scale[i]
        if x < z.x[i + 1]:
            return shift + x
        if i == 0:  # the tail of an exponential is an exponential
            shift += z.x[1]
            continue
        unit = _F(reader.unit_raw()) * _TO_UNIT
        y = z.y[i] + unit * z.dy[i]
        above_chord = z.dx[i] * unit - (z.x[i] - x)
        above_tangent = y - (z.y[i + 1] + (z.x[i + 1] - x) * z.y[i + 1])
        if above_chord < 0 and (above_tangent < 0 or y < _F(np.exp(-np.float64(x)))):
            return shift + x
