# ruff: noqa: E501 - nets, a layer a line
"""Small nets on which Caffe's rules show: sharing, splits, in-place, phases and stages, loss weights, what gets gradients.

Each is a job for run_caffe.run_net, which answers with the net's structure and everything in it after one pass."""

from __future__ import annotations

NETS: dict[str, dict] = {}
REFUSED: dict[str, dict] = {}

IP = 'inner_product_param {{ num_output: {} weight_filler {{ type: "xavier" }} bias_filler {{ type: "uniform" }} }}'.format
# Gradients that cancel out (a bias before a BatchNorm, a bias in both branches of a difference) are rounding, nothing to compare.
NO_BIAS = 'convolution_param { num_output: 3 kernel_size: 3 pad: 1 bias_term: false weight_filler { type: "xavier" } }'
CONV = 'convolution_param {{ num_output: {} kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }}'.format
DATA = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 dim: 6 dim: 5 } } }
layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 3 } } }
"""
INPUTS = [["x", "normal", [3, 4, 6, 5]], ["y", "labels 2", [3]]]
FLAT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 7 } } }\n'
FLAT_INPUTS = [["x", "normal", [3, 7]]]
LOSS = 'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{}" bottom: "y" top: "loss" }}\n'.format


def layer(name: str, type_: str, bottom: str = "", top: str | None = None, text: str = "") -> str:
    """One layer; bottoms and tops separated by spaces, top defaults to the layer's name."""
    ends = [f'bottom: "{b}"' for b in bottom.split()] + [f'top: "{t}"' for t in (name if top is None else top).split()]
    return f'layer {{ name: "{name}" type: "{type_}" {" ".join(ends)} {text} }}\n'


def net(name: str, text: str, bottoms: list | None = None, refused: bool = False, **options) -> None:
    """Add a net; options: phase, level, stages, files, backward."""
    job = {
        "proto": text,
        "bottoms": INPUTS if bottoms is None else bottoms,
        "phase": "TRAIN",
        "seed": 11,
        "level": 0,
        "stages": [],
        "backward": True,
    }
    (REFUSED if refused else NETS)[name] = {**job, **options}


# ---- weights shared by name
SHARED = 'param { name: "w" lr_mult: 2 decay_mult: 0.5 } param { name: "b" }'
TWICE = layer("a", "InnerProduct", "x", text=SHARED + IP(7)) + layer("b", "InnerProduct", "a", text=SHARED + IP(7))
net("shared", FLAT + TWICE, FLAT_INPUTS)
net(
    "shared_without_rates",
    FLAT
    + layer("a", "InnerProduct", "x", text='param { name: "w" lr_mult: 3 }' + IP(7))
    + layer("b", "InnerProduct", "a", text='param { name: "w" }' + IP(7)),
    FLAT_INPUTS,
)
net(
    "shared_siamese",
    FLAT
    + layer("x2", "Input", text="input_param { shape { dim: 3 dim: 7 } }")
    + layer("a", "InnerProduct", "x", text=SHARED[: -len('param { name: "b" }')] + IP("4 bias_term: false"))
    + layer("a2", "InnerProduct", "x2", text='param { name: "w" }' + IP("4 bias_term: false"))
    + layer("loss", "EuclideanLoss", "a a2"),
    [*FLAT_INPUTS, ["x2", "normal", [3, 7]]],
)
net(
    "shared_within_a_layer",
    FLAT + layer("a", "Scale", "x", text='param { name: "w" } param { name: "w" } scale_param { bias_term: true }'),
    FLAT_INPUTS,
)
net(
    "shared_permissive",
    FLAT
    + layer("a", "InnerProduct", "x", text='param { name: "w" }' + IP(6))
    + layer("b", "InnerProduct", "a", text='param { name: "w" share_mode: PERMISSIVE }' + IP(7)),
    FLAT_INPUTS,
)
net(
    "shared_frozen_twin",
    FLAT
    + layer("a", "InnerProduct", "x", text='param { name: "w" lr_mult: 0 }' + IP(7))
    + layer("b", "InnerProduct", "a", text='param { name: "w" lr_mult: 0 }' + IP(7)),
    FLAT_INPUTS,
)
net(
    "shared_strict_mismatch",
    FLAT
    + layer("a", "InnerProduct", "x", text='param { name: "w" }' + IP(6))
    + layer("b", "InnerProduct", "a", text='param { name: "w" }' + IP(7)),
    FLAT_INPUTS,
    refused=True,
)
net(
    "shared_permissive_mismatch",
    FLAT
    + layer("a", "InnerProduct", "x", text='param { name: "w" }' + IP(6))
    + layer("b", "InnerProduct", "a", text='param { name: "w" share_mode: PERMISSIVE }' + IP(8)),
    FLAT_INPUTS,
    refused=True,
)
net(
    "shared_rates_differ",
    FLAT
    + layer("a", "InnerProduct", "x", text='param { name: "w" lr_mult: 2 }' + IP(7))
    + layer("b", "InnerProduct", "a", text='param { name: "w" lr_mult: 3 }' + IP(7)),
    FLAT_INPUTS,
    refused=True,
)
net(
    "shared_decays_differ",
    FLAT
    + layer("a", "InnerProduct", "x", text='param { name: "w" decay_mult: 2 }' + IP(7))
    + layer("b", "InnerProduct", "a", text='param { name: "w" decay_mult: 3 }' + IP(7)),
    FLAT_INPUTS,
    refused=True,
)

# ---- splits, in-place, loss weights
net(
    "split_three_ways",
    DATA
    + layer("c", "Convolution", "x", text=CONV(3))
    + layer("r", "ReLU", "c")
    + layer("p", "Pooling", "c", text="pooling_param { kernel_size: 2 stride: 2 }")
    + layer("s", "Eltwise", "c r")
    + layer("f", "InnerProduct", "s", text=IP(2))
    + LOSS("f")
    + layer("q", "Silence", "p", ""),
)
net(
    "split_of_a_loss",
    DATA
    + layer("f", "InnerProduct", "x", text=IP(2))
    + LOSS("f")
    + layer(
        "twice",
        "Power",
        "loss",
        text="power_param { scale: 2 }",
    ),
)
net(
    "in_place_chain",
    DATA
    + layer("c", "Convolution", "x", text=NO_BIAS)
    + layer("bn", "BatchNorm", "c", "c")
    + layer("sc", "Scale", "c", "c", "scale_param { bias_term: true filler { type: 'uniform' min: 0.5 max: 2 } }")
    + layer("r", "ReLU", "c", "c")
    + layer("d", "Dropout", "c", "c", "dropout_param { dropout_ratio: 0.3 }")
    + layer("f", "InnerProduct", "c", text=IP(2))
    + LOSS("f"),
)
net("in_place_chain_test", NETS["in_place_chain"]["proto"], phase="TEST")
net(
    "in_place_before_a_split",
    DATA
    + layer("c", "Convolution", "x", text=CONV(3))
    + layer("r", "ReLU", "c", "c")
    + layer("a", "Convolution", "c", text=CONV(2))
    + layer("b", "Convolution", "c", text=CONV(4))
    + layer("t", "Concat", "a b")
    + layer("r2", "ReLU", "t", "t")
    + layer("f", "InnerProduct", "t", text=IP(2))
    + LOSS("f"),
)
net(
    "weight_on_a_middle_top",
    DATA
    + layer("c", "Convolution", "x", text="loss_weight: 0.01 " + CONV(3))
    + layer("f", "InnerProduct", "c", text=IP(2))
    + LOSS("f"),
)
net(
    "two_losses",
    DATA
    + layer("f", "InnerProduct", "x", text=IP(2))
    + layer("g", "InnerProduct", "x", text=IP(3))
    + layer("loss2", "SoftmaxWithLoss", "g y", text="loss_weight: 0.3")
    + LOSS("f"),
)
net(
    "loss_weight_zero",
    DATA
    + layer("f", "InnerProduct", "x", text=IP(2))
    + layer("g", "InnerProduct", "x", text=IP(3))
    + layer("loss2", "SoftmaxWithLoss", "g y", text="loss_weight: 0")
    + LOSS("f"),
)
net(
    "two_losses_of_one_blob",
    DATA
    + layer("f", "InnerProduct", "x", text=IP(2))
    + layer("h", "HingeLoss", "f y", text="loss_weight: 2")
    + LOSS("f"),
)
net(
    "negative_loss_weight",
    DATA
    + layer("f", "InnerProduct", "x", text=IP(2))
    + layer("loss", "SoftmaxWithLoss", "f y", text="loss_weight: -1"),
)
net(
    "outputs_in_order",
    DATA
    + layer("zebra", "InnerProduct", "x", text=IP(2))
    + layer("apple", "InnerProduct", "x", text=IP(3))
    + layer("mango", "Pooling", "x", text="pooling_param { global_pooling: true }"),
)
net(
    "accuracy_beside_loss",
    DATA + layer("f", "InnerProduct", "x", text=IP(2)) + layer("acc", "Accuracy", "f y") + LOSS("f"),
    phase="TEST",
)

# ---- what gets a gradient
FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 } "
net(
    "frozen_trunk",
    DATA
    + layer("c", "Convolution", "x", text=FROZEN + CONV(3))
    + layer("r", "ReLU", "c", "c")
    + layer("f", "InnerProduct", "c", text=IP(2))
    + LOSS("f"),
)
net(
    "frozen_trunk_batchnorm",
    DATA
    + layer("c", "Convolution", "x", text=FROZEN + CONV(3))
    + layer("bn", "BatchNorm", "c", "c")
    + layer("f", "InnerProduct", "c", text=IP(2))
    + LOSS("f"),
)
net(
    "frozen_trunk_batchnorm_params",
    DATA
    + layer("c", "Convolution", "x", text=FROZEN + CONV(3))
    + layer("bn", "BatchNorm", "c", "c", "param { lr_mult: 0 } " * 3)
    + layer("f", "InnerProduct", "c", text=IP(2))
    + LOSS("f"),
)
net(
    "force_backward",
    "force_backward: true\n"
    + DATA
    + layer("c", "Convolution", "x", text=FROZEN + CONV(3))
    + layer("f", "InnerProduct", "c", text=FROZEN + IP(2))
    + LOSS("f"),
)
net(
    "propagate_down_false",
    DATA
    + layer("c", "Convolution", "x", text=CONV(3))
    + layer("f", "InnerProduct", "c", text="propagate_down: false " + IP(2))
    + LOSS("f"),
)
net(
    "propagate_down_true",
    DATA
    + layer("c", "Convolution", "x", text="propagate_down: true " + FROZEN + CONV(3))
    + layer("f", "InnerProduct", "c", text=IP(2))
    + LOSS("f"),
)
net(
    "propagate_down_one_branch",
    DATA
    + layer("a", "Convolution", "x", text=CONV(3))
    + layer("b", "Convolution", "x", text=CONV(3))
    + layer("s", "Eltwise", "a b", text="propagate_down: true propagate_down: false")
    + layer("f", "InnerProduct", "s", text=IP(2))
    + LOSS("f"),
)
net(
    "branch_without_a_loss",
    DATA
    + layer("c", "Convolution", "x", text=CONV(3))
    + layer("side", "Convolution", "c", text=CONV(2))
    + layer("quiet", "Silence", "side", "")
    + layer("f", "InnerProduct", "c", text=IP(2))
    + LOSS("f"),
)
net("no_loss_at_all", DATA + layer("c", "Convolution", "x", text=CONV(3)) + layer("f", "InnerProduct", "c", text=IP(2)))
net(
    "propagate_down_count",
    DATA + layer("c", "Convolution", "x", text="propagate_down: true propagate_down: true " + CONV(3)),
    refused=True,
)

# ---- rules of phase, stage and level
RULES = (
    DATA
    + layer("f", "InnerProduct", "x", text=IP(2))
    + "".join(
        layer(name, "Power", "f", text=f"power_param {{ scale: {i + 2} }} {rule}")
        for i, (name, rule) in enumerate(
            {
                "train": "include { phase: TRAIN }",
                "test": "include { phase: TEST }",
                "not_test": "exclude { phase: TEST }",
                "level_two_up": "include { min_level: 2 }",
                "level_one_down": "include { max_level: 1 }",
                "level_one_two": "include { min_level: 1 max_level: 2 }",
                "stage_a": 'include { stage: "a" }',
                "stages_a_and_b": 'include { stage: "a" stage: "b" }',
                "stage_a_or_b": 'include { stage: "a" } include { stage: "b" }',
                "not_stage_a": 'include { not_stage: "a" }',
                "stage_b_in_test": 'include { phase: TEST stage: "b" }',
                "but_not_a_in_train": 'exclude { phase: TRAIN stage: "a" }',
                "two_excludes": 'exclude { stage: "b" } exclude { min_level: 3 }',
            }.items()
        )
    )
)
for phase in ("TRAIN", "TEST"):
    for level, stages in ((0, []), (1, ["a"]), (2, ["a", "b"]), (3, ["b", "c"])):
        net(f"rules_{phase.lower()}_{level}", RULES, phase=phase, level=level, stages=stages, backward=False)
net("state_in_the_net", 'state { phase: TEST level: 2 stage: "a" }\n' + RULES, backward=False)
net(
    "own_phase",
    DATA
    + layer("d", "Dropout", "x", text="phase: TEST")
    + layer("e", "Dropout", "x")
    + layer("f", "Dropout", "x", text="phase: TRAIN"),
    phase="TEST",
    backward=False,
)
net(
    "include_and_exclude",
    DATA + layer("f", "InnerProduct", "x", text=IP(2) + "include { phase: TRAIN } exclude { phase: TEST }"),
    refused=True,
)

# ---- old ways to say it
net(
    "input_dims",
    'name: "old" input: "x" input_dim: 3 input_dim: 4 input_dim: 6 input_dim: 5\n'
    + layer("f", "InnerProduct", "x", text=IP(2)),
    INPUTS[:1],
)
net(
    "input_shapes",
    'input: "x" input_shape { dim: 3 dim: 4 dim: 6 dim: 5 } input: "y" input_shape { dim: 3 }\n'
    + layer("f", "InnerProduct", "x", text=IP(2))
    + LOSS("f"),
)
net(
    "two_inputs_by_dims",
    'input: "x" input_dim: 3 input_dim: 4 input_dim: 6 input_dim: 5 input: "y" input_dim: 3 input_dim: 1 input_dim: 1 input_dim: 1\n'
    + layer("f", "InnerProduct", "x", text=IP(2))
    + LOSS("f"),
    [INPUTS[0], ["y", "labels 2", [3, 1, 1, 1]]],
)
V1 = """
input: "x" input_dim: 3 input_dim: 4 input_dim: 6 input_dim: 5
input: "y" input_dim: 3 input_dim: 1 input_dim: 1 input_dim: 1
layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layers { name: "r" type: RELU bottom: "c" top: "c" }
layers { name: "p" type: POOLING bottom: "c" top: "p" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layers { name: "n" type: LRN bottom: "p" top: "n" lrn_param { local_size: 3 alpha: 0.1 } }
layers { name: "t" type: CONCAT bottom: "n" bottom: "p" top: "t" concat_param { concat_dim: 1 } }
layers { name: "f" type: INNER_PRODUCT bottom: "t" top: "f" param: "w" param: "" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "f" bottom: "y" top: "loss" loss_weight: 0.5 }
layers { name: "acc" type: ACCURACY bottom: "f" bottom: "y" top: "acc" include: { phase: TEST } }
"""
for phase in ("TRAIN", "TEST"):
    net(f"v1_{phase.lower()}", V1, [INPUTS[0], ["y", "labels 2", [3, 1, 1, 1]]], phase=phase)
V0 = """
input: "x" input_dim: 3 input_dim: 4 input_dim: 6 input_dim: 5
layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "x" top: "pad" }
layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 3 stride: 2 group: 2 weight_filler { type: "xavier" } blobs_lr: 1 blobs_lr: 2 } bottom: "pad" top: "c" }
layers { layer { name: "r" type: "relu" } bottom: "c" top: "c" }
layers { layer { name: "p" type: "pool" pool: MAX kernelsize: 2 stride: 1 } bottom: "c" top: "p" }
layers { layer { name: "f" type: "innerproduct" num_output: 3 weight_filler { type: "xavier" } biasterm: false } bottom: "p" top: "f" }
layers { layer { name: "s" type: "softmax" } bottom: "f" top: "s" }
"""
net("v0", V0, INPUTS[:1])

# ---- refused
net("unknown_bottom", DATA + layer("f", "InnerProduct", "nobody", text=IP(2)), refused=True)
net(
    "top_made_twice",
    DATA + layer("f", "InnerProduct", "x", text=IP(2)) + layer("g", "InnerProduct", "x", "f", IP(2)),
    refused=True,
)
net("unknown_type", DATA + layer("f", "NoSuchLayer", "x"), refused=True)
net("no_type", DATA + 'layer { name: "f" bottom: "x" top: "f" }', refused=True)
net("unknown_field", DATA + layer("f", "InnerProduct", "x", text="no_such_field: 3"), refused=True)
net("too_many_bottoms", DATA + layer("f", "InnerProduct", "x y", text=IP(2)), refused=True)
net("too_many_tops", DATA + layer("f", "InnerProduct", "x", "f g", IP(2)), refused=True)
net(
    "too_many_params",
    DATA + layer("f", "InnerProduct", "x", text="param { } param { } param { } " + IP(2)),
    refused=True,
)
net("not_a_net", "this is no prototxt", refused=True)

# ---- parameters that the prototxt itself gives
MATRIX = "blobs { shape { dim: 7 dim: 7 } " + " ".join(f"data: {(i * 37 % 19 - 9) / 10}" for i in range(49)) + " } "
VECTOR = "blobs { shape { dim: 7 } " + " ".join(f"data: {i / 4}" for i in range(7)) + " } "
OLD = MATRIX.replace("shape { dim: 7 dim: 7 }", "num: 1 channels: 1 height: 7 width: 7") + VECTOR.replace(
    "data", "double_data"
).replace("shape { dim: 7 }", "num: 1 channels: 1 height: 1 width: 7")
for name, text in {
    "inner_product": layer("a", "InnerProduct", "x", text=MATRIX + VECTOR + IP(7))
    + layer("b", "InnerProduct", "a", text=IP(3)),
    "old_shapes": layer("a", "InnerProduct", "x", text=OLD + IP(7)),
    "no_parameters": layer("a", "ReLU", "x", text=VECTOR) + layer("b", "InnerProduct", "a", text=IP(3)),
    "scale_bias": layer("a", "Scale", "x", text=VECTOR + "scale_param { bias_term: true }"),
    "prelu": layer("a", "PReLU", "x", text=VECTOR),
    "bias": layer("a", "Bias", "x", text=VECTOR),
    "parameter": layer("p", "Parameter", text=VECTOR + "parameter_param { shape { dim: 7 } }")
    + layer("a", "Bias", "x p"),
    "shared": layer("a", "InnerProduct", "x", text='param { name: "w" }' + IP(7))
    + layer("b", "InnerProduct", "a", text='param { name: "w" }' + MATRIX + VECTOR + IP(7)),
}.items():
    net("blobs_" + name, FLAT + text, FLAT_INPUTS)
net(
    "blobs_batch_norm",
    FLAT
    + layer(
        "a",
        "BatchNorm",
        "x",
        text=VECTOR + VECTOR.replace("data: 0.0", "data: 1") + "blobs { shape { dim: 1 } data: 2 }",
    ),
    FLAT_INPUTS,
    phase="TEST",
)
net(
    "blobs_v1",
    'input: "x" input_dim: 3 input_dim: 7 input_dim: 1 input_dim: 1\nlayers { name: "a" type: INNER_PRODUCT bottom: "x" top: "a" '
    + MATRIX
    + VECTOR
    + IP(7)
    + "}",
    [["x", "normal", [3, 7, 1, 1]]],
)
net("blobs_shape", DATA + layer("a", "Convolution", "x", text=MATRIX + VECTOR + CONV(7)), refused=True)

# ---- recurrent layers that share by name: in TRAIN the steps after the first keep their own hidden parameters
SEQUENCES = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 2 dim: 5 } } }
layer { name: "cont" type: "Input" top: "cont" input_param { shape { dim: 4 dim: 2 } } }
"""
SEQUENCE_INPUTS = [["x", "normal", [4, 2, 5]], ["cont", "constant 1", [4, 2]]]
UNROLLED = 'recurrent_param { num_output: 5 weight_filler { type: "uniform" min: -0.5 max: 0.5 } bias_filler { type: "uniform" min: -0.2 max: 0.2 } }'
for type_, count in (("LSTM", 3), ("RNN", 5)):
    names = " ".join(f'param {{ name: "w{i}" }}' for i in range(count))
    for phase in ("TRAIN", "TEST"):
        net(
            f"shared_{type_.lower()}_{phase.lower()}",
            "force_backward: true\n" * (phase == "TEST")
            + SEQUENCES
            + layer("a", type_, "x cont", text=names + UNROLLED)
            + layer("b", type_, "a cont", text=names + UNROLLED),
            SEQUENCE_INPUTS,
            phase=phase,
        )
    net(
        f"shared_{type_.lower()}_hidden",
        SEQUENCES
        + layer("a", type_, "x cont", text='param { } param { } param { name: "w" } ' + UNROLLED)
        + layer("b", type_, "a cont", text='param { } param { } param { name: "w" } ' + UNROLLED),
        SEQUENCE_INPUTS,
    )
net("blobs_lstm", SEQUENCES + layer("a", "LSTM", "x cont", text=MATRIX + UNROLLED), SEQUENCE_INPUTS)

# ---- a Parameter's top under layers that give it other shapes: Flatten takes the gradient away
LEARNED = 'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 2 dim: 3 dim: 4 } } }\n'
TARGET = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 2 dim: 12 } } }\n'
WIDE = "reshape_param { shape { dim: 2 dim: -1 } }"
for name, text in {
    "flatten": layer("f", "Flatten", "p"),
    "reshape": layer("f", "Reshape", "p", text=WIDE),
    "flatten_flatten": layer("e", "Flatten", "p") + layer("f", "Flatten", "e"),
    "reshape_flatten": layer("e", "Reshape", "p", text=WIDE) + layer("f", "Flatten", "e"),
    "flatten_reshape": layer("e", "Flatten", "p") + layer("f", "Reshape", "e", text=WIDE),
    "power_flatten": layer("e", "Power", "p", text="power_param { scale: 2 shift: 1 }") + layer("f", "Flatten", "e"),
    "in_place_flatten": layer("e", "Power", "p", "p", "power_param { scale: 2 shift: 1 }") + layer("f", "Flatten", "p"),
    "split": layer("f", "Flatten", "p") + layer("g", "Power", "p", text="power_param { power: 2 } loss_weight: 0.5"),
    "slice_concat": layer("e", "Slice", "p") + layer("g", "Concat", "e") + layer("f", "Reshape", "g", text=WIDE),
}.items():
    net(
        "parameter_" + name, TARGET + LEARNED + text + layer("loss", "EuclideanLoss", "d f"), [["d", "normal", [2, 12]]]
    )
