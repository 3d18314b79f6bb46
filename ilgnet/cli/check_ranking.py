"""Check that a net ranks damaged copies of photos lower.

The copies are blurred and over-exposed. The exit status is 1 if fewer than
--least of the pairs of the first strength of a kind are in order.

Example:
  ilgnet check-ranking out/demo/ava/images --held-out out/demo/ava \\
    --weights out/demo/snapshots/demo_iter_200.caffemodel \\
    --net out/demo/net/deploy.prototxt --mean out/demo/data/mean.binaryproto
"""

import sys
import tempfile
from pathlib import Path

from ilgnet.cli.arguments import add_net, make_parser
from ilgnet.photos import records
from ilgnet.rank import check, ranking
from ilgnet.run import engine
from torchcaffe.base.errors import CaffeError


def main(argv: list[str]) -> int:
    parser = make_parser(__name__, quiet=True)
    parser.add_argument("folder", type=Path, help="good photos")
    add_net(parser)
    parser.add_argument("--held-out", metavar="DEMO", help="only the photos that this demo set does not train on")
    for name, usual, what in (
        ("--blur", 0.006, "sigma of the blur, as a share of the longer side (default 0.006)"),
        ("--burnt", 0.2, "share of the pixels that over-exposure burns out (default 0.2)"),
    ):
        parser.add_argument(name, type=float, nargs="+", default=[usual], metavar="SHARE", help=what)
    parser.add_argument("--least", type=float, default=0.95, help="share of pairs that must be in order (default 0.95)")
    engine.add_arguments(parser)
    args = parser.parse_args(argv)
    for name in ("blur", "burnt"):
        for share in getattr(args, name):
            if not 0 < share < 1:
                raise CaffeError(f"--{name} {share}: must be above 0 and below 1")
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
