"""Protocol buffers' wire format, read from a buffer: enough to reach large float fields without copying them.

protobuf itself needs the whole message in memory and, in Python, one object for each float: 600 MB become gigabytes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

VARINT, BYTES = 0, 2
_SIZES = {1: 8, 5: 4}  # of the wire types of fixed length, in bytes

Span = tuple[int, int]


class WireError(ValueError):
    """The bytes are not a well-formed message; the text says where and why."""


def read_varint(buffer: Any, position: int, end: int) -> tuple[int, int]:
    """The varint at `position` and the position after it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
    raise WireError("truncated in a number" if position >= end else f"not a number at byte {position}")


def fields(
    buffer: Any, start: int, end: int, floats: Mapping[int, str] | None = None
) -> Iterator[tuple[int, int, Any, Span]]:
    """Yield (number, wire type, value, (begin, end) with the tag) for each field of the message in [start, end).

    The value is an int for a varint, else the payload's (begin, end). floats: repeated fields of floats ('<f4') or
    doubles ('<f8'), of which the values are arrays, views of the buffer if possible; a run of unpacked ones is one.
    Raises WireError for what does not fit into [start, end)."""
    position = start
    while position < end:
        begin = position
        tag, position = read_varint(buffer, position, end)
        number, kind = tag >> 3, tag & 7
        if number == 0 or number >= 1 << 29:
            raise WireError(f"no valid field number at byte {begin}")
        value: Any
        if kind == VARINT:
            value, position = read_varint(buffer, position, end)
        else:
            if kind == BYTES:
                length, position = read_varint(buffer, position, end)
            elif kind in _SIZES:
                length = _SIZES[kind]
            else:
                raise WireError(f"field {number} at byte {begin} has wire type {kind}")
            if length > end - position:
                raise WireError(f"field {number} at byte {begin} says {length} bytes, {end - position} are left")
            value = (position, position + length)
            position += length
        if floats and number in floats:
            value, position = _floats(buffer, kind, (begin, position), value, end, np.dtype(floats[number]))
        yield number, kind, value, (begin, position)


def _floats(buffer: Any, kind: int, field: Span, value: Any, end: int, dtype: np.dtype) -> tuple[np.ndarray, int]:
    """The floats of a field, or of a run of unpacked fields with a one-byte tag, and the position after it.

    An unpacked field of a million floats is a million fields on the wire; a Python loop would take minutes."""
    if kind != BYTES and _SIZES.get(kind) != dtype.itemsize:
        raise WireError(f"wire type {kind} where floats belong")
    begin, position = field
    if kind == BYTES or value[0] > begin + 1:
        count, rest = divmod(position - value[0], dtype.itemsize)
        if rest:
            raise WireError(f"{position - value[0]} bytes are not a whole number of {dtype.itemsize}-byte floats")
        return np.frombuffer(buffer, dtype, count, value[0]), position
    record = np.dtype([("tag", "u1"), ("value", dtype)])
    records = np.frombuffer(buffer, record, (end - begin) // record.itemsize, begin)
    tags, count = records["tag"], 64
    while count < len(tags) and (tags[:count] == tags[0]).all():  # look only a little further than the run
        count *= 4
    other = np.flatnonzero(tags[:count] != tags[0])
    found = int(other[0]) if len(other) else len(tags)
    return records["value"][:found].copy(), begin + found * record.itemsize


def integers(buffer: Any, kind: int, value: Any, limit: int) -> list[int]:
    """One occurrence of a repeated int64 field, packed or not: at most `limit` signed numbers."""
    if kind == VARINT:
        found = [value]
    elif kind == BYTES:
        found, (position, end) = [], value
        while position < end:
            number, position = read_varint(buffer, position, end)
            found.append(number)
            if len(found) > limit:
                raise WireError(f"more than {limit} numbers")
    else:
        raise WireError(f"wire type {kind} where integers belong")
    return [n - (1 << 64) if n >> 63 else n for n in found]


def varint(value: int) -> bytes:
    """A varint's bytes (negative numbers in ten bytes, as two's complement)."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def head(number: int, length: int) -> bytes:
    """The tag and length of a length-delimited field, which precede its payload."""
    return varint(number << 3 | BYTES) + varint(length)


def by_number(message: bytes) -> dict[int, bytes]:
    """A serialised message's bytes by field number, in ascending order."""
    parts: dict[int, bytes] = {}
    for number, _, _, (begin, end) in fields(message, 0, len(message)):
        parts[number] = parts.get(number, b"") + message[begin:end]
    return dict(sorted(parts.items()))


def text(buffer: Any, span: Span) -> str:
    """The string at a span; bytes that are not UTF-8 become replacement characters."""
    return buffer[slice(*span)].decode("utf-8", "replace")
