"""NumPy's .npy and .npz files, without pickles."""

import math
import os
import tokenize
import zipfile
from typing import IO

import numpy as np

from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import PathLike, reading


def read_npy(path: PathLike) -> np.ndarray:
    """The array in a .npy file. Reads no pickle, and allocates no more than the file holds. Raises CaffeError."""
    with reading(path) as file:
        try:
            return _npy(file, os.fstat(file.fileno()).st_size)
        except _NOT_NUMPY as error:
            raise CaffeError(f"{path}: not a NumPy array, or damaged: {_words(error)}") from error


def read_npz(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays in a .npz file that np.savez wrote, uncompressed. Raises as `read_npy` does."""
    with reading(path) as whole:
        try:
            found = {}
            archive = zipfile.ZipFile(whole)
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{entry.filename} is compressed")
                with archive.open(entry) as file:
                    found[entry.filename.removesuffix(".npy")] = _npy(file, entry.file_size)
            return found
        except (*_NOT_NUMPY, zipfile.BadZipFile) as error:
            raise CaffeError(f"{path}: not NumPy arrays, or damaged: {_words(error)}") from error


# What NumPy and zipfile raise for a damaged header; NumPy evaluates an array's header as a literal.
_NOT_NUMPY = (ValueError, TypeError, KeyError, EOFError, SyntaxError, RuntimeError, MemoryError, AttributeError,
              tokenize.TokenError)  # fmt: skip


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _npy(file: IO[bytes], size: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    read_head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read_head is None:
        raise ValueError(f"version {version}")
    shape, fortran, dtype = read_head(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    length = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or length > size:
        raise ValueError(f"its header says {shape} {dtype}, more than the file holds")
    data = file.read(length)
    return np.frombuffer(data, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C").copy()
