"""The nets that ilgnet.nets generates, as whole_nets.py takes them. Real Caffe's old Python cannot import this file."""

from __future__ import annotations

from pathlib import Path

from ilgnet.nets import emit
from ilgnet.nets.variants import PAPER
from tests.bvlc.whole_nets import BATCH
from torchcaffe.proto import caffe_pb2, format_text

WAYS = {"frozen": {"trunk": "frozen"}, "merge_bn": {"merge_bn": True}, "spp": {"spp": True}}
# Each of the paper's nets as it is, and ILGNet-Inc.V1-BN in each way that gen_net knows; the names of the goldens.
NETS = {name: emit.Choice(name, crop=max(variant.smallest, 96)) for name, variant in PAPER.items()}
NETS.update({"v1bn_" + way: emit.Choice("v1bn", crop=96, **words) for way, words in WAYS.items()})
NETS["v4_spp"] = emit.Choice("v4", crop=96, spp=True)
NETS["nima"] = emit.Choice("nima", crop=160, target="classes", no_clip=True)  # flips.py knows ReLU, OpenCV no Clip


def training_net(choice):
    """The training net on Input layers, as a message."""
    net = emit.train_val(choice)
    data, label = (caffe_pb2.LayerParameter(name=name, type="Input", top=[name]) for name in ("data", "label"))
    data.input_param.shape.add(dim=[BATCH, 3, choice.crop, choice.crop])
    label.input_param.shape.add(dim=[BATCH])
    kept = [data, label] + [layer for layer in net.layer if layer.type not in ("Data", "Accuracy")]
    del net.layer[:]
    net.layer.extend(kept)
    return net


def deploy_text(choice):
    """The net for deployment, without fillers: its weights are the training net's."""
    net = emit.deploy(choice)
    net.layer[0].input_param.shape[0].dim[0] = BATCH
    for layer in net.layer:
        for message in (layer.convolution_param, layer.inner_product_param):
            if message.HasField("weight_filler"):
                message.ClearField("weight_filler")
    return format_text(net)


def write(choice, folder):
    """Write train.prototxt and deploy.prototxt for whole_nets.open_nets; returns the training net's message."""
    net = training_net(choice)
    Path(folder, "train.prototxt").write_text(format_text(net))
    Path(folder, "deploy.prototxt").write_text(deploy_text(choice))
    return net
