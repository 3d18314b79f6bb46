"""Test a net on a whole test set, with confidence intervals.

Every photo counts once. The released accuracies are those of the first 50
batches; that figure is printed beside the whole set's. --log reads the log of
a test that another Caffe made.

Example:
  ilgnet evaluate --weights out/demo/snapshots/demo_iter_200.caffemodel \\
    --net out/demo/net/deploy.prototxt --lmdb out/demo/data/val_lmdb \\
    --name demo --out out/demo/evaluation.json
"""

import argparse
import sys
from pathlib import Path

from ilgnet.cli.arguments import add_net, check_range, find_mean, given, make_parser
from ilgnet.evaluate import protocol, votes
from ilgnet.nets.datasets import DATASETS
from ilgnet.run import engine, outputs, processes
from ilgnet.run.results import Evaluation, write_json
from ilgnet.scoring import tta
from ilgnet.scoring.scorers import NetScorer, Settings
from ilgnet.weights import models
from torchcaffe.base.errors import CaffeError


def make_scorer(args: argparse.Namespace, weights: str) -> NetScorer:
    return NetScorer(
        Settings(weights, args.net, args.preset, args.mean, args.batch, args.engine, args.gpu, args.rounded)
    )


def from_weights(args: argparse.Namespace, weights: str, out: Path | None) -> Evaluation:
    """Score the LMDB; with `out`, write the CSV beside it."""
    show = sys.stderr.isatty() and processes.root()
    scorer = make_scorer(args, weights)
    if args.cut_on and scorer.target.name != "ranking":
        raise CaffeError(f"--cut-on: {scorer.net_path} answers {scorer.target.answer}, and brings its cut")
    if args.test_batch and scorer.target.label:
        raise CaffeError(f"--test-batch: is of two-class nets; {scorer.net_path} answers {scorer.target.answer}")
    cut = votes.find_cut(scorer, args.cut_on, show, args.tta) if args.cut_on else None
    answers = protocol.ask(scorer, args.lmdb, show, args.tta)
    known = votes.votes_beside(args.lmdb, len(answers.keys))
    dataset, synthetic = protocol.about(args.lmdb)
    dataset = args.dataset or dataset
    batch = args.test_batch or (DATASETS[dataset].test_batch if dataset in DATASETS else 50)
    try:
        figures = votes.figures(scorer.target, answers, known, cut, batch)
    except CaffeError as error:
        raise CaffeError(f"{weights} on {args.lmdb}: {error}") from None
    result = Evaluation(
        dataset=dataset,
        synthetic=synthetic,
        lmdb=str(Path(args.lmdb).resolve()),
        weights=weights,
        net=scorer.net_path,
        title=scorer.title,
        variant=protocol.variant_of(scorer.title),
        target=scorer.target.name,
        engine=args.engine,
        precision=args.precision,
        preprocess=scorer.preprocess.describe(),
        tta=args.tta,
        result=figures,
    )
    if out is not None:
        csv = out.with_suffix(".csv")
        if votes.write_csv(csv, scorer.target, answers, known):
            result.predictions = csv.name
    return result


def from_picks(args: argparse.Namespace, weights: str, out: Path | None) -> Evaluation:
    """Score the photos of --picks. Writes the CSV if `out` is given."""
    from ilgnet.rank import picks

    scorer = make_scorer(args, weights)
    if scorer.target.name == "ranking":
        raise CaffeError(f"--picks: {scorer.net_path} answers {scorer.target.answer}, which has no cut of low and high")
    result = picks.measure(scorer, args.picks, args.photos, out)
    result.engine, result.precision = args.engine, args.precision
    return result


# Options that --log, --picks and --lmdb do not use.
NOTHING = {
    "log": "net lmdb picks photos mean preset batch tta test_batch cut_on engine gpu precision",
    "picks": "lmdb tta test_batch cut_on dataset",
    "lmdb": "photos",
}


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program if an option would be ignored or is out of range."""
    kind = "log" if args.log else "picks" if args.picks else "lmdb"
    for option in given(parser, args, NOTHING[kind].split()):
        parser.error(f"{option} means nothing with --{kind}")
    check_range(args, "batch test_batch", 1, 1_000_000)
    if args.weights and not all(args.weights):
        parser.error("--weights: a file's name is empty")
    if args.weights and not args.lmdb and not args.picks:
        parser.error("--weights needs --lmdb, or --picks")
    if processes.wanted(args) > 1 and not args.lmdb:
        parser.error("several processes share the records of an --lmdb alone")


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's options, checked."""
    parser = make_parser(__name__, quiet=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--weights",
        nargs="+",
        metavar="CAFFEMODEL",
        help="trained weights; several: one net trained with several seeds, for mean and spread",
    )
    what.add_argument("--log", metavar="FILE", help="a log of `caffe test`, BVLC's or torchcaffe's")
    parser.add_argument("--lmdb", help="the test set, e.g. data/ava1/val_lmdb")
    parser.add_argument(
        "--picks", metavar="CSV", help="instead: your choices (columns file and pick, label, mean or votes)"
    )
    parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of the --picks files (default: the CSV's)")
    add_net(parser, "(default: beside the LMDB)", weights=False)
    parser.add_argument("--batch", type=int, default=16, help="photos at a time (default 16); changes no result")
    parser.add_argument("--tta", choices=tta.KINDS, help="average over a photo and its mirror, five crops, or both")
    parser.add_argument("--test-batch", type=int, help="batch size of the 50-batch figure (default: the released one)")
    parser.add_argument(
        "--cut-on",
        metavar="LMDB",
        help="training photos that give a ranking net its cut between low and high",
    )
    parser.add_argument("--dataset", choices=DATASETS, help="column of the paper's tables")
    parser.add_argument("--name", help="name in reports: of the result, or of the group of several weights")
    parser.add_argument("--group", help="group in reports, which print its mean and spread")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="JSON",
        help="write the result, and a CSV of the photos beside it; for several weights OUT_WEIGHTS.json each",
    )
    engine.add_arguments(parser, several=True)
    args = parser.parse_args(argv)
    check_options(parser, args)
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    stems, several = [Path(weights).stem for weights in args.weights or [args.log]], len(args.weights or []) > 1
    if len(set(stems)) < len(stems):
        raise CaffeError(f"--weights: two files have one name ({', '.join(stems)}): results are named after them")
    outs: list[Path | None] = [None] * len(stems)
    if args.out is not None:
        whole = outputs.check(args.out, ".json")
        outs = [outputs.check(whole.with_name(f"{whole.stem}_{stem}.json")) if several else whole for stem in stems]
    find_mean(args)
    status = processes.launch(args, "evaluate", argv)
    if status is not None:
        return status
    args.rounded = engine.set_precision(args, scoring=True)
    processes.start(args)
    found = []
    for weights, stem, place in zip(args.weights or [None], stems, outs):
        out = place if processes.root() else None
        measure = from_picks if args.picks else from_weights
        result = measure(args, weights, out) if weights else protocol.from_log(args.log, args.dataset)
        name = stem if several else args.name or stem
        group = args.group or (args.name or result.title if several else None)
        cautions = models.cautions(models.card(models.find(weights))) if weights else []
        cautions += protocol.cautions_on(args.lmdb) if args.lmdb else []
        result = Evaluation(kind="evaluation", name=name, group=group, cautions=cautions, **vars(result))
        found.append(result)
        if processes.root():
            print("\n".join([outputs.plain(name) + ":"] * several + protocol.lines(result)))
        if out is not None:
            write_json(out, result)
            outputs.say(f"wrote {out}")
    if several and processes.root():
        for group in protocol.groups(found):
            outputs.say(*protocol.group_lines(group))
    if args.out is not None and processes.root():
        outputs.say(f"Next: add it to the report: ilgnet report --eval {outs[0]}")
    return 0
