"""The building blocks of the nets, a function each, on pycaffe's net_spec.

Every block takes the Net `n` it adds its layers to and the layer it reads (a Top); it returns the Top of its output.
Layer names are BVLC GoogLeNet's for Inception V1 and those of the widely used Caffe ports for V3 and V4, so that their
caffemodels load by name. Depths are in channels, sizes in pixels."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ilgnet.nets.targets import IN_TEST, TARGETS, constant, named, weighted
from torchcaffe.pycaffe.net_spec import NetSpec, Top
from torchcaffe.pycaffe.net_spec import layers as L
from torchcaffe.pycaffe.net_spec import params as P

if TYPE_CHECKING:
    from ilgnet.nets.emit import Choice
    from ilgnet.nets.variants import Variant

XAVIER = dict(type="xavier")
DROPOUT = 0.7  # the released net's ratio, and that of BVLC's auxiliary heads
PYRAMID_HEIGHT = 3  # 1 + 4 + 16 bins

# BVLC GoogLeNet's inception modules (table 1 of the GoogLeNet paper): the depths of
# 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
GOOGLENET = {
    "inception_3a": (64, 96, 128, 16, 32, 32),
    "inception_3b": (128, 128, 192, 32, 96, 64),
    "inception_4a": (192, 96, 208, 16, 48, 64),
    "inception_4b": (160, 112, 224, 24, 64, 64),
    "inception_4c": (128, 128, 256, 24, 64, 64),
    "inception_4d": (112, 144, 288, 32, 64, 64),
    "inception_4e": (256, 160, 320, 32, 128, 128),
    "inception_5a": (256, 160, 320, 32, 128, 128),
    "inception_5b": (384, 192, 384, 48, 128, 128),
}


class Net(NetSpec):
    """A NetSpec with what was chosen for the net, and its variant, which its blocks go by."""

    def __init__(self, choice: "Choice", variant: "Variant"):
        super().__init__()
        self.__dict__.update(choice=choice, variant=variant)


# --- Learning rates: multiples of the solver's rate and weight decay, for the weights and the bias -------------------


def rates(lr: float, bias: bool = True) -> list[dict]:
    """The released files' rule: a bias learns at twice the rate of its weights, without weight decay."""
    weights = dict(lr_mult=lr, decay_mult=1 if lr else 0)
    return [weights, dict(lr_mult=2 * lr, decay_mult=0)] if bias else [weights]


# --- The trunk -------------------------------------------------------------------------------------------------------


def conv_bn_relu(
    n: Net,
    name: str,
    bottom: Top,
    names: tuple[str, str, str],
    eps: float | None = None,
    lr: int | None = None,
    top: str = "",
    plain: bool = False,
    **geometry,
) -> Top:
    """Convolution (bias_term false) -> BatchNorm -> Scale (with bias) -> ReLU, or Convolution -> ReLU.

    BatchNorm's three blobs are statistics, which the solver must leave alone (lr_mult 0). All but the convolution work
    in place, which is safe in BVLC: BatchNorm and Scale keep what their backward needs, ReLU needs its output alone.
    `names` are those of the last three layers, `top` the blob's when it is not the layer's, `lr` the convolution's
    rate (by default 0 in a frozen trunk, whose BatchNorm uses the source's statistics in training, too). `plain`: never
    with batch normalisation."""
    if lr is None:
        lr = 0 if n.choice.trunk == "frozen" else 1
    batch_norm = n.variant.batch_norm and not plain
    extra = dict(geometry, weight_filler=XAVIER, param=rates(lr, bias=not batch_norm))
    if batch_norm:
        extra["bias_term"] = False
    else:
        extra["bias_filler"] = constant(0.2)
    if top:
        extra["name"] = name
    x = named(n, top or name, L.Convolution(bottom, **extra))
    bn, scale, relu = names
    if batch_norm:
        statistics = {} if eps is None else dict(eps=eps)
        if lr == 0:
            statistics["use_global_stats"] = True
        x = named(n, bn, L.BatchNorm(x, in_place=True, param=[dict(lr_mult=0, decay_mult=0)] * 3, **statistics))
        # The scale is not decayed: decay would draw it to 0, and it starts at 1.
        scales = [dict(lr_mult=lr, decay_mult=0), dict(lr_mult=2 * lr, decay_mult=0)]
        x = named(n, scale, L.Scale(x, in_place=True, param=scales, bias_term=True))
    return named(n, relu, L.ReLU(x, in_place=True))


def conv(n: Net, name: str, bottom: Top, depth: int, relu: str = "", **more) -> Top:
    """A convolution of GoogLeNet with its BVLC names: `inception_3a/1x1`, .../1x1/bn, .../1x1/scale, .../relu_1x1."""
    block, layer = name.split("/")
    names = (f"{name}/bn", f"{name}/scale", relu or f"{block}/relu_{layer}")
    return conv_bn_relu(n, name, bottom, names, num_output=depth, **more)


def conv_v3(n: Net, name: str, bottom: Top, depth: int, **geometry) -> Top:
    """A convolution of Inception V3 or V4 with its names in the Caffe ports: `x`, `x_bn`, `x_scale`, `x_relu`."""
    names = (f"{name}_bn", f"{name}_scale", f"{name}_relu")
    return conv_bn_relu(n, name, bottom, names, eps=0.001, num_output=depth, **geometry)


def chain(n: Net, prefix: str, x: Top, make: Callable[..., Top], *rows: tuple) -> Top:
    """Convolutions behind one another, made by conv or conv_v3.

    rows: the end of the name, depth, kernel size, and, if it is not to keep the picture's size, pad and stride."""
    for name, depth, size, *given in rows:
        geometry = zip(("pad", "stride"), given or [size // 2])
        x = make(n, prefix + name, x, depth, kernel_size=size, **{field: v for field, v in geometry if v})
    return x


def branches(
    n: Net, prefix: str, bottom: Top, make: Callable[..., Top], names: tuple[str, str], kind: str, *rows
) -> Top:
    """An inception module: rows of convolutions side by side, the last one behind a 3x3 pooling, then concatenated.

    names: of the pooling and of the module's output. kind: of pooling, AVE or MAX."""
    pooling, output = names
    tops = [chain(n, prefix, bottom, make, *row) for row in rows[:-1]]
    pooled = pool(n, prefix + pooling, bottom, kind, 3, stride=1, pad=1)
    return named(n, prefix + output, L.Concat(*tops, chain(n, prefix, pooled, make, *rows[-1])))


def pool(n: Net, name: str, bottom: Top, kind: str, kernel_size: int, **geometry) -> Top:
    return named(n, name, L.Pooling(bottom, pool=getattr(P.Pooling, kind), kernel_size=kernel_size, **geometry))


def max_pool(n: Net, name: str, bottom: Top) -> Top:
    """MAX 3x3, stride 2. Caffe rounds the output size up."""
    return pool(n, name, bottom, "MAX", 3, stride=2)


def lrn(n: Net, name: str, bottom: Top) -> Top:
    """GoogLeNet's local response normalisation. The nets with batch normalisation keep it, too: the ImageNet weights
    were trained with it, and without it most of what they know is lost."""
    if n.choice.drop_lrn:
        return bottom
    return named(n, name, L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75))


def stem_v1(n: Net, data: Top) -> Top:
    """GoogLeNet's layers before its first inception module ("pre-treatment layer" in the paper): 192 deep, size / 8."""
    x = conv(n, "conv1/7x7_s2", data, 64, relu="conv1/relu_7x7", kernel_size=7, stride=2, pad=3)
    x = max_pool(n, "pool1/3x3_s2", x)
    x = lrn(n, "pool1/norm1", x)
    x = chain(n, "conv2/", x, conv, ("3x3_reduce", 64, 1), ("3x3", 192, 3))
    x = lrn(n, "conv2/norm2", x)
    return max_pool(n, "pool2/3x3_s2", x)


def inception_v1(n: Net, name: str, bottom: Top) -> Top:
    """The Inception V1 module (paper, section 3.1): 1x1, 3x3 and 5x5 convolutions and a pooling, side by side."""
    n1x1, n3x3_reduce, n3x3, n5x5_reduce, n5x5, pool_proj = GOOGLENET[name]
    return branches(
        n, f"{name}/", bottom, conv, ("pool", "output"), (n.choice.pool or n.variant.pool).upper(),
        [("1x1", n1x1, 1)],
        [("3x3_reduce", n3x3_reduce, 1), ("3x3", n3x3, 3)],
        [("5x5_reduce", n5x5_reduce, 1), ("5x5", n5x5, 5)],
        [("pool_proj", pool_proj, 1)],
    )  # fmt: skip


def ordinary_convolution(n: Net, name: str, bottom: Top) -> Top:
    """ILGNet-without-Inc.'s stand-in for an inception module: one 3x3 convolution of the same output depth (paper,
    section 4.2). No source has weights for it, so it learns in a frozen trunk, too."""
    n1x1, _, n3x3, _, n5x5, pool_proj = GOOGLENET[name]
    depth = n1x1 + n3x3 + n5x5 + pool_proj
    return conv(n, f"{name}/conv3x3", bottom, depth, lr=1, top=f"{name}/output", kernel_size=3, pad=1)


# --- Inception V3 and V4 ---------------------------------------------------------------------------------------------


STEM = (("1_3x3_s2", 32, 3, 0, 2), ("2_3x3_s1", 32, 3, 0), ("3_3x3_s1", 64, 3))  # V3's and V4's


def stem_v3(n: Net, data: Top) -> Top:
    """Inception V3's layers before its first module: 192 deep."""
    x = chain(n, "conv", data, conv_v3, *STEM)
    x = max_pool(n, "pool1_3x3_s2", x)
    x = chain(n, "conv4_3x3", x, conv_v3, ("_reduce", 80, 1), ("", 192, 3, 0))
    return max_pool(n, "pool2_3x3_s2", x)


def inception_v3_a(n: Net, name: str, bottom: Top) -> Top:
    """Inception V3's first kind of module: V1's, with the large convolution factorised into two of 3x3."""
    return branches(
        n, f"{name}_", bottom, conv_v3, ("pool", "output"), "AVE",
        [("1x1", 64, 1)],
        [("5x5_reduce", 48, 1), ("5x5", 64, 5)],
        [("3x3_reduce", 64, 1), ("3x3_1", 96, 3), ("3x3_2", 96, 3)],
        [("pool_proj", 32 if name == "inception_a1" else 64, 1)],
    )  # fmt: skip


def max_pool_like(n: Net, name: str, bottom: Top, like: Top) -> Top:
    """MAX 3x3, stride 2, to stand beside the 3x3 convolution `like` of the same stride. Caffe rounds a pooling's size
    up and a convolution's down: where a size is even, as behind 224 pixels, the pooling's last row and column have no
    counterpart, and are cropped. At 299 pixels, which V4's weights were trained with, there is nothing to crop."""
    x = max_pool(n, name, bottom)
    return named(n, f"{name}_crop", L.Crop(x, like, axis=2))


def stem_v4(n: Net, data: Top) -> Top:
    """Inception V4's layers before its first module: three times two branches side by side; 384 deep."""
    x = chain(n, "conv", data, conv_v3, *STEM)
    a = chain(n, "inception_stem1_3x3", x, conv_v3, ("_s2", 96, 3, 0, 2))
    b = max_pool_like(n, "inception_stem1_pool", x, a)
    x = named(n, "inception_stem1", L.Concat(b, a))

    a = chain(n, "inception_stem2_3x3", x, conv_v3, ("_reduce", 64, 1), ("", 96, 3, 0))
    b = chain(n, "inception_stem2_1x7", x, conv_v3, ("_reduce", 64, 1))
    b = conv_v3(n, "inception_stem2_1x7", b, 64, kernel_h=1, kernel_w=7, pad_h=0, pad_w=3)
    b = conv_v3(n, "inception_stem2_7x1", b, 64, kernel_h=7, kernel_w=1, pad_h=3, pad_w=0)
    b = chain(n, "inception_stem2_3x3", b, conv_v3, ("_2", 96, 3, 0))
    x = named(n, "inception_stem2", L.Concat(a, b))

    a = chain(n, "inception_stem3_3x3", x, conv_v3, ("_s2", 192, 3, 0, 2))
    b = max_pool_like(n, "inception_stem3_pool", x, a)
    return named(n, "inception_stem3", L.Concat(a, b))


def inception_v4_a(n: Net, name: str, bottom: Top) -> Top:
    """Inception V4's first kind of module: 384 deep."""
    return branches(
        n, f"{name}_", bottom, conv_v3, ("pool_ave", "concat"), "AVE",
        [("1x1_2", 96, 1)],
        [("3x3_reduce", 64, 1), ("3x3", 96, 3)],
        [("3x3_2_reduce", 64, 1), ("3x3_2", 96, 3), ("3x3_3", 96, 3)],
        [("1x1", 96, 1)],
    )  # fmt: skip


# --- MobileNet -------------------------------------------------------------------------------------------------------


def relu6(n: Net, name: str, x: Top) -> Top:
    """min(x, 6) of a ReLU's output; without a Clip layer 6 - ReLU(6 - x). None of them works in place: in the backward
    pass Caffe's Clip looks at its bottom, and lets through what is 6."""
    if not n.choice.no_clip:
        return named(n, f"{name}6", L.Clip(x, min=0, max=6))
    rest = named(n, f"{name}_rest", L.Power(x, scale=-1, shift=6))
    rest = named(n, f"{name}_rest_relu", L.ReLU(rest, in_place=True))
    return named(n, f"{name}6", L.Power(rest, scale=-1, shift=6))


def conv_mobilenet(n: Net, name: str, bottom: Top, depth: int, stride: int = 1, **geometry) -> Top:
    """A 3x3 convolution, batch normalisation and ReLU6 of MobileNet, with Keras's names and eps.

    At stride 2 Keras pads the far side alone. That is a 4x4 kernel whose first row and column are 0, with pad 1."""
    geometry |= dict(kernel_size=4, stride=2) if stride == 2 else dict(kernel_size=3)
    return relu6(n, f"{name}_relu", conv_v3(n, name, bottom, depth, pad=1, **geometry))


def depthwise_separable(n: Net, number: int, bottom: Top, channels: int, depth: int, stride: int) -> Top:
    """MobileNet's block (Howard et al., 2017, section 3.1): a 3x3 convolution of each channel, then 1x1 to `depth`."""
    x = conv_mobilenet(n, f"conv_dw_{number}", bottom, channels, stride, group=channels)
    return relu6(n, f"conv_pw_{number}_relu", conv_v3(n, f"conv_pw_{number}", x, depth, kernel_size=1))


# --- The heads -------------------------------------------------------------------------------------------------------


def sized(n: Net, name: str) -> str:
    """Behind a spatial pyramid a layer's weights have another shape, so it has another name: loading weights by name
    stops at a shape that differs."""
    return f"{name}_spp" if n.choice.spp else name


def pyramid(n: Net, name: str, bottom: Top, kind: str) -> Top:
    """Spatial pyramid pooling: a vector of 21 values a channel (1x1, 2x2 and 4x4 bins), whatever the photo's size."""
    return named(n, name, L.SPP(bottom, pyramid_height=PYRAMID_HEIGHT, pool=getattr(P.SPP, kind)))


def inner_product(n: Net, name: str, bottom: Top, depth: int, lr: int, bias: float, filler: dict = XAVIER) -> Top:
    return named(
        n,
        name,
        L.InnerProduct(bottom, param=rates(lr), num_output=depth, weight_filler=filler, bias_filler=constant(bias)),
    )


def connected(n: Net, name: str, bottom: Top, depth: int, lr: int, relu: str, drop: str) -> Top:
    """InnerProduct -> ReLU -> Dropout."""
    x = inner_product(n, name, bottom, depth, lr, 0.2)
    x = named(n, relu, L.ReLU(x, in_place=True))
    return named(n, drop, L.Dropout(x, in_place=True, dropout_ratio=DROPOUT))


def new_layer(n: Net, name: str, bottom: Top, depth: int, drop: str = "") -> Top:
    """A connected layer that is new in ILGNet, and learns at ten times the rate of what GoogLeNet brought."""
    return connected(n, name, bottom, depth, 10, f"{name}_relu", drop or f"{name}_drop")


def local_head(n: Net, name: str, bottom: Top) -> Top:
    """256 local features of one inception module's whole output (paper, section 3.2)."""
    if n.choice.spp:
        bottom = pyramid(n, f"{name}_pyramid", bottom, "MAX")
    return new_layer(n, sized(n, name), bottom, 256)


def reduced(n: Net, head: str, bottom: Top, lr: int = 1) -> Top:
    """How GoogLeNet's auxiliary heads begin: AVE pooling 5x5, stride 3, and a 1x1 convolution to 128 channels. It is
    part of the head: it learns in a frozen trunk, too, and has no batch normalisation."""
    x = bottom if n.choice.spp else pool(n, f"{head}/ave_pool", bottom, "AVE", 5, stride=3)
    x = conv(n, f"{head}/conv", x, 128, plain=True, lr=lr, kernel_size=1)
    return pyramid(n, f"{head}/pyramid", x, "AVE") if n.choice.spp else x


def global_head(n: Net, bottom: Top, lr: int = 1) -> Top:
    """512 global features of the last inception module (paper, section 3.2)."""
    return new_layer(n, sized(n, "temp3"), reduced(n, "loss1", bottom, lr), 512)


def answer(n: Net, head: str, bottom: Top, sized_by: bool = False) -> Top:
    """The last layer with weights: as many outputs as the target has, two for two classes.

    Where it learns from votes its weights start at 0. GoogLeNet's features are large, and xavier would begin with
    scores of +-20: in a Softmax of ten that leaves the earth mover's distance no gradient, in a mean such an error."""
    target = TARGETS[n.choice.target]
    name = f"{head}/{target.layer}"
    filler = constant(0) if target.label else XAVIER
    return inner_product(n, sized(n, name) if sized_by else name, bottom, target.outputs, 10, target.bias, filler)


def connected_local_global(n: Net, local1: Top, local2: Top, global_: Top) -> Top:
    """The connected layer of local and global features, 256 + 256 + 512 = 1024, and the classifier (section 3.2)."""
    x = named(n, "temp", L.Concat(local1, local2, global_))
    x = new_layer(n, "temp_cjy", x, 1024, drop="temp3_cjy_drop")
    return answer(n, "loss1", x)


def auxiliary_head(n: Net, head: str, bottom: Top) -> Top:
    """GoogLeNet's auxiliary classifier, for the target: `head` is loss1 or loss2."""
    x = reduced(n, head, bottom)
    x = connected(n, sized(n, f"{head}/fc"), x, 1024, 1, f"{head}/relu_fc", f"{head}/drop_fc")
    return answer(n, head, x)


def global_pool(n: Net, name: str, bottom: Top, dropout: float) -> Top:
    """The mean of each channel over the whole picture, whatever its size, and dropout."""
    x = named(n, name, L.Pooling(bottom, pool=P.Pooling.AVE, global_pooling=True))
    return named(n, f"{name}_drop", L.Dropout(x, in_place=True, dropout_ratio=dropout))


def final_head(n: Net, bottom: Top) -> Top:
    """GoogLeNet's own classifier, for the target."""
    if n.choice.spp:
        x = pyramid(n, "loss3/pyramid", bottom, "AVE")
    else:
        x = pool(n, "pool5/7x7_s1", bottom, "AVE", 7, stride=1)
    x = named(n, "pool5/drop_7x7_s1", L.Dropout(x, in_place=True, dropout_ratio=0.4))
    return answer(n, "loss3", x, sized_by=True)


def learns(n: Net) -> bool:
    """Whether the net has labels: it is for training and testing, else for deployment."""
    return "label" in n.tops


def score(n: Net, name: str, classifier: Top, weight: float = 1) -> None:
    """The loss, where there is a label; else, under the same name, the probabilities [low, high] or the shares of the
    votes (a mean or a rank is the classifier's output as it is)."""
    target = TARGETS[n.choice.target]
    if not learns(n):
        if target.outputs > 1:
            n[name] = L.Softmax(classifier)
    elif target.loss is not None:
        target.loss(n, name, classifier, weight)
    else:
        n[name] = L.SoftmaxWithLoss(classifier, n["label"], **weighted(weight))


def accuracy(n: Net, name: str, classifier: Top) -> None:
    """The share of right answers, in testing only."""
    test = TARGETS[n.choice.target].test
    if test is not None:
        test(n, name, classifier)
    else:
        n[name] = L.Accuracy(classifier, n["label"], **IN_TEST)
