"""Layer configurations that hypothesis draws, options and shapes together, for `make parity drawn`.

tests/bvlc/layers.py lists what was thought of; this looks for what was not. A strategy a type (or family) draws a
layer's body and its bottoms; `configurations(type)` is the strategy of whole jobs for run_caffe.run_layer. Sizes are
small and may be equal; what BVLC refuses may come out, and must be refused by us."""

from __future__ import annotations

from hypothesis import strategies as st

Body = tuple[str, list[tuple[str, list[int]]], int]  # the layer's text, (kind, shape) of each bottom, number of tops
STRATEGIES: dict[str, st.SearchStrategy[Body]] = {}
NEURONS = {
    "AbsVal": "", "BNLL": "", "Sigmoid": "", "TanH": "",
    "ELU": "elu_param {{ alpha: {a} }}",
    "Exp": "exp_param {{ base: 2.5 scale: {a} shift: {b} }}",
    "Power": "power_param {{ power: 2 scale: {a} shift: {b} }}",
    "ReLU": "relu_param {{ negative_slope: {a} }}",
    "Swish": "swish_param {{ beta: {a} }}",
    "Threshold": "threshold_param {{ threshold: {a} }}",
    "Clip": "clip_param {{ min: {b} max: {a} }}",
    "Log": "log_param {{ scale: {c} shift: 6 }}",
}  # fmt: skip


def shapes(least: int, most: int, top: int = 5) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, top), min_size=least, max_size=most)


def fields(draw, **choices: st.SearchStrategy) -> str:
    """`name: value` for some of the fields: each is left out half of the time."""
    return " ".join(f"{name}: {draw(values)}" for name, values in choices.items() if draw(st.booleans()))


def axis_of(shape: list[int], draw, least: int = 0, beyond: int = 0) -> int:
    """An axis of a shape, counted from either end."""
    axis = draw(st.integers(least, max(least, len(shape) - 1 + beyond)))
    return axis - len(shape) if axis < len(shape) and draw(st.booleans()) else axis


def drawn(*types: str):
    """Register a function of (draw, type) that gives a Body for these types."""

    def register(function):
        for name in types:
            STRATEGIES[name] = st.composite(lambda draw, name=name: function(draw, name))()
        return function

    return register


def per_axis(draw, name: str, short: str, axes: int, values: st.SearchStrategy[int], must: bool = False) -> str:
    """A size for all axes, one an axis, or SHORT_h and SHORT_w."""
    ways = ["one", "each"] + ["pair"] * (axes == 2) + ["none"] * (not must)
    way = draw(st.sampled_from(ways))
    if way == "pair" and not (short == "dilation"):
        return f"{short}_h: {draw(values)} {short}_w: {draw(values)}"
    count = {"one": 1, "each": axes, "pair": 2, "none": 0}[way]
    return " ".join(f"{name}: {draw(values)}" for _ in range(count))


@drawn("Convolution", "Deconvolution", "Im2col")
def convolution(draw, kind: str) -> Body:
    axes, group = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    bottoms = draw(st.integers(1, 2)) if kind != "Im2col" else 1
    shape = [draw(st.integers(1, 3)), group * draw(st.integers(1, 3)), *draw(shapes(axes, axes, 8))]
    text = " ".join(
        [
            per_axis(draw, "kernel_size", "kernel", axes, st.integers(1, 3), must=True),
            per_axis(draw, "stride", "stride", axes, st.integers(1, 3)),
            per_axis(draw, "pad", "pad", axes, st.integers(0, 2)),
            per_axis(draw, "dilation", "dilation", axes, st.integers(1, 2)),
            fields(draw, force_nd_im2col=st.sampled_from(["true", "false"])),
        ]
    )
    if kind != "Im2col":
        text += f" num_output: {group * draw(st.integers(1, 3))} group: {group} "
        text += fields(draw, bias_term=st.sampled_from(["true", "false"]))
    return f"convolution_param {{ {text} }}", [("normal", shape)] * bottoms, bottoms


@drawn("Pooling")
def pooling(draw, kind: str) -> Body:
    shape = [*draw(shapes(2, 2, 3)), *(draw(st.integers(3, 9)) for _ in range(2))]
    pool = draw(st.sampled_from(["MAX", "AVE"]))
    tops = draw(st.integers(1, 2)) if pool == "MAX" else 1
    text = f"pool: {pool} " + fields(draw, round_mode=st.sampled_from(["CEIL", "FLOOR"]))
    if draw(st.integers(0, 4)) == 0:
        return f"pooling_param {{ {text} global_pooling: true }}", [("ties", shape)], tops
    kernel = draw(st.integers(1, 3))
    # a step beyond the window can leave an empty one behind the image, where BVLC's backward pass leaves its memory
    text += f" kernel_size: {kernel} stride: {draw(st.integers(1, kernel))} pad: {draw(st.integers(0, kernel - 1))}"
    return f"pooling_param {{ {text} }}", [(draw(st.sampled_from(["ties", "normal"])), shape)], tops


@drawn("LRN")
def lrn(draw, kind: str) -> Body:
    text = fields(
        draw,
        local_size=st.sampled_from([1, 3, 5, 7]),
        alpha=st.sampled_from([1e-4, 0.5, 2.0]),
        beta=st.sampled_from([0.5, 0.75, 1.3]),
        k=st.sampled_from([1.0, 2.5]),
        norm_region=st.sampled_from(["ACROSS_CHANNELS", "WITHIN_CHANNEL"]),
    )
    return f"lrn_param {{ {text} }}", [("normal", draw(shapes(4, 4, 7)))], 1


@drawn("BatchNorm")
def batch_norm(draw, kind: str) -> Body:
    text = fields(
        draw,
        use_global_stats=st.sampled_from(["true", "false"]),
        eps=st.sampled_from([1e-5, 1e-2]),
        moving_average_fraction=st.sampled_from([0.999, 0.5]),
    )
    # of two values a channel, rounding is all that is left of the gradient
    shape = [draw(st.integers(5, 8)), *draw(shapes(1, 4))]
    return f"batch_norm_param {{ {text} }}", [("normal 1 2", shape)], 1


@drawn("Scale", "Bias")
def scale(draw, kind: str) -> Body:
    shape = draw(shapes(1, 5))
    axis = axis_of(shape, draw)
    start = axis % len(shape)
    end = draw(st.integers(start, len(shape)))
    bias = fields(draw, bias_term=st.sampled_from(["true", "false"])) if kind == "Scale" else ""
    if draw(st.booleans()):
        return (f"{kind.lower()}_param {{ axis: {axis} {bias} }}", [("normal", shape), ("normal", shape[start:end])], 1)
    count = -1 if end == len(shape) and draw(st.booleans()) else end - start
    return f"{kind.lower()}_param {{ axis: {axis} num_axes: {count} {bias} }}", [("normal", shape)], 1


@drawn("InnerProduct")
def inner_product(draw, kind: str) -> Body:
    shape = draw(shapes(1, 4))
    text = f"num_output: {draw(st.integers(1, 5))} axis: {axis_of(shape, draw)} " + fields(
        draw, bias_term=st.sampled_from(["true", "false"]), transpose=st.sampled_from(["true", "false"])
    )
    return f"inner_product_param {{ {text} }}", [("normal", shape)], 1


@drawn("Eltwise")
def eltwise(draw, kind: str) -> Body:
    count, operation = draw(st.integers(2, 4)), draw(st.sampled_from(["SUM", "PROD", "MAX"]))
    text = f"operation: {operation} " + fields(draw, stable_prod_grad=st.sampled_from(["true", "false"]))
    if operation == "SUM" and draw(st.booleans()):
        text += " ".join(f" coeff: {draw(st.sampled_from([-1.5, 0, 1, 2]))}" for _ in range(count))
    return f"eltwise_param {{ {text} }}", [("normal", draw(shapes(0, 4)))] * count, 1


@drawn("Concat")
def concat(draw, kind: str) -> Body:
    shape = draw(shapes(1, 4))
    axis = axis_of(shape, draw)
    bottoms = [list(shape) for _ in range(draw(st.integers(1, 4)))]
    for bottom in bottoms:
        bottom[axis] = draw(st.integers(1, 4))
    return f"concat_param {{ axis: {axis} }}", [("normal", bottom) for bottom in bottoms], 1


@drawn("Slice")
def slice_(draw, kind: str) -> Body:
    shape, tops = draw(shapes(1, 4)), draw(st.integers(1, 3))
    axis = axis_of(shape, draw)
    if draw(st.booleans()):
        shape[axis] = tops * draw(st.integers(1, 3))
        points = []
    else:
        steps = [draw(st.integers(1, 3)) for _ in range(tops)]
        shape[axis], points = sum(steps), [sum(steps[:i]) for i in range(1, tops)]
    return f"slice_param {{ axis: {axis} {' '.join(f'slice_point: {p}' for p in points)} }}", [("normal", shape)], tops


@drawn("Reshape")
def reshape(draw, kind: str) -> Body:
    shape = draw(shapes(1, 4))
    axis = draw(st.integers(-len(shape) - 1, len(shape)))
    dims = draw(st.lists(st.sampled_from([0, -1, 1, 2, *shape]), max_size=3))
    text = f"shape {{ {' '.join(f'dim: {d}' for d in dims)} }} axis: {axis} "
    text += fields(draw, num_axes=st.integers(-1, 3))
    return f"reshape_param {{ {text} }}", [("normal", shape)], 1


@drawn("Flatten")
def flatten(draw, kind: str) -> Body:
    shape = draw(shapes(1, 5))
    text = fields(draw, axis=st.just(axis_of(shape, draw)), end_axis=st.just(axis_of(shape, draw)))
    return f"flatten_param {{ {text} }}", [("normal", shape)], 1


@drawn("Reduction")
def reduction(draw, kind: str) -> Body:
    shape = draw(shapes(1, 4))
    text = fields(
        draw,
        operation=st.sampled_from(["SUM", "ASUM", "SUMSQ", "MEAN"]),
        axis=st.just(axis_of(shape, draw)),
        coeff=st.sampled_from([-2.0, 0.5]),
    )
    return f"reduction_param {{ {text} }}", [("normal", shape)], 1


@drawn("Softmax")
def softmax(draw, kind: str) -> Body:
    shape = draw(shapes(1, 4))
    return f"softmax_param {{ axis: {axis_of(shape, draw)} }}", [("normal 0 3", shape)], 1


@drawn("SoftmaxWithLoss", "Accuracy", "ArgMax", "SigmoidCrossEntropyLoss", "HingeLoss", "EuclideanLoss")
def losses(draw, kind: str) -> Body:
    shape = [draw(st.integers(1, 4)), draw(st.integers(2, 5)), *draw(shapes(0, 2, 3))]
    classes = shape[1]
    text = fields(
        draw,
        ignore_label=st.integers(0, 1),
        normalization=st.sampled_from(["FULL", "VALID", "BATCH_SIZE", "NONE"]),
        normalize=st.sampled_from(["true", "false"]),
    )
    labels = (f"labels {classes}", [shape[0], *shape[2:]])
    if kind == "SoftmaxWithLoss":
        text = f"loss_param {{ {text} }} " + " ".join(
            f"loss_weight: {weight}" for weight in draw(st.sampled_from([(), (), (0.5,)]))
        )
        return text, [("normal 0 3", shape), labels], draw(st.integers(1, 2))
    if kind == "Accuracy":
        text = fields(draw, top_k=st.integers(1, classes), ignore_label=st.integers(0, 1))
        return f"accuracy_param {{ {text} }}", [("ties", shape), labels], draw(st.integers(1, 2))
    if kind == "ArgMax":
        text = fields(
            draw,
            top_k=st.integers(1, classes),
            out_max_val=st.sampled_from(["true", "false"]),
            axis=st.just(axis_of(shape, draw)),
        )
        return f"argmax_param {{ {text} }}", [("normal", shape)], 1
    if kind == "SigmoidCrossEntropyLoss":
        return f"loss_param {{ {text} }}", [("normal 0 3", shape), ("labels 2", shape)], 1
    if kind == "HingeLoss":
        text = fields(draw, norm=st.sampled_from(["L1", "L2"]))
        return f"hinge_loss_param {{ {text} }}", [("normal", shape[:2]), (f"labels {classes}", [shape[0]])], 1
    shape = draw(shapes(1, 5))
    return "", [("normal", shape), ("normal", shape)], 1


@drawn("Crop")
def crop(draw, kind: str) -> Body:
    shape = draw(shapes(2, 4, 6))
    axis = axis_of(shape, draw)
    like = [draw(st.integers(1, size)) if i >= axis % len(shape) else size for i, size in enumerate(shape)]
    count = draw(st.sampled_from([0, 1, len(shape) - axis % len(shape)]))
    text = " ".join(f"offset: {draw(st.integers(0, 2))}" for _ in range(count))
    return f"crop_param {{ axis: {axis} {text} }}", [("normal", shape), ("normal", like)], 1


@drawn("Tile")
def tile(draw, kind: str) -> Body:
    shape = draw(shapes(1, 4))
    return f"tile_param {{ axis: {axis_of(shape, draw)} tiles: {draw(st.integers(1, 4))} }}", [("normal", shape)], 1


@drawn("MVN")
def mvn(draw, kind: str) -> Body:
    text = fields(
        draw,
        normalize_variance=st.sampled_from(["true", "false"]),
        eps=st.sampled_from([1e-9, 1e-2]),
        across_channels=st.sampled_from(["true", "false"]),
    )
    return f"mvn_param {{ {text} }}", [("normal 1 2", [*draw(shapes(2, 4)), draw(st.integers(5, 8))])], 1


@drawn("Embed")
def embed(draw, kind: str) -> Body:
    words = draw(st.integers(1, 6))
    text = f"num_output: {draw(st.integers(1, 5))} input_dim: {words} " + fields(
        draw, bias_term=st.sampled_from(["true", "false"])
    )
    return f"embed_param {{ {text} }}", [(f"labels {words}", draw(shapes(0, 3)))], 1


@drawn("SPP")
def spp(draw, kind: str) -> Body:
    shape = [*draw(shapes(2, 2, 3)), *(draw(st.integers(4, 12)) for _ in range(2))]
    text = f"pyramid_height: {draw(st.integers(1, 3))} pool: {draw(st.sampled_from(['MAX', 'AVE']))}"
    return f"spp_param {{ {text} }}", [("normal", shape)], 1


@drawn("PReLU")
def prelu(draw, kind: str) -> Body:
    text = fields(draw, channel_shared=st.sampled_from(["true", "false"]))
    return f"prelu_param {{ {text} }}", [("normal", draw(shapes(2, 5)))], 1


@drawn("BatchReindex", "Filter", "Split", "Silence")
def selecting(draw, kind: str) -> Body:
    shape = draw(shapes(1, 4))
    if kind == "BatchReindex":
        return "", [("normal", shape), (f"labels {shape[0]}", draw(shapes(1, 1)))], 1
    if kind == "Filter":
        return "", [("normal", shape), ("constant 1", [shape[0]])], 1
    count = draw(st.integers(1, 3))
    return "", [("normal", shape)] * (count if kind == "Silence" else 1), count if kind == "Split" else 0


@drawn(*NEURONS)
def neuron(draw, kind: str) -> Body:
    values = {name: draw(st.sampled_from([0.5, 1.0, 1.5])) for name in "ac"}
    text = NEURONS[kind].format(**values, b=draw(st.sampled_from([-1.0, 0.0, 0.25])))
    return text, [(draw(st.sampled_from(["normal", "ties"])), draw(shapes(0, 5)))], 1


@st.composite
def configurations(draw, kind: str) -> dict:
    """A job for run_caffe.run_layer: a net of one layer of the type."""
    body, bottoms, tops = draw(STRATEGIES[kind])
    in_place = kind in NEURONS and kind != "Threshold" and draw(st.booleans())
    names = [f"b{i}" for i in range(len(bottoms))]
    made = ["b0"] if in_place else [f"t{i}" for i in range(tops)]
    # Labels have no gradient: where bottom 1 holds some, a layer that learns before bottom 0 asks for one instead.
    learns = kind in ("Embed", "BatchReindex", "Filter")
    lines = ['name: "one"'] + ["force_backward: true"] * (not learns)
    for name, (_, shape) in zip(names, bottoms):
        dims = " ".join(f"dim: {size}" for size in shape)
        lines.append(f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}')
    if learns and kind != "Embed":
        lines.append('layer { name: "s" type: "Scale" bottom: "b0" top: "s" scale_param { axis: 0 num_axes: -1 } }')
    sources = ["s", *names[1:]] if learns and kind != "Embed" else names
    ends = [f'bottom: "{name}"' for name in sources] + [f'top: "{name}"' for name in made]
    lines.append(f'layer {{ name: "x" type: "{kind}" {" ".join(ends)} {body} }}')
    has_gradient = kind not in ("Accuracy", "ArgMax", "Threshold")
    return {
        "id": kind, "proto": "\n".join(lines) + "\n", "phase": draw(st.sampled_from(["TRAIN", "TEST"])),
        "seed": draw(st.integers(1, 1 << 20)), "tops": made, "passes": draw(st.integers(1, 2)), "again": [],
        "bottoms": [[name, values, shape] for name, (values, shape) in zip(names, bottoms)],
        "params": "batchnorm" if kind == "BatchNorm" else "normal 0 0.5", "backward": has_gradient,
        "memory": [], "writes": {}, "reads": "",
    }  # fmt: skip
