"""Time the nets on this machine, beside the paper's Table 4 and (--peers) beside other engines."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from ilgnet import benchmark, bvlc
from prototxt.variants import VARIANTS
from solvers.table1 import TABLE1
from torchcaffe import files
from torchcaffe.errors import CaffeError, run_main

TABLE4 = [name for name, variant in VARIANTS.items() if variant.table4[1] is not None]


def peers(train: bool, gpu: int | None) -> list[str]:
    """The engines that can do the task here; those that cannot are named, not passed over."""
    wanted = ["bvlc", "pytorch"] if train else list(benchmark.PEERS)
    if gpu is not None:
        wanted = ["pytorch"]
    if "bvlc" in wanted and not bvlc.available():
        print(f"peer bvlc: not on this machine ({bvlc.HOW})")
        wanted.remove("bvlc")
    return wanted


def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(prog="benchmark.py", description=__doc__)
    p.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=TABLE4, help="default: Table 4's rows")
    p.add_argument(
        "--tasks",
        nargs="+",
        choices=["train", "test", "test1"],
        default=["train", "test", "test1"],
        help="train: an iteration; test: a batch; test1: one photo at a time",
    )
    p.add_argument("--batch", type=int, default=16, help="photos a batch (default 16)")
    p.add_argument("--crop", type=int, default=224)
    p.add_argument("--rounds", type=int, default=5, help="rounds, of which medians are taken (default 5)")
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    p.add_argument("--trunk", choices=["finetune", "frozen"], default="finetune")
    p.add_argument("--peers", action="store_true", help="also BVLC Caffe, OpenCV dnn, ONNX Runtime, plain PyTorch")
    p.add_argument("--gpu", type=int)
    p.add_argument("--out", type=Path, help="JSON file to write")
    args = p.parse_args(argv)
    if args.rounds < 1 or args.batch < 1 or args.threads < 1:
        raise CaffeError("--rounds, --batch and --threads must be 1 or more")
    limits = benchmark.machine_limits(args.threads, args.gpu)
    print(
        f"this machine: {limits['sgemm_flops'] / 1e9:.0f} GFLOP/s sgemm, "
        f"{limits['copy_bytes_per_s'] / 1e9:.1f} GB/s copy, "
        f"{args.threads} threads" + (f", GPU {args.gpu}" if args.gpu is not None else "")
    )
    rows = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for variant in args.variants:
            for task in args.tasks:
                train, batch = task == "train", 1 if task == "test1" else args.batch
                engines = ["torchcaffe"] + (peers(train, args.gpu) if args.peers else [])
                spec = benchmark.prepare(
                    variant,
                    batch,
                    args.crop,
                    train,
                    Path(folder),
                    args.threads,
                    args.gpu,
                    args.trunk,
                    "onnxruntime" in engines,
                )
                for timing in benchmark.compete(spec, engines, args.rounds, args.threads):
                    rows.append(
                        {"variant": variant, "task": task, "batch": batch, "trunk": args.trunk, **timing.as_dict()}
                    )
                    show(rows)
    table4(rows, args.batch)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(
            args.out,
            json.dumps(
                {
                    "machine": {
                        "cpu": platform.processor() or platform.machine(),
                        "threads": args.threads,
                        "gpu": args.gpu,
                        **limits,
                    },
                    "rows": rows,
                },
                indent=1,
            ).encode(),
        )
        print(f"wrote {args.out}")
    return 0


def show(rows: list[dict]) -> None:
    """One line for the newest row, with its ratio to torchcaffe's."""
    row = rows[-1]
    ours = next(r for r in reversed(rows) if r["engine"] == "torchcaffe")
    difference = "" if row["difference"] is None else f", differs by {row['difference']:.1e}"
    print(
        f"{VARIANTS[row['variant']].title:24} {row['task']:5} batch {row['batch']:3} {row['engine']:12} "
        f"{row['median_s'] * 1e3:9.1f} ms +-{row['spread'] * 100:3.0f}%  "
        f"ours/it {ours['median_s'] / row['median_s']:.2f}  "
        f"{row['peak_memory_bytes'] / 1e6:6.0f} MB{difference}",
        flush=True,
    )


def table4(rows: list[dict], batch: int) -> None:
    """Table 4: the paper's columns beside ours."""
    found = {(r["variant"], r["task"]): r["median_s"] for r in rows if r["engine"] == "torchcaffe"}
    iterations = TABLE1["ava1"].max_iter
    print(
        f"\nTable 4{'':18} paper: training, test a photo | here: {iterations:,} iterations of 48; a photo, batched"
    )
    for variant in dict.fromkeys(r["variant"] for r in rows):
        _, days, seconds = VARIANTS[variant].table4
        train, one, many = (found.get((variant, task)) for task in ("train", "test1", "test"))
        here = [
            "not run" if train is None else f"{train * 48 / batch * iterations / 86400:.1f} days",
            "not run" if one is None else f"{one * 1e3:.1f} ms",
            "not run" if many is None else f"{many / batch * 1e3:.1f} ms",
        ]
        paper = "-" if days is None else f"{days} days, {seconds} s"
        print(f"{VARIANTS[variant].title:24} {paper:>20} | {', '.join(here)}")


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
