"""Caffe's random streams, bit for bit: boost::mt19937 and the boost 1.74 distributions as BVLC Caffe 1.0.0 uses them.

Every method draws exactly the 32-bit numbers ("raws") that Caffe draws, so that the stream is always at Caffe's
position. NumPy's MT19937 makes the raws; their use is vectorised here, in chunks that fit a cache. Arithmetic is
float32, in Caffe's order, unless stated otherwise.
"""

from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

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
        self._state: np.ndarray | None = None  # since the last draw

    def state(self) -> np.ndarray:
        """The stream's position as uint32[625]: mt19937's 624 words and the index of the next."""
        if self._state is None:
            _, words, position, *_ = self._mt.get_state()
            self._state = np.append(words, np.uint32(position))
            self._state.flags.writeable = False
        return self._state

    def set_state(self, state: np.ndarray) -> None:
        """Go to a position that `state()` returned. Raises CaffeError for anything else."""
        state = np.asarray(state)
        if state.shape != (625,) or state.dtype != np.uint32 or state[624] > 624:
            raise CaffeError("random state: not the 625 unsigned numbers of a mt19937 stream")
        self._state = None
        self._mt.set_state(("MT19937", state[:624], int(state[624]), 0, 0.0))

    def raw(self, n: int) -> np.ndarray:
        """The next `n` raws, uint32."""
        self._state = None
        return self._mt.randint(0, 1 << 32, size=n, dtype=np.uint32)

    def rand(self) -> int:
        """One raw (caffe_rng_rand)."""
        return int(self.raw(1)[0])

    def uniform(self, n: int, a: float, b: float, out: np.ndarray | None = None) -> np.ndarray:
        """`n` float32 in [a, b], both ends included (caffe_rng_uniform). One raw each, and one for each rejected value.

        out: a float32 vector of length n to write to. Raises CaffeError unless a <= b, both finite."""
        low, last, largest = _F(a), _F(b), np.finfo(_F).max
        # To include b, Caffe passes the next float to boost, whose interval is half-open.
        high = np.nextafter(last, largest)
        if not (-largest <= low <= last <= largest and low < high):
            raise CaffeError(f"uniform random numbers from min {a} to max {b}: min must not exceed max")
        # boost halves an interval if its width would overflow, and doubles the result.
        factor = _F(2) if high / _F(2) - low / _F(2) > largest / _F(2) else _F(1)
        low, high = low / factor, high / factor
        width = high - low

        def scaled(raw: np.ndarray) -> np.ndarray:
            values = raw.astype(_F)
            values *= _TO_UNIT
            values *= width
            values += low
            if values.max() >= high:  # rounded up to the excluded end: boost draws again
                values = values[values < high]
            values *= factor
            return values

        return self._draw(scaled, np.empty(n, _F) if out is None else out)

    def gaussian(self, n: int, mu: float, sigma: float, out: np.ndarray | None = None) -> np.ndarray:
        """`n` normal float32 (caffe_rng_gaussian: boost 1.74's ziggurat of 128 layers).

        98.8% take one raw: the low 8 bits are sign and layer, the high 24 bits the place in the layer. The rest take
        another one for the layer's wedge, and start again if rejected; or two or more exponentials for the tail.
        out: a float32 vector of length n to write to. Raises CaffeError unless sigma > 0."""
        if not _F(sigma) > 0:
            raise CaffeError(f"gaussian random numbers: std {sigma} must be positive")

        def scaled(raw: np.ndarray) -> np.ndarray:
            values = self._unit_normals(raw)
            values *= _F(sigma)
            values += _F(mu)
            return values

        return self._draw(scaled, np.empty(n, _F) if out is None else out)

    def bernoulli(self, n: int, p: float, single: bool = False) -> np.ndarray:
        """`n` int32, 1 with probability `p` (caffe_rng_bernoulli). One raw each; none if p is 0.

        Caffe has a version in double precision, for Dropout with p = 1 - float32(dropout_ratio), and one in single
        precision, for the sparse Gaussian filler. Raises CaffeError unless 0 <= p <= 1."""
        if not 0 <= p <= 1:
            raise CaffeError(f"random bits: probability {p} is not between 0 and 1")
        p = float(_F(p)) if single else float(p)
        most = _F(p * 2.0**32) if single else np.uint32(p * 4294967295.0)
        out = np.zeros(n, np.int32)
        return self._draw(lambda raw: (raw.astype(_F) if single else raw) <= most, out) if p else out

    def _draw(self, convert: Callable[[np.ndarray], np.ndarray], out: np.ndarray) -> np.ndarray:
        """Fill the vector `out` with what `convert` makes of raws, at most one value of each. Returns it."""
        done = 0
        while done < len(out):
            values = convert(self.raw(min(len(out) - done, CHUNK)))
            out[done : done + len(values)] = values
            done += len(values)
        return out

    def shuffle(self, items: list[Any]) -> None:
        """Shuffle a list in place (caffe::shuffle: from the last item on, swap each with one at or before it)."""
        raws: list[int] = []
        for i in range(len(items) - 1, 0, -1):
            # boost's uniform_int: the 2^32 raws in equal buckets; it draws again for a raw beyond the last one.
            size, rest = divmod(0xFFFFFFFF, i + 1)
            size += rest == i
            j = i + 1
            while j > i:
                raws = raws or self.raw(min(i, CHUNK))[::-1].tolist()
                j = raws.pop() // size
            items[i], items[j] = items[j], items[i]

    def _unit_normals(self, raw: np.ndarray) -> np.ndarray:
        """The normals that start within `raw`, float32. Draws more raws if the last one needs them."""
        z = _normal_layers()
        bucket = (raw & np.uint32(255)).astype(np.intp)
        values = (raw >> np.uint32(8)).astype(_F)
        values *= z.signed_scale[bucket]
        slow = np.flatnonzero(np.abs(values) >= z.inside[bucket])
        # Nearly all of these are wedges, which the following raw decides: decide all as if each started a value.
        following = np.append(raw, np.uint32(_ROUNDS_TO_ONE))[slow + 1]
        accepted = z.in_wedge(np.abs(values[slow]), bucket[slow] >> 1, following)
        plain = (bucket[slow] > 1) & (following < _ROUNDS_TO_ONE)
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
                if bucket[i] > 1:
                    is_accepted = z.in_wedge(np.abs(values[i]), bucket[i] >> 1, reader.unit_raw())
                else:
                    is_accepted = True
                    values[i] = np.copysign(_tail(reader), values[i])
                start = reader.position
                unused.extend(range(i + 1, min(start, len(raw))))
            if not is_accepted:
                unused.append(i)
        return np.delete(values, unused)


class _Reader:
    """Raws one by one: first those at hand, from `position` on, then new ones of the stream."""

    def __init__(self, rng: Rng, raw: np.ndarray, position: int) -> None:
        self.rng, self.at_hand, self.position = rng, raw, position

    def raw(self) -> np.uint32:
        self.position += 1
        return self.at_hand[self.position - 1] if self.position <= len(self.at_hand) else self.rng.raw(1)[0]

    def unit_raw(self) -> np.uint32:
        """A raw that uniform_01 accepts: as float32 below 2^32."""
        while (raw := self.raw()) >= _ROUNDS_TO_ONE:
            pass
        return raw


class _Layers:
    """`count` ziggurat layers of equal areas under `curve`, computed in decimals: right ends x (decreasing), heights y
    (increasing), and their differences, all rounded to float32.

    first, second: the two rightmost ends; inverse: the curve's."""

    def __init__(self, first: str, second: str, count: int, curve: Any, inverse: Any) -> None:
        with localcontext() as context:
            context.prec = 50
            x = [Decimal(first), Decimal(second)]
            y = [Decimal(0), curve(x[1])]
            area = x[0] * y[1]
            while len(x) < count:
                y.append(y[-1] + area / x[-1])
                x.append(inverse(y[-1]))
            ends, heights = np.array([*x, 0], np.float64), np.array([*y, 1], np.float64)
        self.x, self.y = ends.astype(_F), heights.astype(_F)
        self.dx, self.dy = -np.diff(ends).astype(_F), np.diff(heights).astype(_F)
        self.scale = self.x[:-1] * _F(2.0**-24)
        # By a raw's low byte: sign * scale, and the float32 below which a place needs no test: boost compares it with
        # the next layer's end in double.
        self.signed_scale = np.outer(self.scale, np.array([-1, 1], _F)).ravel()
        up = np.where(self.x < ends, np.nextafter(self.x, _F(np.inf)), self.x)
        self.inside = up[1:].repeat(2)

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


@cache
def _normal_layers() -> _Layers:
    return _Layers(
        "3.7130862467403632609",
        "3.4426198558966521214",
        128,
        lambda x: (-x * x / 2).exp(),
        lambda y: (-2 * y.ln()).sqrt(),
    )


@cache
def _exponential_layers() -> _Layers:
    return _Layers("8.6971174701310497140", "7.6971174701310497140", 256, lambda x: (-x).exp(), lambda y: -y.ln())


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
        x = _F(raw >> 8) * z.scale[i]
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
