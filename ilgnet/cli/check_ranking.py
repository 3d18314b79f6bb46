"""Check a net's ranking: blurred and over-exposed copies of photos should rank below their originals.

Exits with status 1 when fewer than --least of the pairs of the first strength of a kind do."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from ilgnet.photos import records
from ilgnet.photos.preprocess import PRESETS
from ilgnet.rank import check, ranking
from ilgnet.run import engine
from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError, run_main


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="good photos")
    parser.add_argument("--weights", required=True, metavar="CAFFEMODEL")
    parser.add_argument("--net", help="deploy.prototxt or a variant's name (default: the variant the weights are of)")
    parser.add_argument("--preset", choices=PRESETS, help="preprocessing (default: lmdb where --mean is given)")
    parser.add_argument("--mean", help="mean.binaryproto or mean.npy, for preset lmdb")
    parser.add_argument("--held-out", metavar="DEMO", help="only photos of which no version in this demo set trained")
    parser.add_argument(
        "--blur",
        type=float,
        nargs="+",
        default=[0.006],
        metavar="SHARE",
        help="sigma of the blur, as a share of the longer side (0.006)",
    )
    parser.add_argument(
        "--burnt",
        type=float,
        nargs="+",
        default=[0.2],
        metavar="SHARE",
        help="of the pixels that over-exposure burns out (0.2, from which on photos are called so)",
    )
    parser.add_argument("--least", type=float, default=0.95, help="share of the pairs (0.95)")
    engine.add_arguments(parser)
    args = parser.parse_args(argv)
    for name in ("blur", "burnt"):
        for share in getattr(args, name):
            if not 0 < share < 1:
                raise CaffeError(f"--{name} {share}: must be above 0 and below 1")
    log.set_level(2)
    paths = records.files_in(args.folder)
    if args.held_out:
        names = check.held_out(args.held_out)
        paths = [path for path in paths if path.name in names]
    spec = ranking.Spec(args.weights, args.net, args.preset, args.mean, engine=args.engine, gpu=args.gpu)
    with tempfile.TemporaryDirectory() as folder:
        found = check.check(
            paths, spec, Path(folder), {"blurred": args.blur, "over-exposed": args.burnt}, sys.stderr.isatty()
        )
    for version, share in found.items():
        print(
            f"{version:18s} {100 * share.value:6.2f}% of {share.n} copies rank below their originals "
            f"(95% interval {100 * share.low:.2f} to {100 * share.high:.2f})"
        )
    judged = [found[f"blurred-{args.blur[0]:g}"], found[f"over-exposed-{args.burnt[0]:g}"]]
    return 0 if all(share.value >= args.least for share in judged) else 1


if __name__ == "__main__":
    run_main(main)
