"""Compute an LMDB's mean image, as compute_image_mean does.

`ilgnet prepare` does this as its last step. Writes mean.binaryproto, and beside
it mean.npy (C x H x W).

Example:
  ilgnet mean out/demo/train_lmdb
"""

from pathlib import Path

from ilgnet.cli.arguments import make_parser
from torchcaffe.data.imageset import compute_image_mean, write_mean


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    parser.add_argument("lmdb", type=Path, help="the training LMDB")
    parser.add_argument("binaryproto", type=Path, nargs="?", help="file to write (mean.binaryproto beside the LMDB)")
    args = parser.parse_args(argv)
    target = args.binaryproto or args.lmdb.parent / "mean.binaryproto"
    mean = compute_image_mean(args.lmdb)
    write_mean(mean, target, target.with_suffix(".npy"))
    for channel, value in enumerate(mean.mean(axis=(1, 2), dtype="float64")):
        print(f"mean_value channel [{channel}]: {value:g}")
    print(f"Next: write a net that trains on it: ilgnet gen-net --variant v1bn --source {args.lmdb.parent}")
    return 0
