"""The paper's Tables 1 to 4 and Figs. 2 to 5 beside what was run here: one offline HTML page, and the same as Markdown,
JSON, CSV, SVG and PNG. What was not run says so."""

from __future__ import annotations

import argparse
from pathlib import Path

from ilgnet.report import page
from ilgnet.run import outputs
from torchcaffe.base.errors import CaffeError, run_main


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run",
        action="append",
        default=[],
        metavar="NAME=LOG",
        help="a training log, BVLC's or ours (repeatable; Fig. 4)",
    )
    parser.add_argument(
        "--eval",
        action="append",
        default=[],
        metavar="JSON",
        help="what tools/evaluate.py --out wrote (repeatable; Tables 2 and 3, Fig. 3)",
    )
    parser.add_argument(
        "--features",
        action="append",
        default=[],
        metavar="JSON",
        help="what tools/visualize.py wrote (repeatable; Fig. 5)",
    )
    parser.add_argument("--benchmark", metavar="JSON", help="what tools/benchmark.py --out wrote (Table 4)")
    parser.add_argument("--out", type=Path, default=Path("out/report.html"), help="default out/report.html")
    parser.add_argument("--title", default="ILGNet: training and test report")
    parser.add_argument("--synthetic", action="store_true", help="say that the labels are synthetic, as the demo's")
    args = parser.parse_args(argv)
    if not (args.run or args.eval or args.features or args.benchmark):
        raise CaffeError("nothing to report: give --run NAME=LOG, --eval, --features or --benchmark JSON")
    outputs.check(args.out, ".html")
    written = page.write(
        args.out,
        page.Report(
            args.title,
            page.read_runs(args.run),
            [page.read_evaluation(path) for path in args.eval],
            [page.read_features(path) for path in args.features],
            page.read_benchmark(args.benchmark) if args.benchmark else None,
            args.synthetic,
        ),
    )
    print(
        outputs.plain(
            f"wrote {args.out}, {args.out.with_suffix('.md').name}, {args.out.with_suffix('.json').name} "
            f"and {len(written) - 3} tables and figures beside it"
        )
    )
    return 0


if __name__ == "__main__":
    run_main(main)
