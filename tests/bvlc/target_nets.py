"""What either engine does with the nets of prototxt/targets.py, on their own LMDBs: for make_target_goldens.py here and
tests/test_targets.py. `write` runs in the test's Python, `train` in the engine's (Python 3.9 for real Caffe)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NAMES = ("distribution", "mean", "ranking")
TRAIN = "tests.bvlc.target_nets:train"  # for Engine.call
PHOTOS, BATCH, ITERATIONS, SIDE = {"train": 12, "val": 8}, 4, 4, 100
SOLVER = """net: "{net}" snapshot_prefix: "{folder}/run" solver_mode: CPU random_seed: 5 display: 0
base_lr: 0.0002 momentum: 0.9 weight_decay: 0.0002 lr_policy: "fixed" max_iter: 100
test_iter: 1 test_interval: 1000 test_initialization: false
"""


def ratings(part: str) -> list:
    """Ratings made up of a random seed: photo i of a part has image id 100 + i."""
    from ilgnet.ava.ratings import Rating

    rng = np.random.RandomState(len(part))
    votes = [
        np.maximum(rng.poisson(np.exp(-((np.arange(1, 11) - rng.uniform(3, 8)) ** 2) / 4) * 30), 0)
        for _ in range(PHOTOS[part])
    ]
    return [Rating(100 + i, tuple(int(v) for v in row), (0, 0), 0) for i, row in enumerate(votes)]


def write_data(folder: Path, side: int = SIDE) -> None:
    """LMDBs of square photos, both kinds of labels' and the mean."""
    from ilgnet.ava import splits, targets
    from torchcaffe.data.imageset import encode_datum, write_mean
    from torchcaffe.data.lmdb_writer import LmdbWriter

    for part in PHOTOS:
        rows = ratings(part)
        writer, rng = LmdbWriter(folder / f"{part}_lmdb"), np.random.RandomState(len(part) + 1)
        for i, row in enumerate(rows):
            small, times = rng.uniform(0, 256, (10, 10, 3)), -(-side // 10)
            large = np.repeat(np.repeat(small, times, 0), times, 1)[:side, :side]
            picture = np.clip(large + rng.uniform(-30, 30, large.shape), 0, 255).astype(np.uint8)
            writer.put(f"{i:08d}_{row.photo}".encode(), encode_datum(picture, splits.label(row)))
        writer.commit()
        writer.close()
        for kind in targets.KINDS:
            targets.write_labels(
                folder / f"{part}_lmdb",
                kind,
                {row.photo: row for row in rows},
                {row.photo: splits.label(row) for row in rows},
            )
    write_mean(np.full((3, side, side), 120, np.float32), folder / "mean.binaryproto")


def write(folder: Path, name: str) -> dict:
    """The job for `train`: the emitted net of the smallest variant, cut to small photos and batches, and a solver."""
    from ilgnet.nets import emit
    from torchcaffe.proto import format_text

    write_data(folder)
    net = emit.train_val(emit.Choice("third", crop=96, batch_size=BATCH, source=str(folder), target=name))
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.batch_size = BATCH
    (folder / "net.prototxt").write_text(format_text(net))
    (folder / "solver.prototxt").write_text(SOLVER.format(net=folder / "net.prototxt", folder=folder))
    return {"solver": str(folder / "solver.prototxt"), "head": f"loss1/{head_of(name)}"}


def head_of(name: str) -> str:
    from ilgnet.nets.targets import TARGETS

    return TARGETS[name].layer


def train(caffe, job, arrays=None):
    """Train, then test one batch: losses, the last batch's votes, what the head has learned, the test's answers."""
    caffe.set_mode_cpu()
    solver = caffe.SGDSolver(job["solver"])
    losses = []
    for _ in range(ITERATIONS):
        solver.step(1)
        losses.append(float(solver.net.blobs["loss1/loss"].data))
    found = {"losses": np.array(losses), "votes": np.array(solver.net.blobs["votes"].data)}
    for i, blob in enumerate(solver.net.params[job["head"]]):
        found[f"head{i}"] = np.array(blob.data)
    test = solver.test_nets[0]
    test.share_with(solver.net)
    for key, blob in test.forward().items():
        found["test:" + key] = np.array(blob)
    return None, found
