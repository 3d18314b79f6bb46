"""Draw the feature maps of high and low photos (Fig. 5).

They are those at the paper's labels (1) to (7). All photos are used to test
what the paper observes there: more features of the last layer are active in
high ones.

Example:
  ilgnet visualize --weights out/demo/snapshots/demo_iter_200.caffemodel \\
    --net out/demo/net/deploy.prototxt --lmdb out/demo/data/val_lmdb \\
    --out out/demo/features.json
"""

import sys
from pathlib import Path

from ilgnet.cli.arguments import add_net, check_range, find_mean, make_parser
from ilgnet.evaluate import feature_maps, protocol
from ilgnet.run import engine, outputs


def main(argv: list[str]) -> int:
    parser = make_parser(__name__, quiet=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--lmdb", help="labelled photos, e.g. data/ava1/val_lmdb")
    what.add_argument("--photos", metavar="FOLDER", help="photos without labels: draws, and tests nothing")
    add_net(parser, "(default: beside the LMDB)")
    parser.add_argument("--blobs", nargs="+", metavar="BLOB", help="blobs to draw; the last one is the last layer")
    parser.add_argument("--shown", type=int, default=3, help="photos of each class in the figure (default 3)")
    parser.add_argument("--batch", type=int, default=16, help="photos at a time (default 16); changes no result")
    parser.add_argument("--name", help="name of this result in reports")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/features.json"),
        metavar="JSON",
        help="default out/features.json; the figure as PNG and the densities as CSV beside it",
    )
    engine.add_arguments(parser)
    args = parser.parse_args(argv)
    check_range(args, "shown", 0)
    check_range(args, "batch")
    find_mean(args)
    outputs.check(args.out, ".json")
    from ilgnet.scoring.scorers import NetScorer, Settings

    scorer = NetScorer(Settings(args.weights, args.net, args.preset, args.mean, args.batch, args.engine, args.gpu))
    stages = feature_maps.stages(scorer, args.blobs)
    source = args.lmdb or args.photos
    found = feature_maps.extract(scorer, source, stages, args.shown, progress=sys.stderr.isatty())
    dataset, synthetic = protocol.about(args.lmdb) if args.lmdb else (None, None)
    result = feature_maps.write(
        args.out,
        found,
        {
            "name": args.name or Path(args.weights).stem,
            "title": scorer.title,
            "variant": protocol.variant_of(scorer.title),
            "weights": args.weights,
            "net": scorer.net_path,
            "source": str(Path(source).resolve()),
            "dataset": dataset,
            "synthetic": synthetic,
            "engine": args.engine,
            "preprocess": scorer.preprocess.describe(),
        },
    )
    print("active features        high photos   low photos    d      p")
    for stage in result.stages:
        c = stage.comparison
        figures = (
            f"{100 * c.high.mean:10.2f}% {100 * c.low.mean:11.2f}% {c.cohens_d:6.2f} {c.p_value:.4f}"
            if c
            else "no labels of both classes"
        )
        print(f"{f'{stage.mark} {stage.what}'.strip()[:24]:24} {figures}")
    print(f"{result.claim}\nwrote {args.out}")
    outputs.say(f"Next: add it to the report: ilgnet report --features {args.out}")
    return 0
