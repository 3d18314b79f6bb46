"""AVA's whole number of photos through data_prep/prepare.py, on made-up photos: time, memory, disk, and kill -9.

    python -m tests.full_size --work FOLDER [--rows 255529] [--encoded jpeg] [--kills 3]

Makes FOLDER/ava (AVA.txt with as many rows; small JPEGs of --sources pictures, each under many names), prepares AVA1
from it without a break, then once more with --kills kills at random moments, and compares checksums. Prints one line a
figure, and writes them to FOLDER/figures.json. Not part of `make test`: raw records of the whole set take 50 GB."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from torchcaffe.base.errors import CaffeError, run_main

ROOT = Path(__file__).resolve().parents[1]
ROWS = 255_529  # AVA's
SIZE = (240, 320)


def make_ava(folder: Path, rows: int, sources: int, seed: int) -> None:
    """AVA.txt of `rows` photos with bell-shaped votes around 5.4, and images/: hard links to `sources` JPEGs."""
    images, pool = folder / "images", folder / "pool"
    shutil.rmtree(folder, ignore_errors=True)
    images.mkdir(parents=True)
    pool.mkdir()
    rng = np.random.RandomState(seed)
    for i in range(sources):
        coarse = rng.randint(0, 256, (6, 8, 3), np.uint8)
        photo = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
        photo = np.clip(photo + rng.randint(-12, 13, photo.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(pool / f"{i}.jpg"), photo)
    with open(folder / "AVA.txt", "w") as ratings:
        for row in range(rows):
            weights = np.exp(-0.5 * ((np.arange(1, 11) - rng.normal(5.4, 0.7)) / 1.4) ** 2)
            votes = rng.multinomial(200, weights / weights.sum())
            ratings.write(f"{row + 1} {row + 1} {' '.join(map(str, votes))} 0 0 1\n")
            os.link(pool / f"{row % sources}.jpg", images / f"{row + 1}.jpg")


def peak_memory(pid: int) -> tuple[int, int]:
    """Of a running process, in bytes: the most it ever held, and what of its present memory is its own (no file's)."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return tuple(1024 * int(status[name].split()[0]) for name in ("VmHWM", "RssAnon"))
    except (OSError, KeyError):  # it has ended
        return 0, 0


def prepare(ava: Path, out: Path, encoded: str | None, kill_after: float | None = None) -> dict:
    """Run the program to its end, or kill it after some seconds. Returns seconds, memory and the exit status."""
    command = [sys.executable, str(ROOT / "data_prep" / "prepare.py"), str(ava), "--out", str(out)]
    process = subprocess.Popen([*command, *(["--encoded", encoded] if encoded else [])], stdout=subprocess.DEVNULL)
    start, most, own = time.monotonic(), 0, 0
    while process.poll() is None:
        held, anonymous = peak_memory(process.pid)
        most, own = max(most, held), max(own, anonymous)
        if kill_after is not None and time.monotonic() - start > kill_after:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    return {"seconds": time.monotonic() - start, "peak_bytes": most, "own_bytes": own, "status": process.returncode}


def checksums(out: Path) -> dict:
    """What the manifest says of the files."""
    manifest = json.loads((out / "manifest.json").read_text())
    found = {name: manifest[name]["data_mdb_sha256"] for name in ("train", "val")}
    return {**found, **manifest["mean"]["sha256"]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder with room; what it makes there stays")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--sources", type=int, default=500, help="different pictures")
    parser.add_argument("--encoded", choices=("jpeg", "png"), help="of prepare.py (default: raw records)")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    ava, out = args.work / "ava", args.work / "data"
    make_ava(ava, args.rows, args.sources, args.seed)
    shutil.rmtree(out, ignore_errors=True)
    whole = prepare(ava, out, args.encoded)
    if whole["status"]:
        raise CaffeError(f"prepare.py ended with status {whole['status']}")
    figures = {"rows": args.rows, "encoded": args.encoded, "cpus": os.cpu_count(), "photo": list(SIZE), **whole}
    figures["rows_per_second"] = args.rows / whole["seconds"]
    figures["disk_bytes"] = sum(512 * path.stat().st_blocks for path in out.rglob("*.mdb"))
    wanted = checksums(out)
    print(json.dumps(figures), flush=True)
    shutil.rmtree(out)  # two of them might not fit
    draw, figures["killed_after"] = random.Random(args.seed), []
    for _ in range(args.kills):
        seconds = draw.uniform(0.05, 0.9) * whole["seconds"] / max(1, args.kills)
        if prepare(ava, out, args.encoded, seconds)["status"] == -signal.SIGKILL:
            figures["killed_after"].append(round(seconds, 1))
    resumed = prepare(ava, out, args.encoded)
    figures["last_run_seconds"], figures["same_bytes"] = resumed["seconds"], checksums(out) == wanted
    (args.work / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    return 0 if figures["same_bytes"] else 1


if __name__ == "__main__":
    run_main(main)
