"""Write an LMDB's mean: mean.binaryproto, byte for byte as BVLC's compute_image_mean, and mean.npy (C x H x W)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torchcaffe.data.imageset import compute_image_mean, write_mean


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lmdb", type=Path, help="the training LMDB")
    parser.add_argument("binaryproto", type=Path, nargs="?", help="file to write (mean.binaryproto beside the LMDB)")
    args = parser.parse_args(argv)
    target = args.binaryproto or args.lmdb.parent / "mean.binaryproto"
    mean = compute_image_mean(args.lmdb)
    write_mean(mean, target, target.with_suffix(".npy"))
    for channel, value in enumerate(mean.mean(axis=(1, 2), dtype="float64")):
        print(f"mean_value channel [{channel}]: {value:g}")
    return 0
