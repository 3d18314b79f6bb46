"""Both engines live on the same nets, files and seeds: `make parity`, or python -m tests.bvlc.parity [SECTION ...]

layers    every row of tests/bvlc/layers.py with sizes drawn anew from --seed, --repeats times
drawn     --examples configurations of each type of tests/bvlc/drawn.py, options and shapes drawn by hypothesis
solvers   every solver, update and policy of tests/bvlc/solvers.py with a new random_seed; snapshots both ways
nets      every variant and way of gen_net's (--variants): layer by layer on BVLC's own numbers, and end to end
training  v1, --iterations SGD iterations on the same LMDB: losses and weights
lockstep  v1bn, as many, weights, statistics and history set to BVLC's before each; free-running curves beside it
examples  LeNet, CaffeNet, GoogLeNet, ResNet blocks, FCN, a captioner: one training iteration each
released  v1 in its released files' format and settings, --iterations, in lockstep; free-running curves beside it

With --shared DIR (real GoogLeNet weights in DIR/data/bvlc_googlenet.caffemodel, photographs in DIR/data/photos) the
nets start from those; without, from their fillers, on rendered pictures. Writes parity.md, parity.json and curves.png
into --out. Exit status 1 where a limit is passed. The unit is BVLC's own distance from itself under another kernel."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import hypothesis
import numpy as np
from tqdm import tqdm

from ilgnet.nets.variants import VARIANTS
from ilgnet.run import bvlc
from tests.bvlc import compare, drawn, generated, layers, real, solvers
from tests.bvlc.engines import Engine, EngineError
from torchcaffe.base.errors import CaffeError, run_main
from torchcaffe.formats.caffemodel import read_caffemodel
from torchcaffe.formats.solverstate import read_solverstate
from torchcaffe.proto import caffe_pb2

SHARED = Path(os.environ.get("ILGNET_SHARED", Path(__file__).resolve().parents[3] / "shared"))
SECTIONS = ("layers", "drawn", "solvers", "nets", "training", "lockstep", "examples", "released")


@dataclass
class Table:
    """Rows of numbers with a verdict each; `ok` is the last column."""

    title: str
    header: list[str]
    rows: list[list] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells, ok: bool = True) -> None:
        self.rows.append([*cells, "ok" if ok else "FAILS"])

    def failures(self) -> list[list]:
        return [row for row in self.rows if row[-1] != "ok"]

    def markdown(self) -> str:
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return f"## {self.title}\n{notes}\n{compare.markdown([*self.header, 'verdict'], self.rows)}"


@dataclass
class Setting:
    """What every section gets."""

    seed: int
    repeats: int
    examples: int
    iterations: int
    batch: int
    crop: int
    base_lr: float
    variants: list[str]
    types: list[str]
    shared: Path | None
    out: Path
    work: Path


def attempt(engine: Engine, op: str, job: dict, fork: bool = False) -> tuple[object, dict, str]:
    """What an engine gives for a job: value, arrays, and why it refused (empty: it did not)."""
    try:
        return (*engine.call(op, job, fork=fork), "")
    except EngineError as error:
        return None, {}, str(error)


@contextlib.contextmanager
def trio():
    """torchcaffe, BVLC, and BVLC under another BLAS kernel."""
    with Engine("torch") as torch, Engine("bvlc") as haswell, Engine("bvlc", compare.OTHER_CORETYPE) as other:
        yield torch, haswell, other


def shapes_of(job: dict) -> str:
    return " ".join("x".join(map(str, shape)) or "scalar" for _, _, shape in job["bottoms"]) or "-"


def layer_table(s: Setting) -> Table:
    """One row a configuration: the errors of three kinds, and BVLC's own greatest."""
    table = Table(
        "Layers", ["type", "configuration", "shapes", "forward", "bottom diffs", "parameter diffs", "BVLC's own"]
    )
    limits = {"forward": compare.FORWARD, "bottom": compare.BOTTOM, "param": compare.PARAM}
    rows = [row for row in layers.ROWS if not s.types or row.type in s.types]
    with trio() as (torch, haswell, other):
        for row in tqdm(rows, "layers", disable=not sys.stderr.isatty()):
            for repeat in range(1 if row.fails else s.repeats):
                job = layers.case(row, s.seed + repeat)
                _, wanted, refusal = attempt(haswell, "layer", job, fork=row.fails)
                _, got, ours = attempt(torch, "layer", job)
                if refusal or row.fails:
                    ok = bool(refusal) and (bool(ours) or row.may_work)
                    reason = f"BVLC: {refusal or 'accepts it'}"
                    table.add(
                        row.type, row.name, shapes_of(job), "refused" if ours else "computed", reason, "", "", ok=ok
                    )
                    continue
                if ours:
                    table.add(row.type, row.name, shapes_of(job), f"refused: {ours}", "", "", "", ok=False)
                    continue
                _, again, _ = attempt(other, "layer", job)
                errors, own = compare.errors(got, wanted), compare.errors(again, wanted)
                ok = all(errors[kind] <= max(limit, 3 * own[kind]) for kind, limit in limits.items())
                table.add(row.type, row.name, shapes_of(job), *errors.values(), max(own.values()), ok=ok)
    types = {row[0] for row in table.rows}
    table.notes.append(
        f"{len(table.rows)} configurations of {len(types)} layer types, sizes drawn from seed {s.seed}. Limits: "
        f"forward and bottom diffs {compare.FORWARD:g}, parameter diffs {compare.PARAM:g}."
    )
    return table


def drawn_table(s: Setting) -> Table:
    """One row a type: how many drawn configurations both compute and both refuse, and the greatest errors; or the
    smallest configuration that hypothesis finds to differ."""
    table = Table(
        "Drawn layers",
        ["type", "computed", "refused", "forward", "bottom diffs", "parameter diffs", "smallest that differs"],
    )
    kinds = [kind for kind in drawn.STRATEGIES if not s.types or kind in s.types]
    options = hypothesis.settings(
        max_examples=s.examples, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    with trio() as engines:
        for kind in tqdm(kinds, "drawn layers", disable=not sys.stderr.isatty()):
            found: dict[str, dict[str, float]] = {}  # of each configuration that both compute
            refused: set[str] = set()

            def agrees(job: dict) -> None:
                compare_drawn(job, engines, found, refused)  # noqa: B023 - called within this turn

            difference = ""
            try:
                hypothesis.seed(s.seed)(options(hypothesis.given(drawn.configurations(kind))(agrees)))()
            except AssertionError as error:
                difference = str(error)
            worst = [
                max((errors[what] for errors in found.values()), default=0.0) for what in ("forward", "bottom", "param")
            ]
            table.add(kind, len(found), len(refused), *worst, difference, ok=not difference and bool(found))
    return table


def compare_drawn(job: dict, engines: tuple, found: dict[str, dict[str, float]], refused: set[str]) -> None:
    """Raise AssertionError where the engines differ in a drawn configuration; else note it under found or refused."""
    torch, haswell, other = engines
    text = f"{job['proto']}{job['phase']} {job['bottoms']} seed {job['seed']} {job['passes']} pass(es)"
    _, wanted, refusal = attempt(haswell, "layer", job, fork=True)
    _, got, ours = attempt(torch, "layer", job)
    assert bool(refusal) == bool(ours), f"{text}: BVLC: {refusal or 'computes'}; we: {ours or 'compute'}"
    if refusal:
        refused.add(text)
        return
    found[text] = errors = compare.errors(got, wanted)
    limits = {"forward": compare.FORWARD, "bottom": compare.BOTTOM, "param": compare.PARAM}
    if any(errors[what] > limit for what, limit in limits.items()):
        own = compare.errors(attempt(other, "layer", job, fork=True)[1], wanted)
        far = [what for what, limit in limits.items() if errors[what] > max(limit, 3 * own[what])]
        assert not far, f"{text}:\n{compare.explain(got, wanted)}"


def solver_table(s: Setting) -> Table:
    """Training runs from one random_seed, 100 updates on given gradients, rates, snapshots both ways."""
    table = Table("Solvers", ["what", "name", "greatest error", "BVLC's own", "limit"])

    def seeded(job: dict) -> dict:
        return {
            **job,
            "solver": re.sub(r"random_seed: \d+", f"random_seed: {1 + s.seed}", job["solver"]),
            "seed": s.seed,
        }

    with trio() as (torch, haswell, other):

        def check(what: str, name: str, op: str, job: dict, limit: float) -> None:
            value, wanted, refusal = attempt(haswell, op, seeded(job))
            mine, got, ours = attempt(torch, op, seeded(job))
            _, again, _ = attempt(other, op, seeded(job))
            if refusal or ours:
                table.add(what, name, f"refused: {ours or 'only by BVLC: ' + refusal}", "", limit, ok=False)
                return
            error, own = (compare.errors(x, wanted)["forward"] for x in (got, again))
            table.add(what, name, error, own, limit, ok=mine == value and error <= max(limit, 3 * own))

        for name, job in solvers.TRAINING.items():
            check("training", name, "train", job, 1e-4)
        for name in solvers.UPDATES:
            check("100 updates on given gradients", name, "updates", solvers.update_job(name), 1e-6)
        for name in solvers.RATES:
            check("1,000 rates", name, "rates", solvers.rate_job(name), 1e-6)
        for name in solvers.RESUMED:
            folders = {}
            for who, engine in (("BVLC's", haswell), ("our", torch)):
                folders[who] = s.work / f"{name}-{who[:3]}"
                folders[who].mkdir()
                attempt(engine, "train", solvers.snapshot_job(name, str(folders[who])))
                for extra in folders[who].glob("*.resume.npz"):  # with it we go on behind the last record, not as BVLC
                    extra.unlink()
            _, wanted, _ = attempt(haswell, "train", solvers.resume_job(name, str(folders["BVLC's"])))
            for who, by, engine in (("BVLC's", "us", torch), ("our", "BVLC", haswell), ("our", "us", torch)):
                _, got, refusal = attempt(engine, "train", solvers.resume_job(name, str(folders[who])))
                error = compare.errors(got, wanted)["forward"] if not refusal else float("inf")
                table.add(f"{who} snapshot continued by {by} {refusal}", name, error, "", 1e-4, ok=error <= 1e-4)
        for name in solvers.REFUSED:
            _, _, refusal = attempt(haswell, "train", solvers.refused_job(name), fork=True)
            _, _, ours = attempt(torch, "train", solvers.refused_job(name))
            table.add("refused", name, refusal, "", "", ok=bool(refusal) and bool(ours))
    return table


# ---- whole nets ------------------------------------------------------------------------------------------------------
def photos(s: Setting, count: int = 64) -> Path:
    """An LMDB and mean of `count` photographs (real with --shared, else rendered), by BVLC's own programs."""
    folder = s.work / "data"
    if (folder / "mean.binaryproto").is_file():
        return folder
    images = folder / "images"
    images.mkdir(parents=True)
    names: list[str] = []
    if s.shared:
        source = s.shared / "data" / "photos"
        names = sorted(p.name for p in source.iterdir() if p.suffix.lower() in (".jpg", ".png"))[:count]
    else:
        import cv2

        rng = np.random.RandomState(s.seed)
        source = images
        for i in range(count):  # smooth colour fields: what matters is that values look like a photo's
            small = rng.randint(0, 256, (9, 12, 3)).astype(np.uint8)
            picture = cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(images / f"{i:03d}.png"), picture)
            names.append(f"{i:03d}.png")
    (folder / "list.txt").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(names)))
    size = ["--resize_height=256", "--resize_width=256"]
    for lmdb in ("train_lmdb", "val_lmdb"):
        real.binary("convert_imageset", *size, f"{source}/", folder / "list.txt", folder / lmdb)
    real.binary("compute_image_mean", folder / "train_lmdb", folder / "mean.binaryproto")
    return folder


def tool(command: list[str]) -> None:
    """Run one of tools/ in a process of its own, which gives its memory back."""
    path = Path(__file__).resolve().parents[2] / "tools" / command[0]
    done = subprocess.run([sys.executable, str(path), *command[1:]], capture_output=True, text=True)
    if done.returncode:
        raise CaffeError(f"{command[0]}: {done.stderr.strip().splitlines()[-1]}")


def make_net(s: Setting, name: str, batch: int, still: bool, crop: int = 224) -> tuple[Path, Path]:
    """train_val.prototxt and starting weights of a net of generated.NETS. `still`: centre crop, no mirror, no dropout.

    Weights: GoogLeNet's by surgery, calibrated; a merged net's folded from its variant's; drawn where none fit."""
    data, choice = photos(s), generated.NETS[name]
    folder = s.work / f"{name}-{batch}{'-still' if still else ''}"
    net, weights = folder / "train_val.prototxt", s.work / f"{name}.caffemodel"
    ways = ["--trunk", "frozen"] if choice.trunk == "frozen" else []
    ways += ["--merge-bn"] if choice.merge_bn else ["--spp"] if choice.spp else []
    if not net.is_file():
        crop = max(crop, VARIANTS[choice.variant].smallest)
        words = ["--variant", choice.variant, *ways, "--crop", str(crop), "--batch-size", str(batch)]
        tool(["gen_net.py", *words, "--source", str(data), "--out", str(folder)])
        if still:
            text = net.read_text().replace("mirror: true", "mirror: false")
            text = text.replace("dropout_ratio: 0.7", "dropout_ratio: 0")
            net.write_text(text.replace('type: "Data"', 'type: "Data" phase: TEST', 1))
    if weights.is_file():
        return net, weights
    if choice.merge_bn:
        whole, unmerged = make_net(s, choice.variant, batch, still, crop)
        words = ["--net", str(whole.parent / "deploy.prototxt"), "--weights", str(unmerged)]
        tool(["merge_bn.py", *words, "--out-net", str(s.work / "merged.prototxt"), "--out", str(weights)])
    elif s.shared and choice.variant not in ("v3", "v4"):  # for which no public weights are there
        source = str(s.shared / "data" / "bvlc_googlenet.caffemodel")
        calibrate = ["--calibrate", str(data / "train_lmdb")] if VARIANTS[choice.variant].batch_norm else []
        words = ["--weights", source, "--net", str(net), "--out", str(weights), "--seed", "1", *calibrate]
        tool(["surgery.py", *words])
    else:
        with Engine("torch") as engine:
            engine.call("tests.bvlc.whole_nets:save_drawn", {"net": str(net), "seed": 1, "weights": str(weights)})
    return net, weights


def solver_file(s: Setting, net: Path, name: str, base_lr: float) -> Path:
    """A solver of Table 1's kind for `net`, with snapshots beside the other files."""
    path = s.work / f"{name}.prototxt"
    path.write_text(
        f'net: "{net}" base_lr: {base_lr} lr_policy: "step" stepsize: 20 gamma: 0.96\n'
        "momentum: 0.9 weight_decay: 0.0002 "
        f'max_iter: 1000000 random_seed: {1 + s.seed} snapshot_prefix: "{s.work / name}" solver_mode: CPU display: 0\n'
        "test_iter: 1 test_interval: 1000000 test_initialization: false\n"
    )
    return path


LOSS = "loss1/loss"


def model_arrays(prefix: str) -> dict[str, np.ndarray]:
    """The blobs of prefix.caffemodel by "layer/number", as views of the mapped file."""
    layers_ = read_caffemodel(Path(prefix + ".caffemodel"))
    return {f"{layer.name}/{i}": blob for layer in layers_ for i, blob in enumerate(layer.blobs)}


def worst_of(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """The greatest error of a's arrays against b's; inf where the names differ."""
    return max(compare.error(a[key], b[key]) for key in b) if a.keys() == b.keys() else float("inf")


def histories(prefix: str) -> dict[str, np.ndarray]:
    """The history of prefix.solverstate by its place, as views of the mapped file."""
    return {str(i): h for i, h in enumerate(read_solverstate(Path(prefix + ".solverstate")).history)}


def training_table(s: Setting) -> Table:
    """v1 as released but still (centre crop, no dropout), free-running at a rate at which it cannot drift."""
    table = Table(f"v1, {s.iterations} SGD iterations at base_lr 1e-7", ["what", "error", "BVLC's own", "limit"])
    net, weights = make_net(s, "v1", s.batch, still=True)
    losses, prefixes = [], []
    with trio() as engines:
        for number, engine in enumerate(engines):
            path = solver_file(s, net, f"training-{number}", 1e-7)
            engine.call("solver", {"do": "open", "solver": str(path), "weights": str(weights)})
            steps = [engine.call("solver", {"do": "step", "blobs": [LOSS]})[0][0] for _ in range(s.iterations)]
            losses.append(np.array(steps))
            engine.call("solver", {"do": "snapshot"})
            engine.call("solver", {"do": "close"})
            prefixes.append(str(s.work / f"training-{number}_iter_{s.iterations}"))
    error, own = (compare.error(losses[i], losses[1]) for i in (0, 2))  # a single one may be 0 in both
    table.add("losses", error, own, 1e-4, ok=error <= 1e-4)
    error, own = (worst_of(model_arrays(prefixes[i]), model_arrays(prefixes[1])) for i in (0, 2))
    table.add("weights", error, own, 1e-4, ok=error <= 1e-4)
    error, own = (worst_of(histories(prefixes[i]), histories(prefixes[1])) for i in (0, 2))
    limit = max(compare.PARAM, 3 * own)
    table.add("momentum", error, own, limit, ok=error <= limit)
    for path in s.work.glob("training-*_iter_*"):
        path.unlink()
    return table


def soften(weights: Path) -> None:
    """Divide the classifier's weights in a caffemodel by 100."""
    param = caffe_pb2.NetParameter()
    param.ParseFromString(weights.read_bytes())
    (layer,) = (layer for layer in param.layer if layer.name == "loss1/classifier_cjy")
    values = np.array(layer.blobs[0].data, np.float32) / np.float32(100)
    layer.blobs[0].data[:] = values.tolist()
    weights.write_bytes(param.SerializeToString())


def lockstep_table(s: Setting) -> Table:
    """v1bn: before each iteration, weights, statistics and history are set to BVLC's, by its own snapshot.

    torchcaffe works in this process, so that its numbers need no files. Each iteration it does twice: on its own
    gradients, and with the update alone on BVLC's gradients. The momentum is what the updates add up to: flips of ReLU
    and max pooling decide how far its own can agree, so BVLC's distance from itself is its unit, taken every fifth
    iteration, by the other kernel from the same snapshot.

    The classifier starts a hundred times smaller than its filler makes it: on GoogLeNet's features a new one saturates
    the softmax, and a loss near 0 is the difference of great logits, which no two ways of adding them up give alike."""
    import torchcaffe

    header = (
        "iteration, BVLC's loss, loss error, weights and statistics, momentum, update on BVLC's gradients, "
        "BVLC's own: loss, weights, momentum"
    )
    table = Table(f"v1bn in lockstep, {s.iterations} iterations at base_lr {s.base_lr:g}", header.split(", "))
    net, weights = make_net(s, "v1bn", s.batch, still=True)
    soften(weights)
    files = [solver_file(s, net, f"lock-{i}", s.base_lr) for i in range(2)]
    gradients = s.work / "gradients.f32"
    curves: dict[str, list[float]] = {"BVLC": []}

    def opened(engine: Engine, path: Path, **more: str) -> None:
        engine.call("solver", {"do": "close"})
        engine.call("solver", {"do": "open", "solver": str(path), "weights": str(weights), **more})

    def step(engine: Engine) -> float:
        return engine.call("solver", {"do": "step", "blobs": [LOSS]})[0][0]

    def ours(path: Path):
        solver = torchcaffe.get_solver(str(path))
        solver.net.copy_from(str(weights))
        return solver

    def our_step(solver) -> float:
        solver.step(1)
        return float(solver.net.blobs[LOSS].data)

    def numbers(solver) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        params = {f"{name}/{k}": np.asarray(b.data) for name, bs in solver.net.params.items() for k, b in enumerate(bs)}
        return params, {str(k): h for k, h in enumerate(solver._history_arrays())}

    rows = []
    with Engine("bvlc") as haswell, Engine("bvlc", compare.OTHER_CORETYPE) as other:
        opened(haswell, files[0], diffs=str(gradients))
        opened(other, files[1])
        haswell.call("solver", {"do": "snapshot"})
        solver = ours(files[0])
        for i in tqdm(range(s.iterations), "lockstep", disable=not sys.stderr.isatty()):
            before, after = (str(s.work / f"lock-0_iter_{n}") for n in (i, i + 1))
            solver.restore(before + ".solverstate")
            loss, mine = step(haswell), our_step(solver)
            curves["BVLC"].append(loss)
            haswell.call("solver", {"do": "snapshot"})
            params, history = numbers(solver)
            state = worst_of(params, model_arrays(after))
            momentum = worst_of(history, histories(after))
            solver.restore(before + ".solverstate")
            given = np.memmap(gradients, np.float32, "r")
            blobs = [blob for blobs in solver.net.params.values() for blob in blobs]
            for blob, part in zip(blobs, np.split(given, np.cumsum([blob.count for blob in blobs])[:-1])):
                blob.diff[...] = part.reshape(blob.diff.shape)
            solver.apply_update()
            update = worst_of(numbers(solver)[1], histories(after))
            spread: tuple = ("", "", "")
            if i % 5:
                other.call("solver", {"do": "skip"})  # the batch is taken, so that the next one is the same everywhere
            else:
                other.call("solver", {"do": "restore", "state": before + ".solverstate"})
                again = step(other)
                other.call("solver", {"do": "snapshot"})
                own = str(s.work / f"lock-1_iter_{i + 1}")
                spread = (
                    compare.error(np.array(again), np.array(loss)),
                    worst_of(model_arrays(own), model_arrays(after)),
                    worst_of(histories(own), histories(after)),
                )
            rows.append((i, loss, compare.error(np.array(mine), np.array(loss)), state, momentum, update, *spread))
            print("lockstep:", " ".join(f"{v:.3g}" if v != "" else "-" for v in rows[-1]), flush=True)
            for path in [*s.work.glob("lock-1_iter_*"), *s.work.glob(f"lock-0_iter_{i}.*")]:
                path.unlink()
        haswell.call("solver", {"do": "close"})
        del solver
        opened(other, files[1])  # free-running: nobody sets anything
        curves["BVLC, other kernel"] = [step(other) for _ in range(s.iterations)]
        solver = ours(files[0])
        curves["torchcaffe"] = [our_step(solver) for _ in range(s.iterations)]
    limit = max(compare.PARAM, 3 * max(row[-1] for row in rows if row[-1] != ""))
    for row in rows:
        table.add(*row, ok=max(row[2], row[3], row[5]) <= 1e-5 and row[4] <= limit)
    for path in s.work.glob("lock-*_iter_*"):
        path.unlink()
    gradients.unlink()
    (s.out / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")
    draw(curves, s.out / "curves.png", f"v1bn, free-running, base_lr {s.base_lr:g}, batch {s.batch}")
    table.notes.append(
        f"Limits: loss, weights, and the update on BVLC's gradients 1e-5 (the worst parameter); momentum {limit:.1g}, "
        "three times BVLC's own. Free-running losses are in curves.png."
    )
    return table


def draw(curves: dict[str, list[float]], path: Path, title: str) -> None:
    """The loss curves, and under them each one's distance from BVLC's first kernel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 7))
    for name, losses in curves.items():
        top.plot(losses, label=name)
        if name != "BVLC":
            bottom.semilogy(np.maximum(np.abs(np.array(losses) - curves["BVLC"]), 1e-9), label=f"{name} - BVLC")
    top.set_title(title)
    top.set_ylabel("loss")
    bottom.set_ylabel("distance")
    bottom.set_xlabel("iteration")
    for axis in (top, bottom):
        axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def summary(tables: list[Table], seconds: float, seed: int) -> str:
    """One line a table: rows, failures, greatest errors."""
    lines = [f"seed {seed}, {seconds:.0f} s"]
    for table in tables:
        lines.append(f"{table.title}: {len(table.rows)} rows, {len(table.failures())} past a limit")
        for row in table.failures():
            lines.append("  " + " | ".join(f"{c:.1e}" if isinstance(c, float) else str(c)[:90] for c in row))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--seed", type=int, help="draws sizes, data and random_seed (default: a new one, printed)")
    parser.add_argument("--repeats", type=int, default=1, help="how many draws of sizes per configuration")
    parser.add_argument("--examples", type=int, default=30, help="configurations of each type in `drawn`")
    parser.add_argument("--iterations", type=int, default=50, help="of training and lockstep")
    parser.add_argument("--batch", type=int, default=8, help="photos a batch, for the whole nets")
    parser.add_argument("--crop", type=int, default=224, help="side of the photos, of the section `nets`")
    parser.add_argument("--base-lr", type=float, default=1e-7, help="of the lockstep")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=list(generated.NETS),
        choices=list(generated.NETS),
        metavar="NET",
        help=f"nets of the section `nets`: {', '.join(generated.NETS)} (default: all)",
    )
    parser.add_argument("--types", nargs="+", default=[], help="only these layer types")
    parser.add_argument("--shared", type=Path, default=SHARED, help="see above (default: ../shared of the checkout)")
    parser.add_argument("--out", type=Path, default=Path("out/parity"))
    args = parser.parse_args(argv)
    unknown = set(args.sections) - set(SECTIONS)
    if unknown:
        raise CaffeError(f"no such section: {', '.join(sorted(unknown))} (there are {', '.join(SECTIONS)})")
    bvlc.python_command()  # says what to do where there is no real Caffe
    os.environ.setdefault("GLOG_minloglevel", "2")
    args.out.mkdir(parents=True, exist_ok=True)
    seed = int(np.random.SeedSequence().generate_state(1)[0] % 1_000_000) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    start = time.time()
    tables: list[Table] = []
    shared = args.shared if (args.shared / "data").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="parity-") as work:
        s = Setting(
            seed,
            args.repeats,
            args.examples,
            args.iterations,
            args.batch,
            args.crop,
            args.base_lr,
            args.variants,
            args.types,
            shared,
            args.out,
            Path(work),
        )
        from tests.bvlc import parity_nets

        makers = {
            "layers": layer_table,
            "drawn": drawn_table,
            "solvers": solver_table,
            "nets": parity_nets.net_tables,
            "training": training_table,
            "lockstep": lockstep_table,
            "examples": parity_nets.example_table,
            "released": parity_nets.released_table,
        }
        for section in SECTIONS:
            if section in (args.sections or SECTIONS):
                made = makers[section](s)
                tables += made if isinstance(made, list) else [made]
    report = summary(tables, time.time() - start, seed)
    (args.out / "parity.md").write_text(
        "# torchcaffe against BVLC Caffe 1.0.0\n\n" + "\n".join(t.markdown() for t in tables)
    )
    (args.out / "parity.json").write_text(
        json.dumps({"seed": seed, "tables": [asdict(t) for t in tables]}, indent=1) + "\n"
    )
    print(report)
    return 1 if any(table.failures() for table in tables) else 0


if __name__ == "__main__":
    run_main(main)
