"""Fig. 5: the feature maps of good and bad photos at the paper's labels (1) to (7), and a test over all photos of what
the paper observes there: are more features of the last layer active in good ones?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ilgnet.evaluate import feature_maps, protocol
from ilgnet.photos.preprocess import PRESETS
from ilgnet.run import engine, outputs
from torchcaffe.base import log
from torchcaffe.base.errors import CaffeError, run_main


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, metavar="CAFFEMODEL")
    parser.add_argument("--net", help="deploy.prototxt or a variant's name (default: the variant the weights are of)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--lmdb", help="labelled photos, e.g. data/ava1/val_lmdb")
    what.add_argument("--photos", metavar="FOLDER", help="photos without labels: pictures only, nothing is tested")
    parser.add_argument("--mean", help="mean.binaryproto or mean.npy (default: beside the LMDB)")
    parser.add_argument("--preset", choices=PRESETS, help="preprocessing (default: lmdb where there is a mean file)")
    parser.add_argument("--blobs", nargs="+", metavar="BLOB", help="look at these, the last being the last layer")
    parser.add_argument("--shown", type=int, default=3, help="photos of each class in the figure (default 3)")
    parser.add_argument("--batch", type=int, default=16, help="photos at a time (default 16); changes no figure")
    parser.add_argument("--name", help="what reports call this")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/features.json"),
        metavar="JSON",
        help="default out/features.json; the figure as PNG and the densities as CSV beside it",
    )
    engine.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.shown < 0 or args.batch < 1:
        raise CaffeError("--shown must be 0 or more, --batch 1 or more")
    if args.lmdb and not args.mean and args.preset != "direct":
        args.mean = protocol.mean_beside(args.lmdb)
    outputs.check(args.out, ".json")
    log.set_level(2)
    from ilgnet.scoring.scorers import Scorer, Settings

    scorer = Scorer(Settings(args.weights, args.net, args.preset, args.mean, args.batch, args.engine, args.gpu))
    stages = feature_maps.stages(scorer, args.blobs)
    source = args.lmdb or args.photos
    found = feature_maps.extract(scorer, source, stages, args.shown, progress=sys.stderr.isatty())
    dataset, synthetic = protocol.about(args.lmdb) if args.lmdb else (None, None)
    title = protocol.net_title(scorer.net_path)
    result = feature_maps.write(
        args.out,
        found,
        {
            "name": args.name or Path(args.weights).stem,
            "title": title,
            "variant": protocol.variant_of(title),
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
    return 0


if __name__ == "__main__":
    run_main(main)
