"""Load every net in real BVLC Caffe, train and test, for one step, and write down what it says of shapes and numbers.

python -m tests.bvlc.check_nets OUT.json [VARIANT ...]   (`make bvlc` first)
The file is the golden that tests/ilgnet/nets/test_emit.py and the engine's tests compare with. The nets are written
here; a Python that has pycaffe runs this file with --worker.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")
ROOT = Path(__file__).resolve().parents[2]

import numpy as np  # noqa: E402
from google.protobuf import text_format  # noqa: E402

PHOTO = np.random.RandomState(0).randint(0, 256, (3, 256, 256)).astype(np.uint8)
SIZES = [(224, 224), (321, 481), (481, 321), (600, 400), (130, 512)]  # photos that the --spp nets must take
UNTOUCHED = 123.0  # written into every diff before a backward pass


def choices(variant) -> dict:
    """The ways a net is generated, by name."""
    named = dict(finetune={}, frozen=dict(trunk="frozen"), spp=dict(spp=True))
    if variant.batch_norm:
        named["merge_bn"] = dict(merge_bn=True)
    if variant.lrn and variant.name != "v1":
        named["drop_lrn"] = dict(drop_lrn=True)
    return named


def make_data(folder: Path) -> None:
    """LMDBs of two photos, and their mean."""
    import caffe
    import lmdb

    datum = caffe.proto.caffe_pb2.Datum(channels=3, height=256, width=256, data=PHOTO.tobytes())
    for name in ("train_lmdb", "val_lmdb"):
        env = lmdb.open(str(folder / name), map_size=1 << 24)
        with env.begin(write=True) as txn:
            for label in (0, 1):
                datum.label = label
                txn.put(b"%08d" % label, datum.SerializeToString())
        env.close()
    mean = caffe.io.array_to_blobproto(np.full((1, 3, 256, 256), 120, np.float32))
    (folder / "mean.binaryproto").write_bytes(mean.SerializeToString())


def shapes(net) -> dict:
    """Shapes of blobs by name; Split's copies left out."""
    return {name: list(blob.data.shape) for name, blob in net.blobs.items() if "_split_" not in name}


def parameters(net) -> int:
    return sum(int(blob.data.size) for blobs in net.params.values() for blob in blobs)


def set_statistics(net) -> None:
    """A new BatchNorm knows no photo, and divides by the root of eps: let it pass everything on as it is."""
    for layer in net.layers:
        if layer.type == "BatchNorm":
            layer.blobs[0].data[...] = 0
            layer.blobs[1].data[...] = layer.blobs[2].data[...] = 1


def check(job: dict) -> dict:
    """What BVLC says of one variant generated in one way; asserts that a step of training and testing works."""
    import caffe

    folder, variant, words = Path(job["folder"]), job["variant"], job["words"]
    training, deployed = str(folder / "train.prototxt"), str(folder / "deploy.prototxt")
    train_val = text_format.Parse(Path(training).read_text(), caffe.proto.caffe_pb2.NetParameter())

    caffe.set_random_seed(1)
    net = caffe.Net(training, caffe.TRAIN)
    set_statistics(net)
    train_outputs = sorted(net.outputs)
    losses = {name: float(blob) for name, blob in net.forward().items()}
    assert np.isfinite(list(losses.values())).all(), losses
    for blob in net.blobs.values():
        blob.diff[...] = UNTOUCHED
    for layer in train_val.layer:
        if layer.type == "SoftmaxWithLoss":  # backward starts from the loss's weight, which stands in its diff
            net.blobs[layer.top[0]].diff[...] = layer.loss_weight[0] if layer.loss_weight else 1
    net.backward()
    touched = [
        n
        for n, b in net.blobs.items()
        if "_split_" not in n and n not in net.outputs and not (b.diff == UNTOUCHED).all()
    ]
    still = [layer for layer, blobs in net.params.items() if not any(np.abs(b.diff).sum() for b in blobs)]
    frozen = [n for n in net.blobs if "_split_" not in n and n not in touched and n not in net.outputs]
    types = dict(zip(net._layer_names, [layer.type for layer in net.layers]))
    learns = [name for name in net.params if types[name] != "BatchNorm"]
    if words.get("trunk") == "frozen":
        trained = [name for name in learns if name not in still]
        assert all(n.startswith(("temp", "loss")) or (variant == "noinc" and "conv3x3" in n) for n in trained), trained
    else:
        assert not [name for name in still if name in learns], still
        assert frozen == ["data", "label"], frozen
    train = dict(
        outputs=train_outputs,
        parameters=parameters(net),
        layers_without_gradient=len(still),
        blobs_without_gradient=len(frozen),
    )
    del net

    net = caffe.Net(training, caffe.TEST)
    set_statistics(net)
    result = net.forward()
    test = dict(outputs=sorted(result), parameters=parameters(net))
    assert np.isfinite([float(blob) for blob in result.values()]).all(), result
    del net, result

    net = caffe.Net(deployed, caffe.TEST)
    deploy = dict(
        parameters=parameters(net),
        blobs=shapes(net),
        params={name: [list(b.data.shape) for b in blobs] for name, blobs in net.params.items()},
    )
    set_statistics(net)
    (answer,) = net.outputs
    assert answer == job["answer"]
    for height, width in SIZES if words.get("spp") else SIZES[:1]:
        net.blobs["data"].reshape(1, 3, height, width)
        net.blobs["data"].data[...] = np.random.RandomState(1).uniform(-100, 100, (1, 3, height, width))
        probabilities = net.forward()[answer]
        assert probabilities.shape == (1, job["outputs"]) and abs(probabilities.sum() - 1) < 1e-5
    return dict(train=train, test=test, deploy=deploy)


def line(value) -> str:
    return json.dumps(value, separators=(",", ":"))


def dump(found: dict) -> str:
    """JSON with one line a layer or blob, so that a change reads well in a diff. A way of generating a net lists the
    blobs and parameters in which it differs from `finetune`; null stands for one that it has not."""
    variants = []
    for variant, ways in found.items():
        base = ways["finetune"]["deploy"]
        parts = []
        for way, result in ways.items():
            rows = [f'"train": {line(result["train"])}', f'"test": {line(result["test"])}']
            deploy = result["deploy"]
            rows.append(f'"parameters": {deploy["parameters"]}')
            for kind in ("blobs", "params"):
                now, before = deploy[kind], {} if way == "finetune" else base[kind]
                changed = {k: v for k, v in now.items() if before.get(k) != v}
                changed.update({k: None for k in before if k not in now})
                inner = ",\n".join(f"    {line(k)}: {line(v)}" for k, v in changed.items())
                rows.append(f'"{kind}": {{\n{inner}\n   }}' if inner else f'"{kind}": {{}}')
            parts.append(f'  "{way}": {{\n   ' + ",\n   ".join(rows) + "\n  }")
        variants.append(f' "{variant}": {{\n' + ",\n".join(parts) + "\n }")
    return "{\n" + ",\n".join(variants) + "\n}\n"


def work(folder: Path) -> None:
    """In a Python that has real Caffe: check every job of the folder."""
    make_data(folder)
    found: dict = {}
    for job in json.loads((folder / "jobs.json").read_text()):
        result = found.setdefault(job["variant"], {})[job["way"]] = check(job)
        print(job["variant"], job["way"], result["train"], flush=True)
    (folder / "found.json").write_text(json.dumps(found))


def main(out: Path, names: list) -> None:
    from ilgnet.nets import emit
    from ilgnet.nets.targets import TARGETS
    from ilgnet.nets.variants import PAPER
    from tests.bvlc import real
    from torchcaffe.proto import format_text

    with tempfile.TemporaryDirectory() as place:
        folder, jobs = Path(place), []
        for name in names or PAPER:
            for way, words in choices(PAPER[name]).items():
                choice = emit.Choice(name, batch_size=2, source=place, **words)
                train_val = emit.train_val(choice)
                train_val.layer[1].data_param.batch_size = 2
                here = folder / f"{name}-{way}"
                here.mkdir()
                (here / "train.prototxt").write_text(format_text(train_val))
                (here / "deploy.prototxt").write_text(format_text(emit.deploy(choice)))
                job = dict(variant=name, way=way, words=words, folder=str(here), answer=PAPER[name].answer)
                jobs.append(dict(job, outputs=TARGETS[choice.target].outputs))
        (folder / "jobs.json").write_text(json.dumps(jobs))
        print(real.python([__file__, "--worker", place], {"PYTHONPATH": str(ROOT)}).stdout, end="")
        out.write_text(dump(json.loads((folder / "found.json").read_text())))


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        work(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
