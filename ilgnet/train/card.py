"""The card of a training run: PREFIX.json beside its snapshots, and PREFIX.mean.binaryproto, so that whoever scores
photos with a snapshot prepares them as in training and knows what the net has seen."""

import shutil
from pathlib import Path
from typing import Any

from ilgnet.nets.targets import TARGETS, target_of
from ilgnet.run import engine, results
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats import files, upgrade
from torchcaffe.proto import caffe_pb2


def write(settings: Any) -> str | None:
    """Write the card of a solver's run. Returns why there is none, if something else has its name."""
    path, mean_copy = (Path(settings.snapshot_prefix + ending) for ending in (".json", ".mean.binaryproto"))
    try:
        results.read(path, results.Card)
    except FileNotFoundError:
        pass
    except CaffeError:
        return f"{path} is there, and no card of a model: the snapshots will have none"
    named = settings.net or settings.train_net
    net = settings.net_param if settings.HasField("net_param") else settings.train_net_param
    net = engine.of_phase(upgrade.read_net(named) if named else net, caffe_pb2.TRAIN)
    data = [layer for layer in net.layer if layer.type == "Data"]
    manifest, mean = results.Manifest(), ""
    if data:
        mean = data[0].transform_param.mean_file
        beside = Path(data[0].data_param.source).with_name("manifest.json")
        if beside.is_file():
            manifest = results.read(beside, results.Manifest)
    if mean:
        with files.atomic(mean_copy) as temporary:
            shutil.copyfile(mean, temporary)
    target = next(filter(None, (target_of(layer.name) for layer in net.layer)), TARGETS["classes"])
    card = results.Card(
        kind="model",
        title=net.name,
        answer=target.answer,
        mean=mean_copy.name if mean else None,
        dataset=manifest.dataset,
        photos=manifest.train.records if manifest.train else None,
        synthetic=manifest.synthetic,
        teacher=manifest.teacher,
    )
    results.write_json(path, card)
    return None
