"""NumPy's .npy and .npz files, without pickles."""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
from typing import Any

import numpy as np

from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import PathLike, open_file


def read_npy(path: PathLike) -> np.ndarray:
    """The array of a .npy file. No pickle, and no memory for more than the file holds. Raises CaffeError."""
    try:
        with open_file(path) as file:
            return _npy(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise CaffeError(f"cannot read {path}: {error.strerror or error}") from error
    except _NOT_NUMPY as error:
        raise CaffeError(f"{path}: not an array of NumPy's, or damaged: {_words(error)}") from error


def read_npz(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays of a .npz file that np.savez wrote, which compresses nothing. As `read_npy`."""
    try:
        with open_file(path) as whole, zipfile.ZipFile(whole) as archive:
            found = {}
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{entry.filename} is compressed")
                with archive.open(entry) as file:
                    found[entry.filename[: -len(".npy")]] = _npy(file, entry.file_size)
            return found
    except OSError as error:
        raise CaffeError(f"cannot read {path}: {error.strerror or error}") from error
    except (*_NOT_NUMPY, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise CaffeError(f"{path}: not arrays of NumPy's, or damaged: {_words(error)}") from error


# What NumPy raises over a head that is none: it evaluates it as a literal.
_NOT_NUMPY = (ValueError, TypeError, KeyError, EOFError, SyntaxError, RecursionError, MemoryError, AttributeError,
              tokenize.TokenError)  # fmt: skip


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _npy(file: Any, size: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    read_head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read_head is None:
        raise ValueError(f"version {version}")
    shape, fortran, dtype = read_head(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    bytes_ = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or bytes_ > size:
        raise ValueError(f"its head says {shape} {dtype}, more than the file holds")
    data = file.read(bytes_)
    return np.frombuffer(data, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C").copy()
