"""Train and test several nets under the same conditions.

The table printed after each net is the paper's Table 2 for your data. Each net
is tested on all of val_lmdb.

Example:
  ilgnet compare-nets --data out/demo/data --variants v1bn third
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from ilgnet.cli.arguments import make_parser
from ilgnet.figures import summary
from ilgnet.nets.variants import PAPER, VARIANTS
from ilgnet.run import engine
from ilgnet.train import runs as training
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import files, upgrade

# base_lr from source weights and from random ones; the inner products learn 10 times as fast. GoogLeNet's features are
# large, and the local layers read 200,000 of them: at Table 1's rates, training from its weights diverges.
RATES = {"v1": (1e-6, 1e-6), "third": (1e-5, 1e-4), "two_thirds": (1e-5, 1e-4), "full": (1e-5, 1e-4)}
RATE = (1e-6, 2e-5)
SEED = 1


def tool(name: str, *args: str) -> None:
    """Run another command in a process of its own, which prints its own errors."""
    done = subprocess.run([sys.executable, "-m", "ilgnet", name, *args])
    if done.returncode:
        raise CaffeError(f"ilgnet {name} ended with status {done.returncode}")


def main(argv: list[str]) -> int:
    p = make_parser(__name__, quiet=True)
    p.add_argument("--data", type=Path, required=True, help="folder with train_lmdb, val_lmdb and mean.binaryproto")
    p.add_argument(
        "--weights",
        action="append",
        default=[],
        type=Path,
        metavar="CAFFEMODEL",
        help="source weights (repeatable); each net takes those of its trunk, by file name",
    )
    p.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(PAPER))
    p.add_argument("--random", action="store_true", help="also train each net from random weights")
    p.add_argument("--iterations", type=int, default=300)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--base-lr", type=float, help="learning rate of all nets (default: one for each, printed)")
    p.add_argument("--calibrate", action="store_true", help="calibrate new BatchNorms on the training photos")
    p.add_argument("--out", type=Path, default=Path("out/compare"))
    engine.add_arguments(p)
    args = p.parse_args(argv)
    sources = {path.name: path for path in args.weights}
    for path in args.weights:
        if not path.is_file():
            raise CaffeError(f"{path}: no such weights")
    compute = [f"--engine={args.engine}"] + ([] if args.gpu is None else [f"--gpu={args.gpu}"])
    rows, runs = [], []
    for name in args.variants:
        source = sources.get(VARIANTS[name].source)
        for start in ([source.name] if source else []) + (["random"] if args.random or not source else []):
            row = train_one(args, compute, name, start, None if start == "random" else source)
            rows.append(row)
            runs += [f"--run={row['title']} from {start}={row['log']}", f"--eval={row['evaluation']}"]
            print_table(rows)
    files.write_bytes(args.out / "compare.json", json.dumps(rows, indent=1).encode())
    tool("report", *runs, f"--out={args.out}/report.html", f"--title=Nets compared on {args.data}")
    return 0


def generate(args: argparse.Namespace, name: str, rate: float, folder: Path) -> None:
    """Write a variant's nets and its solver.prototxt to `folder`."""
    tool(
        "gen-net",
        f"--variant={name}",
        f"--batch-size={args.batch_size}",
        f"--source={args.data}",
        f"--out={folder}",
    )
    tool(
        "gen-solver",
        f"--variant={name}",
        f"--net={folder / 'train_val.prototxt'}",
        f"--base-lr={rate}",
        f"--max-iter={args.iterations}",
        "--test-iter=1",
        f"--test-interval={max(1, args.iterations // 4)}",
        f"--snapshot={args.iterations}",
        "--display=10",
        f"--random-seed={SEED}",
        f"--snapshot-prefix={folder / name}",
        f"--out={folder / 'solver.prototxt'}",
    )


def train_one(args: argparse.Namespace, compute: list, name: str, start: str, source: Path | None) -> dict:
    """Generate, initialise, train and test one net. Returns its row of the table."""
    folder = args.out / f"{name}_{'random' if source is None else 'surgery'}"
    folder.mkdir(parents=True, exist_ok=True)
    rate = args.base_lr or RATES.get(name, RATE)[source is None]
    generate(args, name, rate, folder)
    net, prefix = folder / "train_val.prototxt", folder / name
    init = []
    if source is not None:
        start_at = folder / "init.caffemodel"
        init = [f"--weights={start_at}"]
        calibrate = [f"--calibrate={args.data}/train_lmdb"] * (args.calibrate and VARIANTS[name].batch_norm)
        tool("surgery", f"--weights={source}", f"--net={net}", f"--out={start_at}", f"--seed={SEED}", *calibrate)
    for earlier in training.snapshots(str(prefix)):  # of an earlier comparison
        earlier.unlink()
    tool("train", f"--solver={folder / 'solver.prototxt'}", *init, *compute)
    title, evaluation = VARIANTS[name].title, folder / "evaluation.json"
    tool(
        "evaluate",
        f"--weights={prefix}_iter_{args.iterations}.caffemodel",
        f"--net={folder}/deploy.prototxt",
        f"--lmdb={args.data}/val_lmdb",
        f"--name={title} from {start}",
        f"--out={evaluation}",
        *compute,
    )
    figures = json.loads(evaluation.read_text())["result"]
    caffe = engine.load_engine("torch", None)  # this Python may have no pycaffe, and both count alike
    costs = summary.summarize(caffe, upgrade.read_net(folder / "deploy.prototxt"), caffe.TEST)
    return {
        "variant": name,
        "title": title,
        "start": start,
        "base_lr": rate,
        "own_rate": args.base_lr is None,
        "iterations": args.iterations,
        **{figure: figures[figure] for figure in ("accuracy", "balanced_accuracy", "auc", "majority_baseline")},
        "parameters": costs.parameters,
        "multiply_adds": costs.multiply_adds,
        "log": f"{prefix}.log",
        "evaluation": str(evaluation),
    }


def print_table(rows: list[dict]) -> None:
    """Print all rows so far."""
    print(
        f"\n{'net':24} {'start':28} {'base_lr':>8}  {'accuracy':>9} {'95% interval':>16} {'n':>6} {'baseline':>8} "
        f"{'AUC':>6} {'param.':>8} {'mult-adds':>9}"
    )
    for r in rows:
        a = r["accuracy"]
        print(
            f"{r['title']:24} {r['start']:28} {r['base_lr']:8.0e}{'*' if r['own_rate'] else ' '} {a['value']:9.2%} "
            f"{a['low']:8.2%}-{a['high']:7.2%} {a['n']:6} {r['majority_baseline']['value']:8.2%} {r['auc']:6.3f} "
            f"{r['parameters'] / 1e6:7.1f}M {r['multiply_adds'] / 1e9:8.2f}G",
            flush=True,
        )
    if any(r["own_rate"] for r in rows):
        print("* the net's own rate for this start: at one rate for all, some diverge (--base-lr gives one to all)")
