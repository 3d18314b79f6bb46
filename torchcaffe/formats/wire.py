"""Protocol buffers' wire format, read from a buffer: enough to reach large float fields without copying them.

protobuf itself needs the whole message in memory and, in Python, one object for each float: 600 MB become gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

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


def fields(buffer: Any, start: int, end: int) -> Iterator[tuple[int, int, Any, Span]]:
    """Yield (number, wire type, value, (begin, end) with the tag) for each field of the message in [start, end).

    The value is an int for a varint, else the payload's (begin, end). Raises WireError for what does not fit into
    [start, end)."""
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
            elif kind == FIXED32:
                length = 4
            elif kind == FIXED64:
                length = 8
            else:
                raise WireError(f"field {number} at byte {begin} has wire type {kind}")
            if length > end - position:
                raise WireError(f"field {number} at byte {begin} says {length} bytes, {end - position} are left")
            value = (position, position + length)
            position += length
        yield number, kind, value, (begin, position)


def float_field(buffer: Any, kind: int, value: Span, dtype: str) -> np.ndarray:
    """The floats of one occurrence of a float ('<f4') or double ('<f8') field, as a read-only view of the buffer."""
    size = np.dtype(dtype).itemsize
    if kind not in (BYTES, FIXED32 if size == 4 else FIXED64):
        raise WireError(f"wire type {kind} where floats belong")
    length = value[1] - value[0]
    if length % size:
        raise WireError(f"{length} bytes are not a whole number of {size}-byte floats")
    return np.frombuffer(buffer, dtype, length // size, value[0])


def unpacked_run(buffer: Any, start: int, end: int, dtype: str) -> tuple[np.ndarray, int]:
    """The floats of a run of unpacked fields with the one-byte tag at `start`, and the position after the run.

    An unpacked field of a million floats is a million fields on the wire; a Python loop would take minutes."""
    record = np.dtype([("tag", "u1"), ("value", dtype)])
    tag, pieces, count = buffer[start], [], 16
    while True:
        count = min(count * 4, (end - start) // record.itemsize)
        records = np.frombuffer(buffer, record, count, start) if count else np.empty(0, record)
        other = np.flatnonzero(records["tag"] != tag)
        found = int(other[0]) if len(other) else count
        pieces.append(records["value"][:found])
        start += found * record.itemsize
        if found < count or count == 0:
            return np.concatenate(pieces), start


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
    return {number: parts[number] for number in sorted(parts)}


def text(buffer: Any, span: Span) -> str:
    """The string at a span; bytes that are not UTF-8 become replacement characters."""
    return bytes(buffer[span[0] : span[1]]).decode("utf-8", "replace")
