"""Nets that Caffe's users know, written from their published descriptions with torchcaffe.pycaffe.net_spec.

LeNet (LeCun 1998, as Caffe's tutorial trains it), CaffeNet (AlexNet, Krizhevsky 2012: groups, LRN, dropout), GoogLeNet
(Szegedy 2014, with both auxiliary classifiers), ResNet (He 2015: a basic and a bottleneck block), FCN (Long 2015:
scores scaled up by bilinear deconvolutions and cropped onto each other) and a captioner (Donahue 2014: words embedded,
an LSTM that also sees the picture). Each with a solver of the kind it was published with, for small inputs.

JOBS has, for each, what `train_once` needs to train one iteration from a random_seed, under real Caffe and here."""

from __future__ import annotations

import hashlib

import numpy as np

TRAIN_ONCE = "tests.bvlc.example_nets:train_once"  # for Engine.call
SGD = 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "step" gamma: 0.1 stepsize: 100000 '
INV = 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "inv" gamma: 0.0001 power: 0.75 '
POLY = 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.0002 lr_policy: "poly" power: 0.5 '
FIXED = 'base_lr: 0.001 momentum: 0.99 weight_decay: 0.0005 lr_policy: "fixed" '
CLIPPED = 'base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" clip_gradients: 10 '


# ---- under either engine (Python 3.9 and NumPy 1.19 in real Caffe's case) --------------------------------------------
def train_once(caffe, job, arrays=None):
    """One iteration from the solver's random_seed on drawn inputs.

    job: files, solver (texts), inputs [[blob, kind, shape]...], seed. Returns the SHA-256 of every parameter as filled,
    and arrays: "out BLOB" of the net's outputs, "LAYER/I.diff" of what the update took off parameter I."""
    from tests.bvlc.run_caffe import draw, inside, write_files

    with inside(write_files(dict(job["files"], **{"solver.prototxt": job["solver"]}))):
        caffe.set_mode_cpu()
        solver = caffe.get_solver("solver.prototxt")
        net = solver.net
        blobs = [(f"{layer}/{i}", blob) for layer, all_ in net.params.items() for i, blob in enumerate(all_)]
        filled = {name: hashlib.sha256(np.ascontiguousarray(blob.data).tobytes()).hexdigest() for name, blob in blobs}
        for i, (name, kind, shape) in enumerate(job["inputs"]):
            net.blobs[name].data[...] = draw(kind, shape, job["seed"] + i)
        solver.step(1)
        out = {"out " + name: np.array(net.blobs[name].data) for name in net.outputs}
        out.update({name + ".diff": np.array(blob.diff) for name, blob in blobs})
        return filled, out


# ---- the nets --------------------------------------------------------------------------------------------------------
def spec():
    from torchcaffe.pycaffe import net_spec

    return net_spec.NetSpec(), net_spec.layers, net_spec.params


def rates(weights: float = 1, decay: float = 1) -> list[dict]:
    """A bias learns twice as fast as its weights, and is not decayed."""
    return [dict(lr_mult=weights, decay_mult=decay), dict(lr_mult=2 * weights, decay_mult=0)]


def text(n, name: str) -> str:
    from torchcaffe.proto import format_text

    net = n.to_proto()
    net.name = name
    return format_text(net)


def inputs(n, L, **shapes: list[int]) -> None:
    for name, shape in shapes.items():
        n[name] = L.Input(shape=dict(dim=shape))


XAVIER = dict(type="xavier")
MSRA = dict(type="msra")


def constant(value: float) -> dict:
    return dict(type="constant", value=value)


def lenet() -> str:
    n, L, P = spec()
    inputs(n, L, data=[4, 1, 28, 28], label=[4])
    given = dict(param=[dict(lr_mult=1), dict(lr_mult=2)], weight_filler=XAVIER, bias_filler=dict(type="constant"))
    n.conv1 = L.Convolution(n.data, num_output=20, kernel_size=5, **given)
    n.pool1 = L.Pooling(n.conv1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.conv2 = L.Convolution(n.pool1, num_output=50, kernel_size=5, **given)
    n.pool2 = L.Pooling(n.conv2, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.ip1 = L.InnerProduct(n.pool2, num_output=500, **given)
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.ip1, num_output=10, **given)
    n.accuracy = L.Accuracy(n.ip2, n.label)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return text(n, "LeNet")


def caffenet(fc: int = 64, classes: int = 10) -> str:
    """With `fc` in place of 4096 hidden units, and `classes` of 1000, which hold 59 of its 61 million weights."""
    n, L, P = spec()
    inputs(n, L, data=[2, 3, 227, 227], label=[2])

    def relu(name: str, top):
        n[name] = L.ReLU(top, in_place=True)
        return top

    def conv(name: str, bottom, depth: int, size: int, bias: float, **geometry):
        n["conv" + name] = L.Convolution(
            bottom,
            num_output=depth,
            kernel_size=size,
            param=rates(),
            bias_filler=constant(bias),
            weight_filler=dict(type="gaussian", std=0.01),
            **geometry,
        )
        return relu("relu" + name, n["conv" + name])

    def pool(name: str, bottom, norm: bool = True):
        n["pool" + name] = x = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=3, stride=2)
        if norm:
            n["norm" + name] = x = L.LRN(x, local_size=5, alpha=1e-4, beta=0.75)
        return x

    def dense(name: str, bottom, depth: int, std: float, bias: float):
        n[name] = L.InnerProduct(
            bottom,
            num_output=depth,
            param=rates(),
            weight_filler=dict(type="gaussian", std=std),
            bias_filler=constant(bias),
        )
        return n[name]

    x = pool("1", conv("1", n.data, 96, 11, 0, stride=4))
    x = pool("2", conv("2", x, 256, 5, 1, pad=2, group=2))
    x = conv("3", x, 384, 3, 0, pad=1)
    x = conv("4", x, 384, 3, 1, pad=1, group=2)
    x = pool("5", conv("5", x, 256, 3, 1, pad=1, group=2), norm=False)
    for name in ("6", "7"):
        x = relu("relu" + name, dense("fc" + name, x, fc, 0.005, 1))
        n["drop" + name] = L.Dropout(x, in_place=True, dropout_ratio=0.5)
    n.loss = L.SoftmaxWithLoss(dense("fc8", x, classes, 0.01, 0), n.label)
    return text(n, "CaffeNet")


# Depths of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool projection; "pool" is a MAX 3x3 of stride 2 between stages.
GOOGLENET = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "pool3": (),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128), "pool4": (),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


def googlenet(classes: int = 20) -> str:
    n, L, P = spec()
    inputs(n, L, data=[2, 3, 112, 112], label=[2])  # half of 224, so that the last stage is 3 x 3 and not 7 x 7
    filled = dict(param=rates(), weight_filler=XAVIER, bias_filler=constant(0.2))

    def conv(name: str, bottom, depth: int, size: int, **geometry):
        n[name] = L.Convolution(bottom, num_output=depth, kernel_size=size, **filled, **geometry)
        n[name + "/relu"] = L.ReLU(n[name], in_place=True)
        return n[name]

    def pool(name: str, bottom, kind: str, size: int, **geometry):
        n[name] = L.Pooling(bottom, pool=getattr(P.Pooling, kind), kernel_size=size, **geometry)
        return n[name]

    def norm(name: str, bottom):
        n[name] = L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)
        return n[name]

    def inception(name: str, bottom, one: int, three: int, three_by: int, five: int, five_by: int, projection: int):
        name = "inception_" + name
        a = conv(f"{name}/1x1", bottom, one, 1)
        b = conv(f"{name}/3x3", conv(f"{name}/3x3_reduce", bottom, three, 1), three_by, 3, pad=1)
        c = conv(f"{name}/5x5", conv(f"{name}/5x5_reduce", bottom, five, 1), five_by, 5, pad=2)
        d = conv(f"{name}/pool_proj", pool(f"{name}/pool", bottom, "MAX", 3, stride=1, pad=1), projection, 1)
        n[f"{name}/output"] = L.Concat(a, b, c, d)
        return n[f"{name}/output"]

    def classify(name: str, bottom, ratio: float, weight: float):
        n[f"{name}/drop"] = x = L.Dropout(bottom, dropout_ratio=ratio)
        last = dict(filled, bias_filler=constant(0))
        n[f"{name}/classifier"] = L.InnerProduct(x, num_output=classes, **last)
        n[f"{name}/loss"] = L.SoftmaxWithLoss(n[f"{name}/classifier"], n.label, loss_weight=weight)

    def auxiliary(name: str, bottom):
        x = conv(f"{name}/conv", pool(f"{name}/ave_pool", bottom, "AVE", 5, stride=3), 128, 1)
        n[f"{name}/fc"] = L.InnerProduct(x, num_output=1024, **filled)
        n[f"{name}/relu_fc"] = L.ReLU(n[f"{name}/fc"], in_place=True)
        classify(name, n[f"{name}/fc"], 0.7, 0.3)

    x = norm("norm1", pool("pool1", conv("conv1", n.data, 64, 7, stride=2, pad=3), "MAX", 3, stride=2))
    x = norm("norm2", conv("conv2", conv("conv2_reduce", x, 64, 1), 192, 3, pad=1))
    x = pool("pool2", x, "MAX", 3, stride=2)
    for name, depths in GOOGLENET.items():
        x = inception(name, x, *depths) if depths else pool(name, x, "MAX", 3, stride=2)
        if name in ("4a", "4d"):
            auxiliary("loss1" if name == "4a" else "loss2", x)
    classify("loss3", pool("pool5", x, "AVE", 3, stride=1), 0.4, 1)
    return text(n, "GoogLeNet")


def resnet() -> str:
    """ResNet's stem, a basic block that keeps its input's shape, and a bottleneck that halves it."""
    n, L, P = spec()
    inputs(n, L, data=[4, 3, 64, 64], label=[4])
    statistics = dict(param=[dict(lr_mult=0, decay_mult=0)] * 3)

    def conv(name: str, bottom, depth: int, size: int, stride: int = 1, relu: bool = True):
        n[name] = x = L.Convolution(
            bottom,
            num_output=depth,
            kernel_size=size,
            stride=stride,
            pad=size // 2,
            bias_term=False,
            param=dict(lr_mult=1),
            weight_filler=MSRA,
        )
        n[name + "_bn"] = L.BatchNorm(x, in_place=True, **statistics)
        n[name + "_scale"] = L.Scale(x, in_place=True, bias_term=True)
        if relu:
            n[name + "_relu"] = L.ReLU(x, in_place=True)
        return x

    def add(name: str, shortcut, branch):
        n[name] = L.Eltwise(shortcut, branch, operation=P.Eltwise.SUM)
        n[name + "_relu"] = L.ReLU(n[name], in_place=True)
        return n[name]

    x = conv("conv1", n.data, 32, 7, stride=2)
    n.pool1 = x = L.Pooling(x, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    x = add("res2a", x, conv("res2a_b", conv("res2a_a", x, 32, 3), 32, 3, relu=False))
    branch = conv("res3a_a", x, 16, 1, stride=2)
    branch = conv("res3a_c", conv("res3a_b", branch, 16, 3), 64, 1, relu=False)
    x = add("res3a", conv("res3a_shortcut", x, 64, 1, stride=2, relu=False), branch)
    n.pool5 = L.Pooling(x, pool=P.Pooling.AVE, global_pooling=True)
    n.fc = L.InnerProduct(n.pool5, num_output=7, weight_filler=MSRA, bias_filler=constant(0))
    n.loss = L.SoftmaxWithLoss(n.fc, n.label)
    return text(n, "ResNet blocks")


def fcn(classes: int = 5) -> str:
    """FCN-8s in small: the deepest scores are scaled up and added to those of a layer before, cropped to their size."""
    n, L, P = spec()
    inputs(n, L, data=[2, 3, 45, 38], label=[2, 1, 45, 38])

    def conv_pool(stage: int, bottom, depth: int, pad: int):
        n[f"conv{stage}"] = x = L.Convolution(
            bottom, num_output=depth, kernel_size=3, pad=pad, param=rates(), weight_filler=XAVIER
        )
        n[f"relu{stage}"] = L.ReLU(x, in_place=True)
        n[f"pool{stage}"] = L.Pooling(x, pool=P.Pooling.MAX, kernel_size=2, stride=2)
        return n[f"pool{stage}"]

    def score(name: str, bottom):
        n[name] = L.Convolution(bottom, num_output=classes, kernel_size=1, param=rates(), weight_filler=XAVIER)
        return n[name]

    def up(name: str, bottom, factor: int, lr: int):
        """Bilinear interpolation of each class's scores; the last one is not learnt."""
        n[name] = L.Deconvolution(
            bottom,
            param=dict(lr_mult=lr),
            convolution_param=dict(
                num_output=classes,
                kernel_size=2 * factor,
                stride=factor,
                bias_term=False,
                group=classes,
                weight_filler=dict(type="bilinear"),
            ),
        )
        return n[name]

    def fuse(name: str, deep, shallow):
        """The scores before, cropped where the padded net's middle is, plus the deeper ones."""
        n[name + "_crop"] = L.Crop(shallow, deep, axis=2, offset=1)
        n[name] = L.Eltwise(deep, n[name + "_crop"], operation=P.Eltwise.SUM)
        return n[name]

    pool1 = conv_pool(1, n.data, 8, 20)  # FCN pads its first convolution by 100
    pool2 = conv_pool(2, pool1, 16, 1)
    pool3 = conv_pool(3, pool2, 32, 1)
    n.fc6 = L.Convolution(pool3, num_output=48, kernel_size=3, param=rates(), weight_filler=XAVIER)
    n.relu6 = L.ReLU(n.fc6, in_place=True)
    n.drop6 = L.Dropout(n.fc6, in_place=True, dropout_ratio=0.5)
    x = fuse("fuse2", up("up2", score("score", n.fc6), 2, lr=1), score("score2", pool2))
    n.up1 = up("up1", x, 4, lr=0)
    n.upscore = L.Crop(n.up1, n.data, axis=2, offset=9)
    n.loss = L.SoftmaxWithLoss(n.upscore, n.label, loss_param=dict(ignore_label=255, normalize=False))
    return text(n, "FCN")


def captioner(steps: int = 6, pictures: int = 3, words: int = 30) -> str:
    """Next words from the words so far (T x N) and a picture's features (N x D), which the LSTM sees at every step."""
    n, L, P = spec()
    inputs(n, L, words=[steps, pictures], cont=[steps, pictures], next=[steps, pictures], picture=[pictures, 24])
    small = dict(type="uniform", min=-0.08, max=0.08)
    n.embedded = L.Embed(n.words, input_dim=words, num_output=16, bias_term=False, weight_filler=small)
    n.lstm = L.LSTM(
        n.embedded,
        n.cont,
        n.picture,
        recurrent_param=dict(num_output=20, weight_filler=small, bias_filler=constant(0)),
    )
    n.drop = L.Dropout(n.lstm, in_place=True, dropout_ratio=0.5)
    n.predict = L.InnerProduct(n.lstm, num_output=words, axis=2, weight_filler=small, bias_filler=constant(0))
    n.loss = L.SoftmaxWithLoss(
        n.predict, n.next, loss_weight=20, loss_param=dict(ignore_label=-1), softmax_param=dict(axis=2)
    )
    n.accuracy = L.Accuracy(n.predict, n.next, axis=2, ignore_label=-1)
    return text(n, "captioner")


SEED = 3  # with which no ReLU and no max-pool of any of them stands so close to a flip that BVLC's kernels disagree
PHOTO = "normal 0 60"  # like a photo less its mean
EXAMPLES = {
    "lenet": (lenet, INV, [["data", "uniform 0 1", [4, 1, 28, 28]], ["label", "labels 10", [4]]]),
    "caffenet": (caffenet, SGD, [["data", PHOTO, [2, 3, 227, 227]], ["label", "labels 10", [2]]]),
    "googlenet": (googlenet, POLY, [["data", "normal", [2, 3, 112, 112]], ["label", "labels 20", [2]]]),
    "resnet": (resnet, SGD, [["data", "normal", [4, 3, 64, 64]], ["label", "labels 7", [4]]]),
    "fcn": (fcn, FIXED, [["data", "normal", [2, 3, 45, 38]], ["label", "labels 5 255", [2, 1, 45, 38]]]),
    "captioner": (captioner, CLIPPED, [
        ["words", "labels 30", [6, 3]], ["cont", "continue", [6, 3]], ["next", "labels 30 -1", [6, 3]],
        ["picture", "normal", [3, 24]],
    ]),
}  # fmt: skip


def summary(arrays) -> dict:
    """What the goldens hold of train_once's arrays: shapes, norms, values here and there."""
    from tests.bvlc.whole_nets import sum_up

    found: dict = {}
    for key, array in arrays.items():
        sum_up(found, ("update:" if key.endswith(".diff") else "output:") + key, array)
    return found


def job(name: str, seed: int = SEED) -> dict:
    """The job for train_once."""
    net, solver, given = EXAMPLES[name]
    tail = f'net: "net.prototxt" random_seed: {seed} max_iter: 100 display: 0 snapshot_prefix: "s" solver_mode: CPU\n'
    return {"files": {"net.prototxt": net()}, "solver": solver + tail, "inputs": given, "seed": seed}
