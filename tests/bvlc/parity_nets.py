"""Sections of `make parity` on nets as their users know them: `nets`, `examples` and `released`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tests.bvlc import compare, example_nets, flips, released
from tests.bvlc.engines import Engine
from tests.bvlc.parity import Setting, Table, draw, make_net, photos, trio
from torchcaffe.formats.upgrade import read_net

RATE = 1e-6  # at which the released net trains: at Table 1's 1e-4 real Caffe itself is at NaN after 5 to 7 iterations


SETTLED = "tests.bvlc.flips:run_settled"


def walks(s: Setting, job: dict) -> tuple[dict, dict[str, Path], list[list], dict[str, list]]:
    """Record job's net under every engine, one process at a time: its structure, the folders, layer by layer's rows,
    and what is left of a gradient's error where the ties are BVLC's (flips.run_settled), for us and another kernel."""
    folders = {name: s.work / f"walk-{name}" for name in ("bvlc", "torch", *compare.OTHER_CORETYPES)}
    rows: list[list] = []
    settled: dict[str, list] = {}
    training = job["phase"] == "TRAIN"
    for name, folder in folders.items():
        with Engine("torch") if name == "torch" else Engine("bvlc", "Haswell" if name == "bvlc" else name) as engine:
            found, _ = engine.call("walk", {**job, "steps": name == "bvlc" and training, "out": str(folder)})
            if name == "bvlc":
                info = found
            of = {**job, "of": str(folders["bvlc"])}
            if training and name == "torch":
                rows, _ = engine.call("given", of)
            if training and name in ("torch", compare.OTHER_CORETYPE):
                settled[name], _ = engine.call(SETTLED, of)
    return info, folders, rows, settled


def distances(a: Path, b: Path, names: dict[str, str]) -> dict[str, float]:
    """The error of each recorded array of folder a against b; names: file stem -> what it is."""
    pairs = {what: [np.load(x / f"{stem}.npy", mmap_mode="r") for x in (a, b)] for stem, what in names.items()}
    return {what: compare.error(*pair) for what, pair in pairs.items()}


def all_together(a: Path, b: Path, names: dict[str, str]) -> float:
    """The error of all recorded arrays taken as one long vector."""
    difference = norm = 0.0
    for stem in names:
        x, y = (np.load(folder / f"{stem}.npy", mmap_mode="r") for folder in (a, b))
        size = float(np.linalg.norm(y))
        difference += (compare.error(x, y) * (size or 1.0)) ** 2
        norm += size**2
    return float(np.sqrt(difference / norm))


def flipped(net: Path, info: dict, folders: dict[str, Path]) -> int:
    """How many ReLUs and windows of max pooling decided otherwise here than in BVLC, from what the passes left in the
    blobs (a ReLU in place leaves its decision there). Ties given in a pass move what comes later, and so may turn
    fewer."""
    stems, count = {name: f"d{i}" for i, name in enumerate(info["blobs"])}, 0
    for layer in read_net(net).layer:
        if layer.name in info["layers"] and flips.decides(layer):
            ours, theirs = (np.load(folders[x] / f"{stems[layer.bottom[0]]}.npy") for x in ("torch", "bvlc"))
            count += int(np.count_nonzero(flips.decisions(layer, ours) != flips.decisions(layer, theirs)))
    return count


def end_to_end(
    table: Table, phase: str, net: Path, info: dict, folders: dict[str, Path], settled: dict[str, list]
) -> None:
    """Blobs and gradients of a whole pass, beside what BVLC's other kernels make of it."""
    blobs = {f"d{i}": name for i, name in enumerate(info["blobs"])}
    errors = distances(folders["torch"], folders["bvlc"], blobs)
    own = [distances(folders[kernel], folders["bvlc"], blobs) for kernel in compare.OTHER_CORETYPES]
    owns = {name: max(x[name] for x in own) for name in errors}
    # A single number that nearly cancels out (a loss near 0) is as far from itself in BVLC: then that is its limit.
    ok = all(error <= max(compare.FORWARD, 3 * owns[name]) for name, error in errors.items())
    worst = max(errors, key=errors.get)
    median = float(np.median(list(errors.values())))
    beyond = [name for name, error in errors.items() if error > compare.FORWARD]
    table.add(f"{phase}: {len(blobs)} blobs", errors[worst], worst, median, max(owns.values()), compare.FORWARD, ok=ok)
    for name in beyond:
        limit = 3 * owns[name]
        table.add(f"{phase}: past the limit", errors[name], name, "", owns[name], limit, ok=errors[name] <= limit)
    if phase == "TEST":
        return
    rows, turned, left, move = settled["torch"]
    errors = dict(map(tuple, rows))
    worst = max(errors, key=errors.get)
    own_rows, own_turned, *_ = settled[compare.OTHER_CORETYPE]
    greatest = max(error for _, error in own_rows)
    limit = max(compare.PARAM, 3 * greatest)
    ok = proven = errors[worst] <= limit and left == 0
    median = float(np.median(list(errors.values())))
    table.add(f"{len(errors)} parameter diffs, BVLC's ties", errors[worst], worst, median, greatest, limit, ok=ok)
    where = ", ".join(f"{name} {count}" for name, count in turned.items()) or "-"
    count = f"{sum(turned.values())} turned, {left} left"
    table.add(
        "decisions that BVLC's ties turn",
        count,
        where,
        move,
        f"{sum(own_turned.values())} turned",
        "0 left",
        ok=left == 0,
    )
    place = {name: i for i, name in enumerate(info["layers"])}
    parameters = {f"p{place[name]}_{k}": f"{name} {k}" for name, k in info["params"]}
    errors = distances(folders["torch"], folders["bvlc"], parameters)
    own = [distances(folders[kernel], folders["bvlc"], parameters) for kernel in compare.OTHER_CORETYPES]
    greatest = max(max(x.values()) for x in own)
    worst = max(errors, key=errors.get)
    median = float(np.median(list(errors.values())))
    whole = all_together(folders["torch"], folders["bvlc"], parameters)
    wholes = max(all_together(folders[kernel], folders["bvlc"], parameters) for kernel in compare.OTHER_CORETYPES)
    for what, error, of, middle, unit in (
        (f"{len(parameters)} parameter diffs", errors[worst], worst, median, greatest),
        ("all parameter diffs as one vector", whole, "", "", wholes),
    ):
        limit = max(compare.PARAM, 3 * unit)
        # Past it only where flips, and nothing else, are to blame: without them all diffs agree (above).
        flips_here = flipped(net, info, folders) if error > limit and proven else 0
        table.add(
            what + (f": {flips_here} flips" if flips_here else ""),
            error,
            of,
            middle,
            unit,
            limit,
            ok=error <= limit or flips_here > 0,
        )


def net_tables(s: Setting) -> list[Table]:
    """Per net: layer by layer on BVLC's numbers, and the whole net end to end."""
    tables = []
    for name in s.variants:
        print(name, file=sys.stderr, flush=True)
        net, weights = make_net(s, name, s.batch, still=False, crop=s.crop)
        job = {"net": str(net), "weights": str(weights), "seed": 1 + s.seed}
        whole = Table(
            f"{name}, end to end", ["what", "greatest error", "of", "median error", "BVLC's own greatest", "limit"]
        )
        whole.notes.append(
            "BVLC's ties: where a ReLU's input or two values of a max-pool window are so near that a rounding decides "
            "(tests/bvlc/flips.py), the engine is given BVLC's values, so that both decide alike; what is left is "
            "rounding. Without them, a flip turns single gradients."
        )
        for phase in ("TEST", "TRAIN"):
            info, folders, rows, settled = walks(s, {**job, "phase": phase})
            end_to_end(whole, phase, net, info, folders, settled)
            for folder in folders.values():
                shutil.rmtree(folder)
        table = Table(f"{name}, layer by layer", ["layer", "type", "forward", "bottom diffs", "parameter diffs"])
        table.notes.append(
            f"Each layer of the training net (batch {s.batch}, random crop, mirror, dropout) on the bottoms and top "
            f"diffs that BVLC computed. Limits: {compare.FORWARD:g}, {compare.BOTTOM:g}, {compare.PARAM:g}."
        )
        for layer, type_, *errors in rows:
            limits = (compare.FORWARD, compare.BOTTOM, compare.PARAM)
            ok = all(error is None or error <= limit for error, limit in zip(errors, limits))
            table.add(layer, type_, *["-" if error is None else error for error in errors], ok=ok)
        tables += [table, whole]
    return tables


def example_table(s: Setting) -> Table:
    """The nets of tests/bvlc/example_nets.py, one iteration each from a random_seed."""
    table = Table(
        "Example nets, one training iteration",
        ["net", "parameters", "filled alike", "losses", "updates", "median", "BVLC's own", "layer by layer"],
    )
    table.notes.append(
        f"Limits: filled bit for bit, losses {compare.FORWARD:g}, updates {compare.PARAM:g}. Where a ReLU or max-pool "
        "flip makes a greater difference, each layer's gradients on BVLC's own bottoms and top diffs are within it."
    )
    with trio() as (torch, haswell, other):
        for name in tqdm(example_nets.EXAMPLES, "examples", disable=not sys.stderr.isatty()):
            job = example_nets.job(name, seed=1 + s.seed)
            wanted_filled, wanted = haswell.call(example_nets.TRAIN_ONCE, job)
            filled, got = torch.call(example_nets.TRAIN_ONCE, job)
            _, again = other.call(example_nets.TRAIN_ONCE, job)
            distances = {key: compare.error(got[key], wanted[key]) for key in wanted}
            losses = max(error for key, error in distances.items() if key.startswith("out "))
            updates = [error for key, error in distances.items() if key.endswith(".diff")]
            own = compare.errors(again, wanted)["bottom"]
            given = layer_by_layer(s, name, job, torch, haswell) if max(updates) > compare.PARAM else ""
            count = sum(array.size for key, array in wanted.items() if key.endswith(".diff"))
            same = filled == wanted_filled and got.keys() == wanted.keys()
            ok = same and losses <= compare.FORWARD and (given == "" or given <= compare.PARAM)
            cells = (max(updates), float(np.median(updates)), own, given)
            table.add(name, f"{count:,}", "yes" if same else "no", losses, *cells, ok=ok)
    return table


def layer_by_layer(s: Setting, name: str, job: dict, torch: Engine, bvlc: Engine) -> float:
    """The greatest error of any layer's outputs and gradients on what BVLC computed before and behind it."""
    net, folder = s.work / f"{name}.prototxt", s.work / f"walk-{name}"
    net.write_text(job["files"]["net.prototxt"])
    walk = {"net": str(net), "phase": "TRAIN", "seed": job["seed"], "inputs": job["inputs"]}
    bvlc.call("walk", {**walk, "steps": True, "out": str(folder)})
    rows, _ = torch.call("given", {**walk, "of": str(folder)})
    shutil.rmtree(folder)
    return max(error for _, _, *errors in rows for error in errors if error is not None)


def loss_error(ours: float, theirs: float) -> float:
    """Relative, but for losses so near 0 that a probability near 1, rounded to float32, holds no more of their digits:
    there the distance is that from a loss of which 1e-5 is a float's step at 1."""
    return abs(ours - theirs) / max(abs(theirs), float(np.finfo(np.float32).eps) / 1e-5)


def released_weights(s: Setting, net: Path) -> Path:
    """Starting weights by surgery from GoogLeNet's with --shared, else as filled."""
    import contextlib
    import io

    import torchcaffe
    from ilgnet.cli import surgery

    weights = s.work / "released.caffemodel"
    if s.shared:
        source = str(s.shared / "data" / "bvlc_googlenet.caffemodel")
        with contextlib.redirect_stdout(io.StringIO()):  # its table of 64 layers
            surgery.main(["--weights", source, "--net", str(net), "--out", str(weights), "--seed", "1"])
    else:
        torchcaffe.set_random_seed(1)
        torchcaffe.Net(str(net), torchcaffe.TRAIN).save(str(weights))
    return weights


def released_table(s: Setting) -> Table:
    """The released v1 in lockstep with BVLC, and free-running curves under three engines."""
    table = Table(
        f"Released set-up (V1 prototxts, crop 227, mirror, dropout 0.7), {s.iterations} iterations, batch {s.batch}",
        ["iteration", "BVLC's loss", "loss", "data", "masks", "gradients", "median", "update", "weights"],
    )
    table.notes.append(
        f"base_lr {RATE:g}. Before each iteration, weights and history are BVLC's, by its own snapshot. Data and "
        f"dropout masks bit for bit, losses {compare.FORWARD:g}; weights, on BVLC's gradients, 1e-6 (of themselves, or "
        "of the update where that is greater); updates, which are sums that may nearly cancel, 1e-5. "
        "Gradients of all layers end to end, which ReLU and max-pool flips disturb: greatest and median. "
        "Free-running losses are in released.png."
    )
    folders = {name: s.work / f"released-{name}" for name in ("BVLC", "torchcaffe", "BVLC, other kernel")}
    for folder in folders.values():
        released.setup(folder, photos(s), s.batch, RATE, 1 + s.seed)
    weights = str(released_weights(s, folders["BVLC"] / "train.prototxt"))
    gradients = s.work / "gradients"
    gradients.mkdir()
    curves: dict[str, list[float]] = {"BVLC": []}
    # Each solver holds two gigabytes: never more than two at a time.
    with Engine("bvlc") as bvlc, Engine("torch") as torch:
        opening = {"folder": str(folders["BVLC"]), "weights": weights, "gradients": str(gradients)}
        bvlc.call(released.BEGIN, opening)
        torch.call(released.BEGIN, {"folder": str(folders["torchcaffe"]), "weights": weights})
        for i in tqdm(range(s.iterations), "released", disable=not sys.stderr.isatty()):
            theirs, _ = bvlc.call(released.ITERATE, {"snapshot": True})
            state = str(folders["BVLC"] / f"ilgnet_iter_{i + 1}.solverstate")
            ours, _ = torch.call(released.FOLLOW, {"gradients": str(gradients), "state": state})
            for path in folders["BVLC"].glob("ilgnet_iter_*"):
                path.unlink()
            loss = loss_error(ours["loss"], theirs["loss"])
            masks = [key for key in theirs if key.startswith("mask")]
            same = sum(ours[key] == theirs[key] for key in masks)
            data = all(ours[key] == theirs[key] for key in ("data", "label"))
            ok = data and same == len(masks) == 4 and loss <= compare.FORWARD and ours["median"] <= 1e-2
            ok = ok and ours["update"] <= 1e-5 and ours["weights"] <= 1e-6
            errors = (ours["gradient"], ours["median"], ours["update"], ours["weights"])
            equal = f"{same} of {len(masks)} equal"
            table.add(i, theirs["loss"], loss, "equal" if data else "differ", equal, *errors, ok=ok)
            curves["BVLC"].append(theirs["loss"])
            (s.out / "released.json").write_text(json.dumps(curves, indent=1) + "\n")
    shutil.rmtree(gradients)
    for name in ("BVLC, other kernel", "torchcaffe"):
        with Engine("torch") if name == "torchcaffe" else Engine("bvlc", compare.OTHER_CORETYPE) as engine:
            engine.call(released.BEGIN, {"folder": str(folders[name]), "weights": weights})
            curves[name] = [engine.call(released.ITERATE, {})[0]["loss"] for _ in range(s.iterations)]
    (s.out / "released.json").write_text(json.dumps(curves, indent=1) + "\n")
    draw(curves, s.out / "released.png", f"released v1, free-running, base_lr {RATE:g}, batch {s.batch}")
    return table
