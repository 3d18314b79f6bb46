"""Makes what tests/test_layers_bvlc.py reads, with real Caffe (`make bvlc` first): python -m tests.bvlc.make_goldens

goldens/inputs/: images, LMDBs by convert_imageset, a mean by compute_image_mean, HDF5 files: what data layers read.
goldens/layers/TYPE.npz: every array a row's net gave, by real Caffe. goldens/layers/errors.json: why it refused a row.
goldens/layers/spread.json: real Caffe's distance from itself under another BLAS kernel, where it is not zero.
goldens/solvers/: the same for the runs, updates and rates of tests/bvlc/solvers.py (*.npz), snapshots by real Caffe
that it and we go on from (a folder each), and the log lines of its programs (*.log).
goldens/net_rules/: the structure and contents of the nets in tests/bvlc/net_rules.py."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from tests.bvlc import compare, layers, net_rules, real, run_caffe, solvers
from tests.bvlc.engines import Engine, EngineError

GOLDENS = Path(__file__).resolve().parent / "goldens"
HDF5 = """
import h5py, numpy as np, sys
rng = np.random.RandomState(5)
for name, rows in (("a", 4), ("b", 3)):
    with h5py.File(sys.argv[1] + "/" + name + ".h5", "w") as f:
        for top, values in (("t0", rng.standard_normal((rows, 3, 2, 4))), ("t1", rng.randint(0, 9, (rows, 1)))):
            f.create_dataset(top, data=values.astype(np.float32), track_times=False)
import caffe
matrix = rng.uniform(0, 2, (1, 1, 4, 4))
with open(sys.argv[1] + "/infogain_4.binaryproto", "wb") as f:
    f.write(caffe.io.array_to_blobproto(matrix).SerializeToString())
"""


def image(i: int, height: int, width: int) -> np.ndarray:
    """A smooth coloured picture with an edge in it, the same everywhere."""
    rng = np.random.RandomState(i)
    y, x = np.mgrid[:height, :width]
    channels = [127 + 60 * np.sin(x / rng.uniform(2, 6) + i) + 60 * np.cos(y / rng.uniform(2, 6)) for _ in range(3)]
    picture = np.stack(channels, -1) + 40 * (x > rng.randint(4, 12))[..., None] + rng.uniform(-8, 8, (height, width, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def make_files(folder: Path) -> None:
    """Everything the data layers of the table read."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    names = []
    for i in range(7):
        names.append(f"image_{i}.png")
        cv2.imwrite(str(folder / "images" / names[-1]), image(i, 20 + 2 * i, 24 - i))
    with tempfile.TemporaryDirectory() as temporary:
        listing = Path(temporary) / "list.txt"
        listing.write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
        kinds = (("lmdb", []), ("lmdb_gray", ["--gray"]), ("lmdb_encoded", ["--encoded", "--encode_type=png"]))
        for name, own in kinds:
            flags = [*own, "--resize_height=14", "--resize_width=17"]
            real.binary("convert_imageset", *flags, f"{folder}/images/", listing, folder / name)
    real.binary("compute_image_mean", folder / "lmdb", folder / "mean.binaryproto")
    real.python(["-c", HDF5, folder])


def reason(error: str) -> str:
    """An error without what differs from machine to machine."""
    return re.sub(r"0x[0-9a-f]+", "0x", error.replace(" (exit status -6)", ""))


def make_layers(folder: Path, types: list[str], spread: bool) -> None:
    """Goldens of the rows of `types` (all when empty); prints what is odd about real Caffe's answers."""
    folder.mkdir(parents=True, exist_ok=True)
    errors, spreads = ({}, {})
    if types:
        errors, spreads = (json.loads((folder / name).read_text()) for name in ("errors.json", "spread.json"))
    rows = [row for row in layers.ROWS if not types or row.type in types]
    arrays: dict[str, dict[str, np.ndarray]] = {row.type: {} for row in rows}
    with Engine("bvlc") as haswell, Engine("bvlc", compare.OTHER_CORETYPE) as other:
        for row in tqdm(rows, disable=not sys.stderr.isatty()):
            job = layers.case(row)
            errors.pop(row.id, None)
            spreads.pop(row.id, None)
            try:
                _, out = haswell.call("layer", job, fork=row.fails)
            except EngineError as error:
                errors[row.id] = reason(str(error))
                if not row.fails:
                    print(f"{row.id}: BVLC refuses: {error}")
                continue
            if row.fails:
                print(f"{row.id}: BVLC does not refuse")
            arrays[row.type].update({f"{row.name}/{key}": value for key, value in out.items()})
            arrays[row.type][f"{row.name}/job"] = np.array(json.dumps(job, sort_keys=True))
            if spread and not row.fails:
                _, again = other.call("layer", job)
                worst = compare.errors(again, out)
                if any(worst.values()):
                    spreads[row.id] = {kind: float(f"{value:.2g}") for kind, value in worst.items()}
    for type_, values in arrays.items():
        np.savez_compressed(folder / f"{type_}.npz", **values)
    for name, values in (("errors.json", errors), ("spread.json", spreads)):
        (folder / name).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


def make_solvers(folder: Path) -> None:
    """Goldens of the solvers, snapshots and logs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    errors, spreads = {}, {}
    groups: dict[str, dict[str, np.ndarray]] = {"training": {}, "updates": {}, "rates": {}, "resumed": {}}
    with Engine("bvlc") as haswell, Engine("bvlc", compare.OTHER_CORETYPE) as other:

        def record(group: str, name: str, op: str, job: dict) -> None:
            value, out = haswell.call(op, job)
            _, again = other.call(op, job)
            spreads[f"{group}/{name}"] = float(f"{compare.errors(again, out)['forward']:.2g}")
            groups[group].update({f"{name}/{key}": array for key, array in out.items()})
            groups[group][f"{name}/value"] = np.array(-1 if value is None else value)

        for name, job in solvers.TRAINING.items():
            record("training", name, "train", job)
        for name in solvers.UPDATES:
            record("updates", name, "updates", solvers.update_job(name))
        for name in solvers.RATES:
            record("rates", name, "rates", solvers.rate_job(name))
        for name in solvers.RESUMED:
            (folder / name).mkdir()
            haswell.call("train", solvers.snapshot_job(name, str(folder / name)))
            record("resumed", name, "train", solvers.resume_job(name, str(folder / name)))
        for name in solvers.REFUSED:
            try:
                haswell.call("train", solvers.refused_job(name), fork=True)
                print(f"{name}: BVLC does not refuse")
            except EngineError as error:
                errors[name] = reason(str(error))
    for group, values in groups.items():
        np.savez_compressed(folder / f"{group}.npz", **values)
    for name, values in (("errors.json", errors), ("spread.json", spreads)):
        (folder / name).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    for name, (command, _) in solvers.LOGS.items():
        with run_caffe.inside(run_caffe.write_files(solvers.log_files(name))) as work:
            for path in (folder / "sgd_momentum").iterdir():
                shutil.copy(path, work)
            done = real.binary("caffe", *command)
            (folder / f"{name}.log").write_text("\n".join(solvers.normalise(done.stderr)) + "\n")


def make_nets(folder: Path) -> None:
    """Goldens of the nets that show Caffe's rules."""
    folder.mkdir(exist_ok=True)
    arrays, values, errors = {}, {}, {}
    with Engine("bvlc") as engine:
        for name, job in net_rules.NETS.items():
            values[name], out = engine.call("net", job)
            arrays.update({f"{name}/{key}": array for key, array in out.items()})
        for name, job in net_rules.REFUSED.items():
            try:
                engine.call("net", job, fork=True)
                print(f"{name}: BVLC does not refuse")
            except EngineError as error:
                errors[name] = reason(str(error))
    np.savez_compressed(folder / "nets.npz", **arrays)
    for name, table in (("nets.json", values), ("errors.json", errors)):
        (folder / name).write_text(json.dumps(table, sort_keys=True, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", help="layer types to make again, `solvers`, `nets` (default: all)")
    parser.add_argument("--no-spread", action="store_true", help="leave out the second BLAS kernel")
    args = parser.parse_args(argv)
    if not args.types:
        make_files(layers.FIXTURES)
    types = [type_ for type_ in args.types if type_ not in ("solvers", "nets")]
    if types or not args.types:
        make_layers(GOLDENS / "layers", types, not args.no_spread)
    if not args.types or "solvers" in args.types:
        make_solvers(GOLDENS / "solvers")
    if not args.types or "nets" in args.types:
        make_nets(GOLDENS / "net_rules")
    for path in layers.FIXTURES.glob("*/lock.mdb"):
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
