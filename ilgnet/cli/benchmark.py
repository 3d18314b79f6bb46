"""Time the nets on this machine beside the paper's Table 4.

--peers times other engines too. The times are medians of several rounds.

Example:
  ilgnet benchmark --variants v1bn third --out out/benchmark.json
"""

import argparse
import os
import platform
import re
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ilgnet.bench import benchmark
from ilgnet.cli.arguments import check_range, make_parser
from ilgnet.nets.table1 import TABLE1
from ilgnet.nets.variants import VARIANTS
from ilgnet.photos import records
from ilgnet.report.tables import BATCH, efficiency
from ilgnet.run import bvlc, outputs
from ilgnet.run.results import Benchmark, Machine, Timed, write_json
from torchcaffe.base import context
from torchcaffe.base.errors import CaffeError

TABLE4 = [name for name, variant in VARIANTS.items() if variant.table4[1] is not None]


def peers(task: str, gpu: int | None) -> list[str]:
    """The engines that can do the task here. Prints those that cannot."""
    wanted = [name for name in benchmark.PEERS[task] if gpu is None or name == "pytorch"]
    if "bvlc" in wanted and not bvlc.available():
        print(f"peer bvlc: not on this machine ({bvlc.HOW})")
        wanted.remove("bvlc")
    return wanted


def main(argv: list[str]) -> int:
    p = make_parser(__name__, quiet=True)
    p.add_argument("--variants", nargs="+", choices=VARIANTS, default=TABLE4, help="default: Table 4's nets")
    p.add_argument(
        "--tasks",
        nargs="+",
        choices=benchmark.TASKS,
        default=["train", "test", "test1"],
        help="; ".join(f"{name}: {what}" for name, what in benchmark.TASKS.items()),
    )
    p.add_argument("--batch", type=int, default=16, help="batch size (default 16)")
    p.add_argument("--crop", type=int, default=224)
    p.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (default 5)")
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    p.add_argument("--peers", action="store_true", help="also BVLC Caffe, OpenCV dnn, ONNX Runtime, plain PyTorch")
    p.add_argument(
        "--precision",
        nargs="+",
        choices=["bf16", "int8"],
        default=[],
        help="also test with rounded inner product weights, and print what that does to P(high)",
    )
    p.add_argument("--weights", type=Path, help="caffemodel of the variant (default: random weights)")
    p.add_argument(
        "--photos", type=Path, metavar="DIR", help="photos to decode, prepare and score (default: generated)"
    )
    p.add_argument("--layers", action="store_true", help="also time a training iteration layer by layer")
    p.add_argument("--gpu", type=int)
    p.add_argument("--out", type=Path, help="JSON file to write")
    args = p.parse_args(argv)
    check_range(args, "rounds batch threads crop")
    if args.weights and len(args.variants) > 1:
        raise CaffeError(f"--weights fits one variant; {len(args.variants)} are given")
    if args.precision and args.gpu is not None:
        raise CaffeError("--precision is for the CPU")
    if args.gpu is not None:
        context.check_gpu(args.gpu)
    if args.out:
        outputs.check(args.out, ".json")
    limits = benchmark.machine_limits(args.threads, args.gpu)
    print(
        f"this machine: {limits['sgemm_flops'] / 1e9:.0f} GFLOP/s sgemm, "
        f"{limits['copy_bytes_per_s'] / 1e9:.1f} GB/s copy, {args.threads} threads"
        + ("" if args.gpu is None else f", GPU {args.gpu}")
    )
    machine = Machine(cpu=cpu_name(), threads=args.threads, gpu=args.gpu, **limits)
    result = Benchmark(machine=machine, rows=[], layers={}, precision=[])
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        measure(args, Path(folder), machine, result)
    result.ratios = ratios(result.rows)
    table4(result)
    if args.out:
        write_json(args.out, result)
        print(f"wrote {args.out}")
        outputs.say(f"Next: add it to the report: ilgnet report --benchmark {args.out}")
    return 0


def measure(args: argparse.Namespace, folder: Path, machine: Machine, result: Benchmark) -> None:
    """Measure what the arguments ask for: into `result`, and a printed line each."""
    photos = records.files_in(args.photos) if args.photos else benchmark.sample_photos(folder)
    result.photos = benchmark.photo_times(photos, args.crop)
    print(
        f"a photo, {len(photos)} {f'of {args.photos}' if args.photos else 'made up (640 x 480, JPEG)'}: "
        f"{result.photos['decode_s'] * 1e3:.2f} ms to read and decode, "
        f"{result.photos['prepare_s'] * 1e3:.2f} ms to warp and subtract the mean: not in what follows"
    )

    def job(task: str, batch: int, onnx: bool = False) -> benchmark.Job:
        made = benchmark.Job(variant, task, batch, args.crop, args.threads, args.gpu, args.weights)
        return benchmark.prepare(made, folder, onnx)

    for variant in args.variants:
        for task in args.tasks:
            engines = ["torchcaffe"]
            if task in ("test", "test1"):
                engines += [f"torchcaffe-{precision}" for precision in args.precision]
            engines += peers(task, args.gpu) if args.peers else []
            made = job(task, 1 if task in ("test1", "load") else args.batch, "onnxruntime" in engines)
            for row in benchmark.compete(made, engines, args.rounds):
                result.rows.append(row)
                show(result.rows, machine)
        if args.layers:
            result.layers[variant] = benchmark.layer_times(job("train", args.batch), args.rounds)
            show_layers(variant, result.layers[variant])
        for precision in args.precision:
            effect = benchmark.precision_effect(job("test1", 1), photos, precision)
            result.precision.append({"variant": variant, "precision": precision, **effect})
            print(
                f"{VARIANTS[variant].title}, {precision}: P(high) of {effect['photos']} photos moves by at most "
                f"{effect['greatest']:.1e}, {effect['mean']:.1e} in the mean"
            )


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)", info.read_text() if info.exists() else "", re.M)
    return found[1] if found else platform.processor() or platform.machine()


def show(rows: list[Timed], limits: Machine) -> None:
    """Print the newest row, with its ratio to torchcaffe's."""
    row = rows[-1]
    ours = next(r for r in reversed(rows) if r.engine == "torchcaffe")
    difference = "" if row.difference is None else f", differs by {row.difference:.1e}"
    share = ""
    if row.flops:
        share = (
            f", {row.flops / 1e9:.0f} GFLOP/s ({row.flops / limits.sgemm_flops:.0%} of sgemm), "
            f"weights at {row.weight_bytes_per_s / 1e9:.1f} GB/s "
            f"({row.weight_bytes_per_s / limits.copy_bytes_per_s:.0%} of copy)"
        )
    print(
        f"{VARIANTS[row.variant].title:24} {row.task:6} batch {row.batch:3} {row.engine:15} "
        f"{row.median_s * 1e3:9.1f} ms +-{row.spread * 100:3.0f}%  "
        f"ours/it {ours.median_s / row.median_s:.2f}  "
        f"{row.peak_memory_bytes / 1e6:6.0f} MB{share}{difference}",
        flush=True,
    )


def show_layers(variant: str, layers: list[dict]) -> None:
    """Print the layers that take 1% of the iteration or more, and the sums by type."""
    print(f"{VARIANTS[variant].title}, layer by layer: {'forward':>21} {'backward':>9} ms")
    times = {(layer["layer"], layer["type"]): np.array([layer["forward_s"], layer["backward_s"]]) for layer in layers}
    sums: dict[tuple[str, str], np.ndarray] = {}
    for (_, kind), spent in times.items():
        sums["all", kind] = sums.get(("all", kind), np.zeros(2)) + spent
    least = np.sum(list(times.values())) / 100
    shown = [item for item in times.items() if item[1].sum() >= least]
    for (name, kind), spent in shown + sorted(sums.items(), key=lambda item: -item[1].sum()):
        print("  {:30} {:15} {:9.2f} {:9.2f}".format(name, kind, *spent * 1e3))


def table4(result: Benchmark) -> None:
    """Print Table 4, the paper's columns beside ours."""
    iterations = TABLE1["ava1"].max_iter
    print(
        f"\nTable 4{'':18} paper: training, test a photo | here: {iterations:,} iterations of {BATCH}; a photo; in "
        "batches; memory of training"
    )
    for variant, found in efficiency(result.rows).items():
        _, days, seconds = VARIANTS[variant].table4
        here = [
            f"{found.days:.1f} days" if found.train else None,
            *(f"{value * 1e3:.1f} ms" if value else None for value in (found.one, found.many)),
            f"{found.train.peak_memory_bytes / 1e6:,.0f} MB at {found.train.batch}" if found.train else None,
        ]
        paper = "-" if days is None else f"{days} days, {seconds} s"
        print(f"{VARIANTS[variant].title:24} {paper:>20} | {', '.join(text or 'not run' for text in here)}")
    for line in result.ratios:
        paper = "" if line["paper"] is None else f" (paper: {line['paper']:.2f})"
        print(
            f"{VARIANTS[line['variant']].title} costs {line['ratio']:.2f}{paper} of {VARIANTS[line['of']].title}, "
            f"{line['task']}"
        )


def ratios(rows: list[Timed]) -> list[dict[str, Any]]:
    """The paper's claim: ILGNet costs about as much as 1/3 GoogLeNet, and at test time 0.37 of the full one."""
    found = {(r.variant, r.task): r.median_s for r in rows if r.engine == "torchcaffe"}
    made = []
    for of, (task, column) in product(("third", "full"), (("train", 1), ("test1", 2), ("test", 2))):
        if ("v1bn", task) in found and (of, task) in found:
            ours, others = (VARIANTS[name].table4[column] for name in ("v1bn", of))
            paper = ours / others if ours and others else None
            ratio = found["v1bn", task] / found[of, task]
            made.append({"variant": "v1bn", "of": of, "task": task, "paper": paper, "ratio": ratio})
    return made
