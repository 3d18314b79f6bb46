"""The paper's nets: one registry from which the tools, the Makefile, the tests, the docs and the reports take them.

A function here adds a net's layers up to its classifier, and returns that."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ilgnet.nets.modules import (
    Net,
    accuracy,
    answer,
    auxiliary_head,
    connected_local_global,
    conv_mobilenet,
    depthwise_separable,
    final_head,
    global_head,
    global_pool,
    inception_v1,
    inception_v3_a,
    inception_v4_a,
    learns,
    local_head,
    max_pool,
    ordinary_convolution,
    score,
    stem_v1,
    stem_v3,
    stem_v4,
)
from torchcaffe.pycaffe.net_spec import Top


def ilgnet(n: Net, data: Top, module: Callable = inception_v1) -> Top:
    """ILGNet (Fig. 2): one pre-treatment layer and 3 inception modules; the first two give local features, the last
    one global features, and a layer of 1024 connects them."""
    x = stem_v1(n, data)
    x = module(n, "inception_3a", x)
    local1 = local_head(n, "temp1", x)
    x = module(n, "inception_3b", x)
    local2 = local_head(n, "temp2", x)
    x = max_pool(n, "pool3/3x3_s2", x)
    x = module(n, "inception_4a", x)
    return connected_local_global(n, local1, local2, global_head(n, x))


def ilgnet_a(n: Net, data: Top, stem: Callable, module: Callable) -> Top:
    """ILGNet behind Inception V3's or V4's stem: local features of its first two modules, global ones of the third."""
    x = module(n, "inception_a1", stem(n, data))
    local1 = local_head(n, "temp1", x)
    x = module(n, "inception_a2", x)
    local2 = local_head(n, "temp2", x)
    x = module(n, "inception_a3", x)
    return connected_local_global(n, local1, local2, global_head(n, x, lr=10))


def googlenet_to_4a(n: Net, data: Top) -> Top:
    """GoogLeNet as far as its first auxiliary classifier."""
    x = inceptions(n, stem_v1(n, data), "3a", "3b")
    return inceptions(n, max_pool(n, "pool3/3x3_s2", x), "4a")


def inceptions(n: Net, x: Top, *names: str) -> Top:
    """GoogLeNet's modules of these names behind one another."""
    for name in names:
        x = inception_v1(n, f"inception_{name}", x)
    return x


def googlenet_third(n: Net, data: Top) -> Top:
    """The first third of GoogLeNet: as far as its first auxiliary classifier (section 4.3)."""
    return auxiliary_head(n, "loss1", googlenet_to_4a(n, data))


def googlenet_two_thirds(n: Net, data: Top) -> Top:
    """The first two thirds of GoogLeNet: as far as its second auxiliary classifier (section 4.3)."""
    return auxiliary_head(n, "loss2", inceptions(n, googlenet_to_4a(n, data), "4b", "4c", "4d"))


def googlenet_full(n: Net, data: Top) -> Top:
    """The whole of GoogLeNet (section 4.3). In training its two auxiliary classifiers count 0.3 each, as BVLC's do."""
    x = googlenet_to_4a(n, data)
    if learns(n):
        score(n, "loss1/loss", auxiliary_head(n, "loss1", x), weight=0.3)
    x = inceptions(n, x, "4b", "4c", "4d")
    if learns(n):
        score(n, "loss2/loss", auxiliary_head(n, "loss2", x), weight=0.3)
    x = max_pool(n, "pool4/3x3_s2", inceptions(n, x, "4e"))
    return final_head(n, inceptions(n, x, "5a", "5b"))


# Depths of MobileNet's 13 blocks, and which of them halve the size (Howard et al., 2017, table 1)
MOBILENET_DEPTHS = (64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
MOBILENET_HALVES = (2, 4, 6, 12)


def nima(n: Net, data: Top) -> Top:
    """NIMA (Talebi and Milanfar, 2018): MobileNet 1.0 and one layer, which gives the shares of the votes."""
    x = conv_mobilenet(n, "conv1", data, 32, stride=2)
    channels = 32
    for number, depth in enumerate(MOBILENET_DEPTHS, 1):
        x = depthwise_separable(n, number, x, channels, depth, stride=2 if number in MOBILENET_HALVES else 1)
        channels = depth
    return answer(n, "nima", global_pool(n, "pool", x, dropout=0.75))


@dataclass(frozen=True)
class Variant:
    """One of the paper's nets, or, where `paper` is False, another one that judges photos.

    Accuracies are per cent, as printed; None where the paper gives none."""

    name: str  # --variant
    title: str  # the paper's name
    about: str
    body: Callable[[Net, Top], Top]
    source: str  # the caffemodel whose weights its trunk takes
    batch_norm: bool = True
    pool: str | None = "AVE"  # of Inception V1's modules: AVE in the released ILGNet, MAX in BVLC GoogLeNet; None: none
    answer: str = "loss1/loss"  # the output blob of deploy.prototxt: probabilities [low, high]
    trunk: str = "inception_4a/output"  # the trunk's last blob; what is behind it, and behind local, is the head
    lrn: bool = True  # it has GoogLeNet's local response normalisation
    smallest: int = 96  # pixels: the side of the smallest photo it takes, with or without spatial pyramids
    stem: str = "pool2/3x3_s2"  # the blob that its first module reads: the "pre-treatment layer" ends there
    local: tuple[str, ...] = ()  # the trunk's blobs that local features are taken from
    target: str = "classes"  # what it learns unless told
    mean_values: tuple[float, ...] = ()  # B, G, R, subtracted in place of the data set's mean
    preset: str | None = None  # how a photo is prepared, unless told (see photos/preprocess.py)
    paper: bool = True  # it is one of the paper's
    table2: tuple[float | None, float | None] = (None, None)  # AVA1 accuracy, delta 0 and 1
    table3: float | None = None  # AVA2 accuracy
    table4: tuple[float | None, float | None, float | None] = (None, None, None)
    # ^ AVA1 accuracy, days of training, seconds of testing a photo (GTX 980 Ti)

    def build(self, n: Net) -> None:
        """Add the layers behind those of the data."""
        classifier = self.body(n, n["data"])
        score(n, self.answer, classifier)
        if learns(n):
            accuracy(n, self.answer.partition("/")[0] + "/top-1", classifier)


GOOGLENET_WEIGHTS = "bvlc_googlenet.caffemodel"
LOCAL_V1 = ("inception_3a/output", "inception_3b/output")

VARIANTS = {
    v.name: v
    for v in (
        Variant(
            "v1",
            "ILGNet-Inc.V1",
            "the released net, on the first third of GoogLeNet V1, no batch normalisation",
            ilgnet,
            GOOGLENET_WEIGHTS,
            batch_norm=False,
            local=LOCAL_V1,
        ),
        Variant(
            "v1bn",
            "ILGNet-Inc.V1-BN",
            "batch normalisation behind every convolution of the trunk",
            ilgnet,
            GOOGLENET_WEIGHTS,
            local=LOCAL_V1,
            table2=(81.68, 80.71),
            table3=85.50,
            table4=(81.68, 4, 0.31),
        ),
        Variant(
            "v3",
            "ILGNet-Inc.V3",
            "local and global layers on the first three modules of Inception V3",
            partial(ilgnet_a, stem=stem_v3, module=inception_v3_a),
            "inception_v3.caffemodel",
            pool=None,
            lrn=False,
            stem="pool2_3x3_s2",
            local=("inception_a1_output", "inception_a2_output"),
            trunk="inception_a3_output",
            table2=(81.71, 80.65),
            table3=85.51,
        ),
        Variant(
            "v4",
            "ILGNet-Inc.V4",
            "local and global layers on the first three modules of Inception V4",
            partial(ilgnet_a, stem=stem_v4, module=inception_v4_a),
            "inception_v4.caffemodel",
            pool=None,
            lrn=False,
            stem="inception_stem3",
            local=("inception_a1_concat", "inception_a2_concat"),
            trunk="inception_a3_concat",
            table2=(82.66, 80.83),
            table3=85.53,
        ),
        Variant(
            "noinc",
            "ILGNet-without-Inc.",
            "an ordinary 3x3 convolution in place of each inception module",
            partial(ilgnet, module=ordinary_convolution),
            GOOGLENET_WEIGHTS,
            pool=None,
            local=LOCAL_V1,
            table2=(75.29, 73.25),
            table3=79.64,
        ),
        Variant(
            "third",
            "1/3 GoogLeNetV1-BN",
            "GoogLeNet as far as its first auxiliary classifier",
            googlenet_third,
            GOOGLENET_WEIGHTS,
            table2=(80.74, 79.09),
            table3=82.26,
            table4=(80.74, 4, 0.33),
        ),
        Variant(
            "two_thirds",
            "2/3 GoogLeNetV1-BN",
            "GoogLeNet as far as its second auxiliary classifier",
            googlenet_two_thirds,
            GOOGLENET_WEIGHTS,
            pool="MAX",
            answer="loss2/loss",
            trunk="inception_4d/output",
            table4=(81.72, 11, 0.57),
        ),
        Variant(
            "full",
            "Full GoogLeNetV1-BN",
            "the whole of GoogLeNet",
            googlenet_full,
            GOOGLENET_WEIGHTS,
            pool="MAX",
            answer="loss3/loss3",
            trunk="inception_5b/output",
            smallest=223,
            table4=(82.36, 16, 0.84),
        ),
        Variant(
            "nima",
            "NIMA (MobileNet)",
            "the shares of the votes, by MobileNet; not one of the paper's nets",
            nima,
            "nima.caffemodel",
            pool=None,
            lrn=False,
            answer="nima/loss",
            trunk="conv_pw_13_relu6",
            smallest=32,
            target="distribution",
            mean_values=(127.5, 127.5, 127.5),
            preset="nima",
            paper=False,
        ),
    )
}
PAPER = {name: variant for name, variant in VARIANTS.items() if variant.paper}
