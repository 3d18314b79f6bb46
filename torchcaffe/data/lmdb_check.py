"""Checks LMDB files. liblmdb trusts its file: a damaged or malicious one crashes the process.

The check follows the tree from the newer of the two meta pages and examines every node on every page. Of large values,
which have their own pages, it examines only the bounds: of AVA's 50 GB it reads about 20 MB."""

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torchcaffe.formats.files import open_file

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _META = 0x01, 0x02, 0x08
_BIG = 0x01  # of a leaf's node: its value has its own pages
_HEAD = 16  # of a page: number (8 bytes), 2 unused here, flags, lower and upper bound of the free space (2 each)
_NONE = (1 << 64) - 1
_DEEPEST = 32  # liblmdb's own limit on the tree


class Damaged(ValueError):
    """The file is not an LMDB of plain records, or damaged; the text says where."""


def check(path: Path) -> None:
    """Raise Damaged unless liblmdb can safely read the data.mdb at `path`; OSError if the file cannot be read."""
    with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _check(data)
        except (struct.error, IndexError) as error:
            raise Damaged("truncated") from error


class _Head(NamedTuple):
    """One of a file's two meta pages. The one with the newer transaction counts."""

    size: int  # of a page
    depth: int
    records: int
    root: int  # its page
    last: int  # page
    transaction: int


def _check(data: mmap.mmap) -> None:
    first = _head(data, 0)
    second = _head(data, first.size)
    head = second if second.transaction > first.transaction else first
    size, last = head.size, head.last
    if size != first.size or (last + 1) * size > len(data):
        raise Damaged("data.mdb is truncated")
    if head.depth > _DEEPEST or (head.depth == 0) != (head.root == _NONE):
        raise Damaged(f"a tree of {head.depth} levels")
    seen = np.zeros(last + 1, bool)
    level, records = [] if head.root == _NONE else [head.root], 0
    for height in range(head.depth, 0, -1):
        below: list[int] = []
        for page in level:
            if not 2 <= page <= last or seen[page]:
                raise Damaged(f"page {page} is not where the tree leads")
            seen[page] = True
            found = _page(data[page * size : (page + 1) * size], page, height == 1, last, size)
            records += len(found) if height == 1 else 0
            below += found
        level = below
    if records != head.records:
        raise Damaged(f"{records} records, not the {head.records} of its meta page")


def _head(data: mmap.mmap, at: int) -> _Head:
    flags = struct.unpack_from("<H", data, at + 10)[0]
    magic, version = struct.unpack_from("<II", data, at + _HEAD)
    if not flags & _META or magic != _MAGIC or version != _VERSION:
        raise Damaged("not an LMDB file")
    size, tree_flags, depth, entries, root, last, transaction = struct.unpack_from(
        "<I44x4xHH24xQQQQ", data, at + _HEAD + 24
    )
    if size < 256 or size > 1 << 16 or size & (size - 1):
        raise Damaged(f"pages of {size} bytes")
    if tree_flags:  # another order of keys, or several values for a key
        raise Damaged("a database of another kind than plain records")
    return _Head(size, depth, entries, root, last, transaction)


def _page(page: bytes, number: int, is_leaf: bool, last: int, size: int) -> list[int]:
    """Check a page's nodes. Returns the pages below a branch, or the lengths of a leaf's values."""
    own, flags, lower, upper = struct.unpack_from("<Q2xHHH", page)
    wanted = _LEAF if is_leaf else _BRANCH
    if own != number or flags != wanted:
        raise Damaged(f"page {number} is not a page of the tree")
    if not _HEAD <= lower <= upper <= size or lower % 2:
        raise Damaged(f"page {number}: its bounds are {lower} and {upper}")
    found = []
    for (at,) in struct.iter_unpack("<H", page[_HEAD:lower]):
        low, high, node_flags, key = struct.unpack_from("<HHHH", page, at)
        end = at + 8 + key
        if at < upper or at % 2 or end > size or key > 511:
            raise Damaged(f"page {number}: a node reaches out of it")
        if not is_leaf:
            found.append(low | high << 16 | node_flags << 32)
            continue
        length = low | high << 16
        found.append(length)
        if node_flags & ~_BIG:
            raise Damaged(f"page {number}: a record of another kind")
        if node_flags & _BIG:
            first = struct.unpack_from("<Q", page, end)[0]
            if not 2 <= first or first + -(-(_HEAD + length) // size) > last + 1:
                raise Damaged(f"page {number}: a value reaches out of the file")
        elif end + length > size:
            raise Damaged(f"page {number}: a value reaches out of it")
    if len(found) < (1 if is_leaf else 2):
        raise Damaged(f"page {number}: has {len(found)} nodes")
    return found
