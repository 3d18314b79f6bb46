"""Put the paper's tables and figures beside your results.

Writes Tables 1 to 4 and Figs. 2 to 5 as one offline HTML page, and as
Markdown, JSON, CSV, SVG and PNG. It marks what you did not run.

Example:
  ilgnet report --run demo=out/demo/snapshots/demo.log \\
    --eval out/demo/evaluation.json --synthetic --out out/demo/report.html
"""

from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.report import page
from ilgnet.run import outputs
from torchcaffe.base.errors import CaffeError


def main(argv: list[str]) -> int:
    parser = make_parser(__name__)
    for name, metavar, what in (
        ("--run", "NAME=LOG", "training log of any Caffe (repeatable; Fig. 4)"),
        ("--eval", "JSON", "result of `ilgnet evaluate --out` (repeatable; Tables 2 and 3, Fig. 3)"),
        ("--features", "JSON", "result of `ilgnet visualize` (repeatable; Fig. 5)"),
    ):
        parser.add_argument(name, action="append", default=[], metavar=metavar, help=what)
    parser.add_argument("--benchmark", metavar="JSON", help="result of `ilgnet benchmark --out` (Table 4)")
    parser.add_argument("--out", type=Path, default=Path("out/report.html"), help="default out/report.html")
    parser.add_argument("--title", default="ILGNet: training and test report")
    parser.add_argument("--synthetic", action="store_true", help="mark the labels as synthetic, as the demo's are")
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
    page_of = args.out.with_suffix
    outputs.say(
        f"wrote {args.out}, {page_of('.md').name}, {page_of('.json').name} and {written} tables and figures beside it"
    )
    outputs.say(f"Next: open {args.out} in a browser.")
    return 0
