# ruff: noqa: E501 - rows of a table
"""The table of layer configurations on which torchcaffe is held against real Caffe, all 61 types.

A row names sizes instead of giving them: `row("Convolution", "group", "convolution_param { num_output: <2*o> ... }",
"n 2*c h w")`. Drawing the sizes (`case(row, seed)`) gives a concrete net: the committed goldens draw them from the row's
own name, `make parity` from a new seed. All sizes of a bottom differ, so that an engine which mixes up two axes is found.

A bottom is "sizes : data", data being what run_caffe.draw knows ("normal" when left out). `<...>` is an expression in the
sizes. A job runs in a folder of its own, where `inputs` is the folder of the committed files that data layers read."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).resolve().parent / "goldens" / "inputs"
RANGES = {
    "n": (2, 3),
    "m": (2, 4),
    "c": (2, 5),
    "d": (4, 6),
    "h": (6, 10),
    "w": (6, 10),
    "o": (2, 6),
    "t": (3, 5),
    "k": (3, 7),
}


@dataclass(frozen=True)
class Row:
    """One configuration. `text` is the layer's body besides name, type, bottoms and tops."""

    type: str
    name: str
    text: str = ""
    bottoms: tuple[str, ...] = ()
    tops: int = 1
    phase: str = "TRAIN"
    params: str = "normal 0 0.5"  # how parameters are drawn; "own": as filled, "batchnorm": its three blobs
    passes: int = 1  # forward and backward that often, each with its own data
    again: tuple[str, ...] = ()  # sizes of the bottoms in one more pass, after net.reshape()
    backward: bool = True
    force: bool = True  # force_backward, so that bottoms get diffs
    learn: bool = False  # bottom 0 goes through a Scale layer that learns first: a gradient flows without force
    in_place: bool = False
    memory: tuple[str, ...] = ()  # data and labels for MemoryData
    writes: tuple[tuple[str, str], ...] = ()  # files to write first: (name, text)
    reads: str = ""  # an HDF5 file to read back
    same: bool = False  # sizes may be equal (a tested special case)
    fails: bool = False  # BVLC refuses it (its reason is in goldens/errors.json), so must we,
    may_work: bool = False  # unless there is an answer that makes sense
    note: str = ""

    @property
    def id(self) -> str:
        return f"{self.type}/{self.name}"


ROWS: list[Row] = []
_IDS: set[str] = set()


def row(type: str, name: str, text: str = "", *bottoms: str, **options) -> None:
    """Add a configuration to the table; options as in Row."""
    new = Row(type, name, text, tuple(bottoms), **options)
    assert new.id not in _IDS, new.id
    _IDS.add(new.id)
    ROWS.append(new)


def _values(row: Row, rng: np.random.RandomState) -> dict[str, int]:
    """Sizes for the row's names, such that within each bottom all differ."""
    for _ in range(1000):
        values = {name: int(rng.randint(low, high + 1)) for name, (low, high) in RANGES.items()}
        shapes = [_shape(spec, values) for spec in row.bottoms]
        if row.same or all(len(set(s)) == len(s) for s in shapes):
            return values
    raise ValueError(f"{row.id}: no sizes that all differ")


def _shape(spec: str, values: dict[str, int]) -> list[int]:
    sizes = spec.split(":")[0].split()
    return [] if sizes == ["scalar"] else [int(eval(s, {}, values)) for s in sizes]  # noqa: S307 - our own table


def _fill(text: str, values: dict[str, int]) -> str:
    return re.sub(r"<([^<>]+)>", lambda m: str(eval(m.group(1), {}, values)), text)  # noqa: S307


def _kind(spec: str, values: dict[str, int]) -> str:
    return _fill(spec.split(":")[1].strip(), values) if ":" in spec else "normal"


def case(row: Row, seed: int | None = None) -> dict:
    """The job for run_caffe.run_layer: a concrete net of `row` with sizes drawn from `seed` (None: the golden's)."""
    code = zlib.crc32(row.id.encode())
    rng = np.random.RandomState(code if seed is None else (code + 7919 * (seed + 1)) % 2**32)
    values = _values(row, rng)
    bottoms = [[f"b{i}", _kind(spec, values), _shape(spec, values)] for i, spec in enumerate(row.bottoms)]
    tops = ["b0"] if row.in_place else [f"t{i}" for i in range(row.tops)]
    lines = ['name: "one"', "force_backward: true" if row.force else ""]
    for name, _, shape in bottoms:
        dims = " ".join(f"dim: {s}" for s in shape)
        lines.append(f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}')
    names = [name for name, _, _ in bottoms]
    if row.learn:
        lines.append('layer { name: "s" type: "Scale" bottom: "b0" top: "s" scale_param { axis: 0 num_axes: -1 } }')
        names[0] = "s"
    ends = [f'bottom: "{name}"' for name in names] + [f'top: "{name}"' for name in tops]
    lines.append(f'layer {{ name: "x" type: "{row.type}" {" ".join(ends)} {_fill(row.text, values)} }}')
    return {
        "id": row.id,
        "proto": "\n".join(line for line in lines if line) + "\n",
        "phase": row.phase,
        "seed": int(rng.randint(1, 2**30)),
        "bottoms": bottoms,
        "tops": tops,
        "params": row.params,
        "passes": row.passes,
        "again": [_shape(spec, values) for spec in row.again],
        "backward": row.backward,
        "memory": [[_kind(spec, values), _shape(spec, values)] for spec in row.memory],
        "writes": {name: _fill(text, values) for name, text in row.writes},
        "reads": row.reads,
    }


# ---- neuron layers -------------------------------------------------------------------------------------------------
NCHW = "n c h w"
for type_, texts in {
    "AbsVal": {"plain": ""},
    "BNLL": {"plain": ""},
    "ELU": {"plain": "", "alpha": "elu_param { alpha: 0.3 }", "alpha_zero": "elu_param { alpha: 0 }"},
    "Sigmoid": {"plain": ""},
    "TanH": {"plain": ""},
    "Swish": {"plain": "", "beta": "swish_param { beta: 1.7 }", "beta_zero": "swish_param { beta: 0 }"},
    "ReLU": {"plain": "", "negative_slope": "relu_param { negative_slope: 0.1 }"},
    "Exp": {
        "plain": "",
        "base": "exp_param { base: 2 }",
        "scale_shift": "exp_param { base: 3 scale: 0.5 shift: -0.2 }",
        "natural_scale": "exp_param { scale: -0.7 shift: 0.4 }",
    },
    "Power": {
        "plain": "",
        "square": "power_param { power: 2 }",
        "cube": "power_param { power: 3 scale: 0.5 shift: 1.5 }",
        "affine": "power_param { scale: -2 shift: 0.3 }",
        "zero": "power_param { power: 0 scale: 2 shift: 1 }",
        "zero_scale": "power_param { power: 3 scale: 0 shift: 2 }",
        "square_shift": "power_param { power: 2 scale: 3 shift: 0.5 }",
    },
    "Clip": {"plain": "clip_param { min: -0.5 max: 0.8 }", "one_side": "clip_param { min: 0 max: 6 }"},
    "Dropout": {
        "plain": "",
        "ratio": "dropout_param { dropout_ratio: 0.7 }",
        "ratio_small": "dropout_param { dropout_ratio: 0.1 }",
    },
}.items():
    for name_, text_ in texts.items():
        row(type_, name_, text_, NCHW, again=("n+1 c h+1 w+2",))
    first = next(iter(texts.values()))
    row(type_, "two_axes", first, "m k", passes=2)
    row(type_, "five_axes", first, "n c d h w+4")
    row(type_, "scalar", first, "scalar")
    if type_ not in ("AbsVal",):
        for name_, text_ in texts.items():
            row(type_, "in_place_" + name_, text_, NCHW, in_place=True)
row("AbsVal", "zeros", "", NCHW + " : ties")
row("AbsVal", "in_place", "", NCHW, in_place=True, fails=True)
row("BNLL", "large", "", NCHW + " : normal 0 40")
row("Sigmoid", "large", "", NCHW + " : normal 0 30")
row("TanH", "large", "", NCHW + " : normal 0 30")
row("Swish", "large", "", NCHW + " : normal 0 30")
row("ELU", "zeros", "elu_param { alpha: 0.5 }", NCHW + " : ties")
row("ReLU", "zeros", "relu_param { negative_slope: 0.3 }", NCHW + " : ties")
row("ReLU", "slope_above_one", "relu_param { negative_slope: 2 }", NCHW)
row("ReLU", "slope_below_zero", "relu_param { negative_slope: -0.5 }", NCHW)
row(
    "ReLU",
    "in_place_slope_below_zero",
    "relu_param { negative_slope: -0.5 }",
    NCHW,
    in_place=True,
    note="the backward pass looks at the output's sign, which is always positive here",
)
row("Clip", "at_the_limits", "clip_param { min: -1 max: 1 }", NCHW + " : ties")
row("Clip", "no_max", "clip_param { min: -1 }", NCHW, fails=True)
row("Dropout", "test", "dropout_param { dropout_ratio: 0.7 }", NCHW, phase="TEST")
row("Dropout", "two_passes", "dropout_param { dropout_ratio: 0.4 }", NCHW, passes=2)
row("Dropout", "ratio_zero", "dropout_param { dropout_ratio: 0 }", NCHW, note="only a debug build refuses it")
row("Power", "root", "power_param { power: 0.5 }", NCHW + " : uniform 0.1 4")
row("Power", "negative", "power_param { power: -1.5 scale: 0.5 shift: 0.1 }", NCHW + " : uniform 0.1 4")
row("Power", "of_zero", "power_param { power: 3 }", NCHW + " : ties", note="the gradient at 0 is 0 * inf = NaN")
row("Power", "square_of_zero", "power_param { power: 2 }", NCHW + " : ties")
row("Exp", "bad_base", "exp_param { base: -2 }", NCHW, fails=True)
POSITIVE = NCHW + " : uniform 0.2 5"
row("Log", "plain", "", POSITIVE, again=("n c+1 h w+1",))
row("Log", "base_two", "log_param { base: 2 }", POSITIVE)
row("Log", "scale_shift", "log_param { base: 10 scale: 2 shift: 0.5 }", POSITIVE)
row("Log", "two_axes", "", "m k : uniform 0.2 5")
row("Log", "in_place", "log_param { base: 3 scale: 0.5 shift: 1 }", POSITIVE, in_place=True)
row("Log", "of_negative", "", NCHW, note="NaN")
row("Threshold", "plain", "", NCHW, backward=False)
row("Threshold", "value", "threshold_param { threshold: 0.4 }", NCHW, backward=False)
row("Threshold", "at_the_value", "threshold_param { threshold: 1 }", NCHW + " : ties", backward=False)
row("Threshold", "in_place", "threshold_param { threshold: -0.3 }", "m k", in_place=True, backward=False)
row("Threshold", "backward", "", NCHW, fails=True, note="has no gradient")
row("PReLU", "filled", "", NCHW, params="own")
row("PReLU", "per_channel", "", NCHW, again=("n+1 c h+1 w+1",))
row("PReLU", "shared", "prelu_param { channel_shared: true }", NCHW)
row("PReLU", "two_axes", "", "m k", passes=2)
row("PReLU", "in_place", "", NCHW, in_place=True)
row("PReLU", "filler", "prelu_param { filler { type: 'uniform' min: 0.1 max: 0.4 } }", NCHW, params="own")
row("PReLU", "one_axis", "", "k", fails=True)
row("PReLU", "five_axes", "", "n c t h w", fails=True)
row("PReLU", "five_axes_shared", "prelu_param { channel_shared: true }", "n c t h w", fails=True)

for type_, field in {"ReLU": "relu", "Sigmoid": "sigmoid", "TanH": "tanh"}.items():
    row(type_, "engine", f"{field}_param {{ engine: CAFFE }}", NCHW)

# ---- convolution and its relatives -----------------------------------------------------------------------------------
for type_ in ("Convolution", "Deconvolution"):
    p = "convolution_param {{ {} weight_filler {{ type: 'xavier' }} bias_filler {{ type: 'constant' value: 0.2 }} }}".format
    row(type_, "plain", p("num_output: <o> kernel_size: 3"), NCHW, again=("n+1 c h+2 w+1",))
    row(type_, "filled", p("num_output: <o> kernel_size: 3"), NCHW, params="own")
    row(type_, "one_by_one", p("num_output: <o> kernel_size: 1"), NCHW)
    row(type_, "stride_pad", p("num_output: <o> kernel_size: 3 stride: 2 pad: 1"), NCHW)
    row(
        type_, "rectangle", p("num_output: <o> kernel_h: 2 kernel_w: 4 stride_h: 1 stride_w: 3 pad_h: 1 pad_w: 2"), NCHW
    )
    row(
        type_,
        "repeated_fields",
        p("num_output: <o> kernel_size: 3 kernel_size: 2 stride: 2 stride: 1 pad: 0 pad: 1"),
        NCHW,
    )
    row(type_, "no_bias", p("num_output: <o> kernel_size: 3 bias_term: false"), NCHW)
    row(type_, "group", p("num_output: <3*o> kernel_size: 3 group: 3"), "n 3*c h w+8")
    row(type_, "depthwise", p("num_output: <c> kernel_size: 3 group: <c> pad: 1 bias_term: false"), NCHW)
    row(type_, "dilation", p("num_output: <o> kernel_size: 3 dilation: 2 pad: 2"), NCHW)
    row(
        type_,
        "dilation_group",
        p("num_output: <2*o> kernel_size: 2 dilation: 3 dilation: 2 stride: 2 group: 2"),
        "n 2*c h w+8",
    )
    row(type_, "kernel_of_image", p("num_output: <o> kernel_h: <h> kernel_w: <w>"), NCHW)
    row(type_, "two_bottoms", p("num_output: <o> kernel_size: 2"), NCHW, NCHW, tops=2)
    row(type_, "nd_one", p("num_output: <o> kernel_size: 3 stride: 2 pad: 1"), "n c w")
    row(type_, "nd_three", p("num_output: <o> kernel_size: 2 stride: 1 stride: 2 stride: 3 pad: 1"), "n c d h w+4")
    row(
        type_,
        "nd_three_group",
        p("num_output: <2*o> kernel_size: 2 group: 2 dilation: 1 dilation: 2 dilation: 1"),
        "n 2*c d h+5 w+9",
    )
    row(type_, "force_nd", p("num_output: <o> kernel_size: 3 stride: 2 pad: 1 force_nd_im2col: true"), NCHW)
    row(type_, "axis_two", p("num_output: <o> kernel_size: 3 axis: 2"), "n t c h w+5")
    row(type_, "frozen", "param { lr_mult: 0 } param { lr_mult: 0 } " + p("num_output: <o> kernel_size: 3"), NCHW)
    row(
        type_,
        "frozen_bias",
        "param { lr_mult: 1 } param { lr_mult: 0 } " + p("num_output: <o> kernel_size: 3"),
        NCHW,
        passes=2,
    )
    row(type_, "loss_weight", "loss_weight: 0.4 " + p("num_output: <o> kernel_size: 3"), NCHW)
    row(type_, "no_kernel", p("num_output: <o>"), NCHW, fails=True)
    row(type_, "no_outputs", p("kernel_size: 3"), NCHW, fails=True)
    row(type_, "bad_group", p("num_output: 4 kernel_size: 3 group: 2"), "n 3 h w", fails=True, same=True)
    row(type_, "kernel_zero", p("num_output: <o> kernel_size: 0"), NCHW, fails=True)
    row(type_, "both_kernels", p("num_output: <o> kernel_size: 3 kernel_h: 3 kernel_w: 3"), NCHW, fails=True)
row("Convolution", "kernel_too_large", "convolution_param { num_output: 2 kernel_size: 20 }", NCHW, fails=True)
row("Convolution", "engine", "convolution_param { num_output: <o> kernel_size: 3 engine: CAFFE }", NCHW)
row("Deconvolution", "engine", "convolution_param { num_output: <o> kernel_size: 3 engine: CAFFE }", NCHW)
row(
    "Deconvolution",
    "upsampling",
    "convolution_param { num_output: <c> group: <c> kernel_size: 4 stride: 2 pad: 1 bias_term: "
    "false weight_filler { type: 'bilinear' } }",
    NCHW,
    params="own",
)
row("Im2col", "plain", "convolution_param { kernel_size: 3 }", NCHW)
row("Im2col", "stride_pad_dilation", "convolution_param { kernel_size: 3 stride: 2 pad: 2 dilation: 2 }", NCHW)
row(
    "Im2col",
    "rectangle",
    "convolution_param { kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 1 }",
    NCHW,
    again=("n+1 c h+1 w+2",),
)
row("Im2col", "nd_three", "convolution_param { kernel_size: 2 stride: 2 pad: 1 }", "n c d h w+4")
row("Im2col", "force_nd", "convolution_param { kernel_size: 3 pad: 1 force_nd_im2col: true }", NCHW)
row("Im2col", "axis_two", "convolution_param { kernel_size: 3 axis: 2 }", "n t c h w+5")

# ---- pooling ---------------------------------------------------------------------------------------------------------
for pool in ("MAX", "AVE"):
    p = ("pooling_param {{ pool: " + pool + " {} }}").format
    low = pool.lower() + "_"
    row("Pooling", low + "plain", p("kernel_size: 2 stride: 2"), NCHW, again=("n+1 c h+1 w+2",))
    row("Pooling", low + "overlap", p("kernel_size: 3 stride: 2"), NCHW)
    row("Pooling", low + "stride_one_pad", p("kernel_size: 3 stride: 1 pad: 1"), NCHW)
    row("Pooling", low + "pad", p("kernel_size: 3 stride: 2 pad: 1"), NCHW)
    row("Pooling", low + "pad_two", p("kernel_size: 4 stride: 3 pad: 2"), NCHW)
    row("Pooling", low + "rectangle", p("kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 2 pad_h: 1 pad_w: 0"), NCHW)
    row("Pooling", low + "global", p("global_pooling: true"), NCHW, again=("n+1 c h+3 w+2",))
    row("Pooling", low + "floor", p("kernel_size: 3 stride: 2 round_mode: FLOOR"), NCHW)
    row("Pooling", low + "floor_pad", p("kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR"), NCHW)
    row(
        "Pooling",
        low + "dropped_window",
        p("kernel_size: 2 stride: 2 pad: 1"),
        "n 5 h 3",
        same=True,
        note="the third window would start in the far padding: 2 come out",
    )
    row("Pooling", low + "ties", p("kernel_size: 3 stride: 2"), NCHW + " : ties")
    row(
        "Pooling",
        low + "empty_window",
        p("kernel_size: 1 stride: 3"),
        "n c 6 9",
        backward=False,
        same=True,
        note="windows that start at the edge are empty: -FLT_MAX or NaN (BVLC's backward pass would corrupt its heap)",
    )
    row("Pooling", low + "googlenet", p("kernel_size: 5 stride: 3"), "n c 14 11", same=True)
    row("Pooling", low + "pad_too_large", p("kernel_size: 2 pad: 2"), NCHW, fails=True)
    row("Pooling", low + "no_kernel", p("stride: 2"), NCHW, fails=True)
    row("Pooling", low + "global_with_kernel", p("global_pooling: true kernel_size: 2"), NCHW, fails=True)
    row("Pooling", low + "global_with_stride", p("global_pooling: true stride: 2"), NCHW, fails=True)
row("Pooling", "max_mask", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }", NCHW, tops=2)
row("Pooling", "max_mask_pad", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }", NCHW, tops=2)
row(
    "Pooling",
    "max_negative",
    "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }",
    NCHW + " : uniform -3 -1",
    note="padding never wins",
)
row("Pooling", "default", "pooling_param { kernel_size: 2 }", NCHW)
row("Pooling", "engine", "pooling_param { kernel_size: 2 engine: CAFFE }", NCHW)
row("Pooling", "ave_mask", "pooling_param { pool: AVE kernel_size: 3 }", NCHW, tops=2, fails=True)
row(
    "Pooling",
    "stochastic",
    "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }",
    NCHW + " : uniform 0.1 1",
    fails=True,
    may_work=True,
    note="BVLC has no CPU code for it",
)
row("Pooling", "three_axes", "pooling_param { kernel_size: 2 }", "n c h", fails=True)
for pool in ("MAX", "AVE"):
    for height in (1, 2, 3):
        row("SPP", f"{pool.lower()}_{height}", f"spp_param {{ pyramid_height: {height} pool: {pool} }}", NCHW)
row("SPP", "reshaped", "spp_param { pyramid_height: 2 }", NCHW, again=("n c h+2 w+3",))
row("SPP", "engine", "spp_param { pyramid_height: 2 engine: CAFFE }", NCHW)
row("SPP", "no_height", "spp_param { }", NCHW, fails=True)

# ---- normalisation ---------------------------------------------------------------------------------------------------
row("LRN", "across", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.75 }", "n 7 h w+5", same=True)
row("LRN", "across_googlenet", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }", "n 11 h w", same=True)
row("LRN", "across_k", "lrn_param { local_size: 5 alpha: 2 beta: 0.6 k: 1.7 }", NCHW, again=("n+1 c h+1 w+2",))
row("LRN", "across_defaults", "", NCHW)
row("LRN", "across_one", "lrn_param { local_size: 1 alpha: 0.3 }", NCHW)
row("LRN", "across_wide", "lrn_param { local_size: 9 alpha: 0.7 beta: 0.5 }", NCHW, note="wider than the channels")
row("LRN", "across_one_channel", "lrn_param { local_size: 3 alpha: 0.7 }", "n 1 h w")
row("LRN", "engine", "lrn_param { local_size: 3 engine: CAFFE }", NCHW)
row(
    "LRN",
    "within",
    "lrn_param { local_size: 3 alpha: 0.5 beta: 0.75 norm_region: WITHIN_CHANNEL }",
    NCHW,
    again=("n+1 c h+1 w+2",),
)
row("LRN", "within_five", "lrn_param { local_size: 5 alpha: 2 beta: 0.5 norm_region: WITHIN_CHANNEL }", NCHW)
row(
    "LRN",
    "within_k",
    "lrn_param { local_size: 3 alpha: 1 k: 5 norm_region: WITHIN_CHANNEL }",
    NCHW,
    note="k is ignored",
)
row("LRN", "even_size", "lrn_param { local_size: 4 }", NCHW, fails=True)
row(
    "LRN",
    "in_place",
    "lrn_param { local_size: 3 alpha: 0.5 }",
    NCHW,
    in_place=True,
    backward=False,
    note="BVLC's gradient is then wrong: it takes the output for the input",
)
row("LRN", "two_axes", "", "m k", fails=True)
for name_, bottom in {"four": NCHW, "two": "m+3 k+5", "three": "n+1 c+2 h+2", "five": "n c d h w+4"}.items():
    row("BatchNorm", "train_" + name_, "", bottom, params="batchnorm", passes=2)
    row("BatchNorm", "test_" + name_, "", bottom, params="batchnorm", phase="TEST", passes=2)
row("BatchNorm", "reshaped", "", NCHW, params="batchnorm", again=("n+2 c h+1 w+2",))
row("BatchNorm", "fresh", "", NCHW, params="own", passes=2, note="factor 0: the statistics so far count as nothing")
row("BatchNorm", "fresh_test", "", NCHW, params="own", phase="TEST", note="factor 0 in TEST: mean 0, variance 0")
row("BatchNorm", "global_in_train", "batch_norm_param { use_global_stats: true }", NCHW, params="batchnorm")
row(
    "BatchNorm", "batch_in_test", "batch_norm_param { use_global_stats: false }", NCHW, params="batchnorm", phase="TEST"
)
row(
    "BatchNorm",
    "eps_fraction",
    "batch_norm_param { eps: 0.01 moving_average_fraction: 0.9 }",
    NCHW,
    params="batchnorm",
    passes=3,
)
row("BatchNorm", "in_place", "", NCHW, params="batchnorm", in_place=True, passes=2)
row("BatchNorm", "in_place_test", "", NCHW, params="batchnorm", in_place=True, phase="TEST")
row(
    "BatchNorm",
    "three_params",
    "param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }",
    NCHW,
    params="batchnorm",
)
row("BatchNorm", "one_axis", "", "k+9", params="batchnorm", fails=True)
row("BatchNorm", "one_value_each", "", "1 k", params="batchnorm", note="m = 1: the variance's factor is 1")
row("BatchNorm", "lr_mult", "param { lr_mult: 1 }", NCHW, params="batchnorm", fails=True)
for name_, text_ in {
    "plain": "",
    "no_variance": "normalize_variance: false",
    "across": "across_channels: true",
    "across_no_variance": "across_channels: true normalize_variance: false",
    "eps": "eps: 0.5",
}.items():
    row("MVN", name_, f"mvn_param {{ {text_} }}", NCHW, again=("n+1 c h+1 w+1",))
# Of a count that is no multiple of 4 OpenBLAS multiplies the last values by 1/n apart: another rounding is all that is left.
row("MVN", "constant", "", "n c 8 w : constant 3", note="no variance at all")
row(
    "MVN",
    "constant_56",
    "",
    "2 3 7 8 : constant 3",
    note="56 times 3 times 1/56 is not 3: what is left is divided by itself",
)
row("Scale", "plain", "", NCHW, again=("n+1 c h+1 w+2",))
row("Scale", "filled", "scale_param { filler { type: 'gaussian' std: 0.3 } }", NCHW, params="own")
row("Scale", "filled_default", "scale_param { bias_term: true bias_filler { value: 0.3 } }", NCHW, params="own")
for type_, param in (("Scale", "scale_param"), ("Bias", "bias_param")):
    if type_ == "Bias":
        row(type_, "plain", "", NCHW, again=("n+1 c h+1 w+2",))
        row(type_, "filled", "bias_param { filler { type: 'uniform' min: -1 max: 1 } }", NCHW, params="own")
    row(type_, "in_place", "", NCHW, in_place=True)
    row(type_, "axis_zero", f"{param} {{ axis: 0 }}", NCHW)
    row(type_, "axis_last", f"{param} {{ axis: -1 }}", NCHW)
    row(type_, "two_axes", f"{param} {{ num_axes: 2 }}", NCHW)
    row(type_, "all_axes", f"{param} {{ num_axes: -1 }}", NCHW)
    row(type_, "everything", f"{param} {{ axis: 0 num_axes: -1 }}", NCHW)
    row(type_, "number", f"{param} {{ num_axes: 0 }}", NCHW)
    row(type_, "of_two_axes", "", "m k", passes=2)
    row(type_, "two_bottoms", "", NCHW, "c")
    row(type_, "two_bottoms_axis", f"{param} {{ axis: 2 }}", NCHW, "h w")
    row(type_, "two_bottoms_front", f"{param} {{ axis: 0 }}", NCHW, "n c h")
    row(type_, "two_bottoms_all", f"{param} {{ axis: 0 }}", NCHW, NCHW)
    row(type_, "two_bottoms_number", f"{param} {{ axis: 0 }}", NCHW, "scalar")
    row(type_, "two_bottoms_in_place", "", NCHW, "c", in_place=True)
    row(type_, "two_bottoms_mismatch", "", NCHW, "c+1", fails=True)
    row(type_, "axis_too_large", f"{param} {{ axis: 4 }}", NCHW, fails=True)
row("Scale", "bias", "scale_param { bias_term: true }", NCHW)
row("Scale", "bias_in_place", "scale_param { bias_term: true }", NCHW, in_place=True, passes=2)
row("Scale", "bias_two_axes", "scale_param { bias_term: true axis: 1 num_axes: 2 }", NCHW)
row("Scale", "two_bottoms_bias", "scale_param { bias_term: true }", NCHW, "c")

# ---- linear ----------------------------------------------------------------------------------------------------------
for name_, text_ in {
    "plain": "",
    "no_bias": "bias_term: false",
    "transpose": "transpose: true",
    "axis_two": "axis: 2",
    "axis_last": "axis: -1 transpose: true",
    "axis_zero": "axis: 0",
}.items():
    row(
        "InnerProduct",
        name_,
        f"inner_product_param {{ num_output: <o> {text_} }}",
        NCHW,
        again=() if name_ == "axis_zero" else ("n+2 c h w",),
    )
row(
    "InnerProduct",
    "filled",
    "inner_product_param { num_output: <o> weight_filler { type: 'xavier' } bias_filler { type: "
    "'constant' value: 0.2 } }",
    NCHW,
    params="own",
)
row("InnerProduct", "of_two_axes", "inner_product_param { num_output: <o> }", "m k", passes=2)
row("InnerProduct", "one_row", "inner_product_param { num_output: <o> }", "1 k")
row("InnerProduct", "frozen", "param { lr_mult: 0 } inner_product_param { num_output: <o> }", NCHW, passes=2)
row("InnerProduct", "no_outputs", "", NCHW, fails=True)
for name_, text_ in {"plain": "", "no_bias": "bias_term: false"}.items():
    row(
        "Embed",
        name_,
        f"embed_param {{ num_output: <o> input_dim: <k> {text_} }}",
        "m t+3 : labels <k>",
        force=False,
        passes=2,
    )
row("Embed", "column", "embed_param { num_output: <o> input_dim: <k> }", "m+2 1 : labels <k>", force=False)
row("Embed", "one_axis", "embed_param { num_output: <o> input_dim: <k> }", "m+9 : labels <k>", force=False)
row(
    "Embed",
    "bias_filler",
    "embed_param { num_output: <o> input_dim: <k> bias_filler { type: 'uniform' min: -1 } }",
    "m+9 : labels <k>",
    force=False,
    params="own",
)
row(
    "Embed",
    "filled",
    "embed_param { num_output: <o> input_dim: <k> weight_filler { type: 'uniform' min: -0.1 max: 0.1 } }",
    "t m+4 : labels <k>",
    force=False,
    params="own",
)
row("Embed", "to_bottom", "embed_param { num_output: <o> input_dim: <k> }", "m : labels <k>", fails=True)

# ---- shape -----------------------------------------------------------------------------------------------------------
row("Concat", "channels", "", NCHW, "n c+6 h w", same=True)
row("Concat", "three", "", NCHW, "n c+6 h w", "n c+3 h w", same=True)
row("Concat", "batch", "concat_param { axis: 0 }", NCHW, "n+6 c h w", same=True)
row("Concat", "width", "concat_param { axis: 3 }", NCHW, "n c h w+1", same=True)
row("Concat", "last", "concat_param { axis: -1 }", "m k", "m k+2")
row("Concat", "concat_dim", "concat_param { concat_dim: 2 }", NCHW, "n c h+4 w", same=True)
row("Concat", "one_bottom", "", NCHW)
row("Concat", "five_axes", "concat_param { axis: 2 }", "n c d h w+4", "n c d+9 h w+4", same=True)
row("Concat", "mismatch", "", NCHW, "n c h+1 w", same=True, fails=True)
row("Concat", "other_axes", "", NCHW, "n c", fails=True)
row("Slice", "even", "", "n 6 h w+5", tops=3, same=True)
row("Slice", "points", "slice_param { slice_point: 2 slice_point: 3 }", "n 9 h w+5", tops=3, same=True)
row("Slice", "batch", "slice_param { axis: 0 slice_point: 1 }", NCHW, tops=2)
row("Slice", "last", "slice_param { axis: -1 slice_point: 2 }", NCHW, tops=2)
row("Slice", "slice_dim", "slice_param { slice_dim: 2 slice_point: 3 }", NCHW, tops=2)
row("Slice", "one_top", "", NCHW)
row("Slice", "uneven", "", "n 5 h w", tops=2, same=True, fails=True)
row("Slice", "bad_point", "slice_param { slice_point: 9 }", "n 5 h w", tops=2, same=True, fails=True)
row(
    "Slice",
    "points_backward",
    "slice_param { slice_point: 3 slice_point: 2 }",
    "n 9 h w",
    tops=3,
    same=True,
    fails=True,
)
row("Split", "two", "", NCHW, tops=2, again=("n+1 c h w+1",))
row("Split", "three", "", "m k", tops=3)
row("Split", "one", "", NCHW)
row("Flatten", "plain", "", NCHW, again=("n+1 c+1 h w",))
row("Flatten", "middle", "flatten_param { axis: 1 end_axis: 2 }", NCHW)
row("Flatten", "front", "flatten_param { axis: 0 end_axis: -2 }", "n c d h w+4")
row("Flatten", "nothing", "flatten_param { axis: 2 end_axis: 2 }", NCHW)
for name_, text_ in {
    "copy_infer": "shape { dim: 0 dim: -1 }",
    "explicit": "shape { dim: 0 dim: <h> dim: <c> dim: <w> }",
    "axis": "shape { dim: -1 } axis: 2",
    "axis_num": "shape { dim: <h*w> } axis: 2 num_axes: 2",
    "insert": "shape { dim: 1 } axis: 1 num_axes: 0",
    "append": "shape { dim: 1 } axis: -1 num_axes: 0",
    "split": "shape { dim: <c> dim: 1 } axis: 1 num_axes: 1",
    "everything": "shape { dim: -1 }",
    "same": "shape { dim: 0 dim: 0 dim: 0 dim: 0 }",
}.items():
    row("Reshape", name_, f"reshape_param {{ {text_} }}", NCHW)
row(
    "Reshape",
    "reshaped",
    "reshape_param { shape { dim: 0 dim: -1 dim: 2 } }",
    "n c 6 w+9",
    again=("n+1 c 8 w",),
    same=True,
)
row("Reshape", "in_place", "reshape_param { shape { dim: 0 dim: -1 } }", NCHW, in_place=True, fails=True)
row("Reshape", "two_inferred", "reshape_param { shape { dim: -1 dim: -1 } }", NCHW, fails=True)
row("Reshape", "wrong_count", "reshape_param { shape { dim: 0 dim: 7 } }", "n c h", same=True, fails=True)
row("Reshape", "not_divisible", "reshape_param { shape { dim: -1 dim: 7 } }", "2 3 4", same=True, fails=True)
row("Tile", "channels", "tile_param { tiles: 3 }", NCHW, again=("n+1 c h w+1",))
row("Tile", "batch", "tile_param { axis: 0 tiles: 2 }", NCHW)
row("Tile", "last", "tile_param { axis: -1 tiles: 4 }", NCHW)
row("Tile", "once", "tile_param { axis: 2 tiles: 1 }", NCHW)
row("Tile", "no_tiles", "", NCHW, fails=True)
row("Crop", "plain", "", "n c h+4 w+9", NCHW)
row("Crop", "offset", "crop_param { offset: 2 }", "n c h+4 w+9", NCHW)
row("Crop", "offsets", "crop_param { offset: 3 offset: 1 }", "n c h+4 w+9", NCHW, same=True)
row("Crop", "channels", "crop_param { axis: 1 offset: 1 offset: 0 offset: 2 }", "n c+9 h+3 w+4", "n c h w", same=True)
row(
    "Crop", "width", "crop_param { axis: -1 offset: 3 }", "n c h w+4", NCHW, again=("n c h w+6", "n c h w+1"), same=True
)
row("Crop", "everything", "crop_param { axis: 0 offset: 1 }", "n+2 c+2 h+3 w+4", NCHW, same=True)
row("Crop", "three_axes", "crop_param { axis: 1 offset: 1 }", "n c+3 h+9", "n c h", same=True)
row("Crop", "too_large", "crop_param { offset: 5 }", "n c h+4 w+4", NCHW, same=True, fails=True)
row("Crop", "bad_offsets", "crop_param { axis: 1 offset: 1 offset: 1 }", "n c+3 h+3 w+3", NCHW, same=True, fails=True)
LEARN = {"force": False, "learn": True, "same": True}
row("Filter", "one", "loss_weight: 0.5", "5 c h w", "5 : given 1 0 0 1 1", **LEARN)
row("Filter", "two", "loss_weight: 0.5 loss_weight: 1", "4 c h w", "4 k", "4 : given 0 1 1 0", tops=2, **LEARN)
row("Filter", "all", "loss_weight: 0.5", "3 k", "3 : given 1 1 1", passes=2, **LEARN)
row("Filter", "last", "loss_weight: 0.5", "4 k", "4 1 : given 0 0 0 1", **LEARN)
row("Filter", "odd_selectors", "", "5 c", "5 : given 0.5 0 nan -1 -0.0", backward=False, **LEARN)
row(
    "Filter",
    "none",
    "propagate_down: true propagate_down: false",
    "3 k",
    "3 : given 0 0 0",
    force=False,
    same=True,
    backward=False,
)
row(
    "Filter",
    "selector_size",
    "propagate_down: true propagate_down: false",
    "3 k",
    "4 : given 1 0 1 1",
    force=False,
    same=True,
    fails=True,
)
PICK = "propagate_down: true propagate_down: false"
row("BatchReindex", "repeat", "loss_weight: 0.5", "3 c h w+9", "5 : given 2 0 0 1 2", **LEARN)
row("BatchReindex", "fewer", "loss_weight: 0.5", "5 k", "2 : given 4 1", passes=2, **LEARN)
row("BatchReindex", "order", "loss_weight: 0.5", "4 c h w+9", "4 : given 3 1 0 2", **LEARN)
row("BatchReindex", "out_of_range", PICK, "3 k", "2 : given 3 0", force=False, same=True, fails=True)
row("BatchReindex", "forced", "", "3 k", "2 : given 1 0", same=True, fails=True)
row("Silence", "one", "", NCHW, tops=0)
row("Silence", "two", "", NCHW, "m k", tops=0)
row("Silence", "reshaped", "", "m k", tops=0, again=("m+1 k+2",))

# ---- reductions and arithmetic ---------------------------------------------------------------------------------------
row("Eltwise", "sum", "", NCHW, NCHW, again=("n+1 c h w+1", "n+1 c h w+1"))
row("Eltwise", "sum_three", "eltwise_param { operation: SUM }", NCHW, NCHW, NCHW)
row("Eltwise", "coeff", "eltwise_param { operation: SUM coeff: 0.5 coeff: -2 coeff: 1 }", NCHW, NCHW, NCHW)
row("Eltwise", "prod", "eltwise_param { operation: PROD }", NCHW, NCHW, NCHW)
row("Eltwise", "prod_zeros", "eltwise_param { operation: PROD }", NCHW + " : ties", NCHW + " : ties")
row(
    "Eltwise",
    "prod_unstable",
    "eltwise_param { operation: PROD stable_prod_grad: false }",
    POSITIVE,
    POSITIVE,
    POSITIVE,
)
row(
    "Eltwise",
    "prod_unstable_zeros",
    "eltwise_param { operation: PROD stable_prod_grad: false }",
    NCHW + " : ties",
    NCHW + " : ties",
    note="0 / 0 = NaN",
)
row("Eltwise", "max", "eltwise_param { operation: MAX }", NCHW, NCHW)
row("Eltwise", "max_three", "eltwise_param { operation: MAX }", NCHW, NCHW, NCHW)
row("Eltwise", "max_ties", "eltwise_param { operation: MAX }", NCHW + " : ties", NCHW + " : ties", NCHW + " : ties")
row("Eltwise", "two_axes", "", "m k", "m k")
row("Eltwise", "mismatch", "", NCHW, "n c h w+1", fails=True)
row("Eltwise", "coeff_count", "eltwise_param { coeff: 2 }", NCHW, NCHW, fails=True)
row("Eltwise", "coeff_with_prod", "eltwise_param { operation: PROD coeff: 2 coeff: 1 }", NCHW, NCHW, fails=True)
row("Eltwise", "one_bottom", "", NCHW, fails=True)
for operation in ("SUM", "ASUM", "SUMSQ", "MEAN"):
    row("Reduction", operation.lower(), f"reduction_param {{ operation: {operation} }}", NCHW)
    row(
        "Reduction",
        operation.lower() + "_axis",
        f"reduction_param {{ operation: {operation} axis: 1 coeff: -0.7 }}",
        NCHW,
        again=("n+1 c h+1 w",),
    )
    row(
        "Reduction",
        operation.lower() + "_last",
        f"reduction_param {{ operation: {operation} axis: -1 coeff: 2 }}",
        NCHW,
    )
row("Reduction", "asum_zeros", "reduction_param { operation: ASUM axis: 2 }", NCHW + " : ties")
row("Reduction", "loss", "loss_weight: 0.5 reduction_param { operation: SUMSQ }", NCHW)
row("ArgMax", "plain", "", NCHW, backward=False)
row("ArgMax", "values", "argmax_param { out_max_val: true }", NCHW, backward=False)
row("ArgMax", "top_k", "argmax_param { top_k: 3 }", NCHW, backward=False)
row("ArgMax", "top_k_values", "argmax_param { top_k: 3 out_max_val: true }", NCHW, backward=False)
row("ArgMax", "axis", "argmax_param { axis: 1 top_k: 2 }", NCHW, backward=False, again=("n+1 c h w+1",))
row("ArgMax", "axis_values", "argmax_param { axis: -1 top_k: 2 out_max_val: true }", NCHW, backward=False)
row("ArgMax", "ties", "argmax_param { axis: 2 }", NCHW + " : ties", backward=False)
row("ArgMax", "ties_k", "argmax_param { axis: 3 top_k: 4 }", NCHW + " : ties", backward=False)
row("ArgMax", "two_axes", "", "m k", backward=False)
row("ArgMax", "top_k_too_large", "argmax_param { axis: 1 top_k: 9 }", "n 4 h w", same=True, fails=True)
row("ArgMax", "backward", "", NCHW, fails=True)
row("Softmax", "plain", "", NCHW, again=("n+1 c h w+1",))
row("Softmax", "two_axes", "", "m k", passes=2)
row("Softmax", "axis", "softmax_param { axis: 2 }", NCHW)
row("Softmax", "last", "softmax_param { axis: -1 }", NCHW)
row("Softmax", "axis_zero", "softmax_param { axis: 0 }", NCHW)
row("Softmax", "in_place", "", "m k", in_place=True)
row("Softmax", "large", "", NCHW + " : normal 0 50")
row("Softmax", "engine", "softmax_param { engine: CAFFE }", NCHW)

# ---- losses and accuracy ---------------------------------------------------------------------------------------------
MAP = "n h w : labels <c>"
IGNORED = "n h w : labels <c> 255"
row("SoftmaxWithLoss", "plain", "", "m k", "m : labels <k>", passes=2)
row("SoftmaxWithLoss", "map", "", NCHW, MAP, again=("n+1 c h w+2", "n+1 h w+2"))
row("SoftmaxWithLoss", "label_axis", "", NCHW, "n 1 h w : labels <c>")
# No row has two tops here: this build hands the loss weights on to its inner Softmax and then aborts, however many
# there are.
row("SoftmaxWithLoss", "loss_weight", "loss_weight: 0.3", NCHW, MAP)
row("SoftmaxWithLoss", "loss_weight_zero", "loss_weight: 0", "m k", "m : labels <k>")
row("SoftmaxWithLoss", "last", "softmax_param { axis: -1 }", "n t k", "n t : labels <k>")
row("SoftmaxWithLoss", "axis_two", "softmax_param { axis: 2 }", NCHW, "n c w : labels <h>")
row("SoftmaxWithLoss", "large", "", "m k : normal 0 200", "m : labels <k>", note="the log is clamped at FLT_MIN")
for type_, labels in (("SoftmaxWithLoss", IGNORED), ("SigmoidCrossEntropyLoss", NCHW + " : labels 2 255")):
    for mode in ("FULL", "VALID", "BATCH_SIZE", "NONE"):
        row(type_, mode.lower(), f"loss_param {{ normalization: {mode} }}", NCHW, labels.replace(" 255", ""))
        row(type_, mode.lower() + "_ignore", f"loss_param {{ normalization: {mode} ignore_label: 255 }}", NCHW, labels)
    row(type_, "normalize", "loss_param { normalize: true ignore_label: 255 }", NCHW, labels)
    row(type_, "no_normalize", "loss_param { normalize: false ignore_label: 255 }", NCHW, labels)
    row(
        type_,
        "both_normalizations",
        "loss_param { normalize: true normalization: FULL ignore_label: 255 }",
        NCHW,
        labels,
    )
    row(type_, "all_ignored", "loss_param { ignore_label: 255 }", NCHW, labels.split(":")[0] + ": constant 255")
    row(type_, "ignore_class", "loss_param { ignore_label: 1 }", NCHW, labels.replace(" 255", ""))
row(
    "SoftmaxWithLoss",
    "two_tops",
    "",
    "m k",
    "m : labels <k>",
    tops=2,
    fails=True,
    note="a loss has one loss_weight where none is given, but two tops want two",
)
row("SoftmaxWithLoss", "label_count", "", NCHW, "n h : labels 2", fails=True)
row("SigmoidCrossEntropyLoss", "plain", "", "m k", "m k : labels 2", passes=2)
row("SigmoidCrossEntropyLoss", "soft_targets", "", NCHW, NCHW + " : uniform 0 1")
row("SigmoidCrossEntropyLoss", "two_tops", "", NCHW, NCHW + " : uniform 0 1", tops=2, fails=True)
row("SigmoidCrossEntropyLoss", "loss_weight", "loss_weight: 2", NCHW, NCHW + " : uniform 0 1")
row("SigmoidCrossEntropyLoss", "large", "", NCHW + " : normal 0 60", NCHW + " : labels 2")
row("SigmoidCrossEntropyLoss", "count", "", NCHW, "n c h", fails=True)
row("EuclideanLoss", "plain", "", NCHW, NCHW, again=("n+1 c h w+2", "n+1 c h w+2"))
row("EuclideanLoss", "two_axes", "", "m k", "m k", passes=2)
row("EuclideanLoss", "loss_weight", "loss_weight: 0.25", NCHW, NCHW)
row("EuclideanLoss", "other_shape", "", "n c h", "n c*h", same=True)
row("EuclideanLoss", "one_axis", "", "k", "k")
row("EuclideanLoss", "count", "", NCHW, "n c h w+1", fails=True)
for norm in ("L1", "L2"):
    row("HingeLoss", norm.lower(), f"hinge_loss_param {{ norm: {norm} }}", "m k", "m : labels <k>", passes=2)
    row(
        "HingeLoss",
        norm.lower() + "_four_axes",
        f"hinge_loss_param {{ norm: {norm} }} loss_weight: 0.7",
        NCHW,
        "n : labels <c*h*w>",
    )
row("HingeLoss", "default", "", "m k : normal 0 3", "m 1 : labels <k>")
row("MultinomialLogisticLoss", "plain", "", "m k : probabilities", "m : labels <k>", passes=2)
row("MultinomialLogisticLoss", "four_axes", "", "n k 1 1 : probabilities", "n 1 1 1 : labels <k>", same=True)
row("MultinomialLogisticLoss", "clamped", "loss_weight: 0.5", "m k : given 0 1 1e-30 0.5 0.25", "m : labels <k>")
FROM_FILE = "infogain_loss_param { source: 'inputs/infogain_4.binaryproto' }"
row("InfogainLoss", "file", FROM_FILE, "m 4", "m : labels 4", same=True)
row("InfogainLoss", "file_map", FROM_FILE, "n 4 h w+8", "n h w+8 : labels 4", same=True)
row(
    "InfogainLoss",
    "file_two_tops",
    "loss_weight: 0.5 loss_weight: 0 " + FROM_FILE,
    "n 4 h w+8",
    "n h w+8 : labels 4",
    tops=2,
    same=True,
)
for mode in ("FULL", "VALID", "BATCH_SIZE", "NONE"):
    row(
        "InfogainLoss",
        mode.lower() + "_ignore",
        f"{FROM_FILE} loss_param {{ normalization: {mode} ignore_label: 255 }}",
        "n 4 h w+8",
        "n h w+8 : labels 4 255",
        same=True,
    )
row("InfogainLoss", "bottom", "", "m k", "m : labels <k>", "1 1 k k : uniform 0 2", passes=2, **LEARN)
row(
    "InfogainLoss",
    "axis",
    "infogain_loss_param { axis: -1 } loss_weight: 0.4",
    "n t k",
    "n t : labels <k>",
    "k k : normal",
    **LEARN,
)
row("InfogainLoss", "no_matrix", "", "m k", "m : labels <k>", fails=True)
row("ContrastiveLoss", "plain", "", "m+3 k", "m+3 k", "m+3 : labels 2", passes=2, same=True)
row(
    "ContrastiveLoss",
    "margin",
    "contrastive_loss_param { margin: 4 } loss_weight: 0.5",
    "m+5 k",
    "m+5 k",
    "m+5 : labels 2",
    same=True,
)
row(
    "ContrastiveLoss",
    "legacy",
    "contrastive_loss_param { margin: 9 legacy_version: true }",
    "m+5 k",
    "m+5 k",
    "m+5 : labels 2",
    same=True,
)
row(
    "ContrastiveLoss",
    "four_axes",
    "contrastive_loss_param { margin: 3 }",
    "m+4 k 1 1",
    "m+4 k 1 1",
    "m+4 1 1 1 : labels 2",
    same=True,
)
row(
    "ContrastiveLoss",
    "same_points",
    "contrastive_loss_param { margin: 2 }",
    "4 k : constant 1",
    "4 k : constant 1",
    "4 : given 0 1 0 1",
    note="distance 0",
    same=True,
)
row(
    "ContrastiveLoss",
    "legacy_same_points",
    "contrastive_loss_param { margin: 2 legacy_version: true }",
    "4 k : constant 1",
    "4 k : constant 1",
    "4 : given 0 1 0 1",
    same=True,
)
row("Accuracy", "plain", "", "m+6 k", "m+6 : labels <k>", backward=False, same=True)
row("Accuracy", "top_k", "accuracy_param { top_k: 2 }", "m+6 k", "m+6 : labels <k>", backward=False, same=True)
row("Accuracy", "map", "", NCHW, MAP, backward=False, again=("n+1 c h+1 w", "n+1 h+1 w"))
row("Accuracy", "axis", "accuracy_param { axis: -1 }", "n t k", "n t : labels <k>", backward=False)
row("Accuracy", "ignore", "accuracy_param { ignore_label: 255 }", NCHW, IGNORED, backward=False)
row("Accuracy", "ignore_class", "accuracy_param { ignore_label: 1 top_k: 2 }", NCHW, MAP, backward=False)
row("Accuracy", "classes", "", NCHW, MAP, tops=2, backward=False)
row("Accuracy", "classes_ignore", "accuracy_param { ignore_label: 0 top_k: 2 }", NCHW, MAP, tops=2, backward=False)
row("Accuracy", "ties", "", NCHW + " : ties", MAP, backward=False, note="a tie counts as wrong")
row("Accuracy", "ties_top_k", "accuracy_param { top_k: 2 }", NCHW + " : ties", MAP, backward=False)
row("Accuracy", "all_equal", "", "m+6 k : constant 0.5", "m+6 : labels <k>", backward=False, same=True)
row("Accuracy", "nan", "", "m+6 k : constant nan", "m+6 : labels <k>", backward=False, same=True, note="NaN scores 1")
row(
    "Accuracy",
    "all_ignored",
    "accuracy_param { ignore_label: 2 }",
    "m+6 k",
    "m+6 : constant 2",
    backward=False,
    same=True,
)
row("Accuracy", "test", "", "m+6 k", "m+6 : labels <k>", phase="TEST", backward=False, same=True)
row("Accuracy", "top_k_too_large", "accuracy_param { top_k: 9 }", "m 4", "m : labels 4", same=True, fails=True)
row("Accuracy", "backward", "", "m k", "m : labels <k>", fails=True)

# ---- recurrent -------------------------------------------------------------------------------------------------------
FILL = "weight_filler { type: 'uniform' min: -0.5 max: 0.5 } bias_filler { type: 'constant' value: 0.1 }"
for type_, states in (("LSTM", 2), ("RNN", 1)):
    p = "recurrent_param {{ num_output: <o> {} }}".format
    cont = "t n : continue"
    row(type_, "plain", p(FILL), "t n k+6", cont, passes=2, same=True)
    row(type_, "filled", p(FILL), "t n k+6", cont, params="own", same=True)
    row(type_, "four_axes", p(FILL), "t n c+6 h+9", cont, same=True)
    row(type_, "static", p(FILL), "t n k+6", cont, "n m+7", same=True)
    row(
        type_,
        "exposed",
        p(FILL + " expose_hidden: true"),
        "t n k+6",
        cont,
        *["1 n o"] * states,
        tops=1 + states,
        same=True,
        passes=2,
    )
    row(
        type_,
        "exposed_static",
        p(FILL + " expose_hidden: true"),
        "t n k+6",
        cont,
        "n m+7",
        *["1 n o"] * states,
        tops=1 + states,
        same=True,
    )
    row(
        type_,
        "one_step",
        p(FILL),
        "1 n k+6",
        "1 n : constant 1",
        passes=3,
        same=True,
        note="carries its state over passes",
    )
    row(type_, "debug_info", p(FILL + " debug_info: true"), "t n k+6", cont, same=True)
    row(type_, "frozen", "param { lr_mult: 0 } " + p(FILL), "t n k+6", cont, same=True)
    row(type_, "no_outputs", "", "t n k", cont, same=True, fails=True)
    row(type_, "cont_shape", p(FILL), "t n k", "n : continue", same=True, fails=True)
row("LSTMUnit", "plain", "", "1 n k", "1 n 4*k", "1 n : constant 1", tops=2, same=True)
row("LSTMUnit", "mixed", "", "1 4 k", "1 4 4*k", "1 4 : given 1 0 0 1", tops=2, same=True, passes=2)
row("LSTMUnit", "start", "", "1 n k", "1 n 4*k", "1 n : constant 0", tops=2, same=True)
row("LSTMUnit", "size", "", "1 n k", "1 n 3*k", "1 n : constant 1", tops=2, same=True, fails=True)

# ---- data ------------------------------------------------------------------------------------------------------------
ALONE = {"backward": False, "force": False}
row("Input", "plain", "input_param { shape { dim: <n> dim: <c> } }", **ALONE)
row("Input", "two", "input_param { shape { dim: <n> dim: <c> } shape { dim: <k> } }", tops=2, **ALONE)
row("Input", "shared_shape", "input_param { shape { dim: <n> dim: <c> dim: <h> } }", tops=2, **ALONE)
row("Input", "shape_count", "input_param { shape { dim: 2 } shape { dim: 3 } }", tops=3, fails=True, **ALONE)
row("Parameter", "plain", "parameter_param { shape { dim: <n> dim: <c> dim: <h> } }", force=False)
row("Parameter", "one_axis", "parameter_param { shape { dim: <k> } }", force=False, passes=2)
row("Parameter", "filled", "parameter_param { shape { dim: <n> dim: <k> } }", force=False, params="own")
for name_, filler in {
    "constant": "type: 'constant' value: 0.7",
    "uniform": "type: 'uniform' min: -2 max: 3",
    "gaussian": "type: 'gaussian' mean: 0.5 std: 2",
    "gaussian_sparse": "type: 'gaussian' std: 1 sparse: 2",
    "positive_unitball": "type: 'positive_unitball'",
    "xavier": "type: 'xavier'",
    "xavier_out": "type: 'xavier' variance_norm: FAN_OUT",
    "xavier_average": "type: 'xavier' variance_norm: AVERAGE",
    "msra": "type: 'msra'",
    "msra_average": "type: 'msra' variance_norm: AVERAGE",
    "msra_out": "type: 'msra' variance_norm: FAN_OUT",
}.items():
    row(
        "DummyData",
        name_,
        f"dummy_data_param {{ shape {{ dim: <n> dim: <c> dim: <h> dim: <w> }} data_filler {{ {filler} }} }}",
        passes=2,
        **ALONE,
    )
row(
    "DummyData",
    "bilinear",
    "dummy_data_param { shape { dim: <n> dim: <c> dim: 5 dim: 5 } data_filler { type: 'bilinear' } }",
    **ALONE,
)
row("DummyData", "legacy", "dummy_data_param { num: <n> channels: <c> height: <h> width: <w> }", **ALONE)
row(
    "DummyData",
    "two_tops",
    "dummy_data_param { shape { dim: <n> dim: <c> } shape { dim: <k> } data_filler { type: 'gaussian' } "
    "data_filler { value: 3 } }",
    tops=2,
    passes=2,
    **ALONE,
)
row(
    "DummyData",
    "two_tops_one_filler",
    "dummy_data_param { shape { dim: <n> } data_filler { type: 'uniform' } }",
    tops=2,
    passes=2,
    **ALONE,
)
row(
    "DummyData",
    "filler_count",
    "dummy_data_param { shape { dim: 2 } data_filler { } data_filler { } data_filler { } }",
    tops=2,
    fails=True,
    **ALONE,
)
row(
    "DummyData",
    "unknown_filler",
    "dummy_data_param { shape { dim: 2 } data_filler { type: 'nope' } }",
    fails=True,
    **ALONE,
)
row(
    "MemoryData",
    "plain",
    "memory_data_param { batch_size: 2 channels: 3 height: 5 width: 4 }",
    tops=2,
    passes=3,
    memory=("6 3 5 4", "6 1 1 1 : labels 9"),
    **ALONE,
)
row(
    "MemoryData",
    "wraps",
    "memory_data_param { batch_size: 2 channels: 3 height: 5 width: 4 }",
    tops=2,
    passes=5,
    memory=("4 3 5 4", "4 1 1 1 : labels 9"),
    **ALONE,
)
row(
    "MemoryData",
    "one",
    "memory_data_param { batch_size: 1 channels: 1 height: 2 width: 3 }",
    tops=2,
    passes=2,
    memory=("2 1 2 3", "2 1 1 1 : labels 9"),
    **ALONE,
)
row(
    "MemoryData",
    "transform",
    "memory_data_param { batch_size: 2 channels: 1 height: 4 width: 5 } transform_param { crop_size: 3 scale: 2 }",
    tops=2,
    passes=2,
    memory=("4 1 4 5", "4 1 1 1 : labels 9"),
    **ALONE,
)
row(
    "MemoryData",
    "not_a_multiple",
    "memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 }",
    tops=2,
    memory=("3 1 2 3", "3 1 1 1 : labels 9"),
    fails=True,
    **ALONE,
)
row(
    "MemoryData",
    "no_data",
    "memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 }",
    tops=2,
    fails=True,
    **ALONE,
)
DATA = "data_param {{ source: 'inputs/lmdb' batch_size: 3 backend: LMDB {} }} transform_param {{ {} }}".format
MEAN = "mean_file: 'inputs/mean.binaryproto'"
DATA_TEXTS = {
    "plain": DATA("", ""),
    "scale": DATA("", "scale: 0.0039"),
    "mirror": DATA("", "mirror: true"),
    "mean_file": DATA("", MEAN),
    "mean_value": DATA("", "mean_value: 100"),
    "mean_values": DATA("", "mean_value: 104 mean_value: 117 mean_value: 123"),
    "crop": DATA("", "crop_size: 9"),
    "crop_mirror": DATA("", "crop_size: 7 mirror: true"),
    "crop_mean_file": DATA("", f"crop_size: 8 mirror: true scale: 0.5 {MEAN}"),
    "prefetch": DATA("prefetch: 2", "crop_size: 5"),
}
for name_, text_ in DATA_TEXTS.items():
    for phase_ in ("TRAIN", "TEST"):
        row("Data", f"{name_}_{phase_.lower()}", text_, tops=2, phase=phase_, passes=4, **ALONE)
row("Data", "own_phase", DATA("", "crop_size: 9") + " phase: TEST", tops=2, passes=2, **ALONE)
row("Data", "one_top", DATA("", ""), passes=2, **ALONE)
row("Data", "encoded", DATA("", "crop_size: 9").replace("/lmdb", "/lmdb_encoded"), tops=2, passes=3, **ALONE)
row("Data", "encoded_gray", DATA("", "force_gray: true").replace("/lmdb", "/lmdb_encoded"), tops=2, passes=2, **ALONE)
row(
    "Data",
    "encoded_color",
    DATA("force_encoded_color: true", "").replace("/lmdb", "/lmdb_encoded"),
    tops=2,
    passes=2,
    **ALONE,
)
row("Data", "gray", DATA("", "crop_size: 6").replace("/lmdb", "/lmdb_gray"), tops=2, passes=3, **ALONE)
row("Data", "rand_skip", DATA("rand_skip: 5", ""), tops=2, passes=2, note="the Data layer ignores it", **ALONE)
row(
    "Data",
    "in_data_param",
    "data_param { source: 'inputs/lmdb' batch_size: 2 backend: LMDB scale: 0.5 crop_size: 6 mirror: "
    "true mean_file: 'inputs/mean.binaryproto' }",
    tops=2,
    passes=3,
    note="old fields, which count in V1 files alone",
    **ALONE,
)
row("Data", "missing", DATA("", "").replace("/lmdb", "/no_such_lmdb"), tops=2, fails=True, **ALONE)
row("Data", "crop_too_large", DATA("", "crop_size: 99"), tops=2, fails=True, **ALONE)
row("Data", "both_means", DATA("", f"mean_value: 3 {MEAN}"), tops=2, fails=True, **ALONE)
row("Data", "two_mean_values", DATA("", "mean_value: 3 mean_value: 4"), tops=2, fails=True, **ALONE)
row("Data", "no_mean_file", DATA("", "mean_file: 'inputs/no_such.binaryproto'"), tops=2, fails=True, **ALONE)
H5 = (("list.txt", "inputs/a.h5\ninputs/b.h5\n"),)
row(
    "HDF5Data",
    "plain",
    "hdf5_data_param { source: 'list.txt' batch_size: 3 }",
    tops=2,
    passes=5,
    writes=H5,
    note="a top is the dataset of its own name",
    **ALONE,
)
row(
    "HDF5Data",
    "one_by_one",
    "hdf5_data_param { source: 'list.txt' batch_size: 1 }",
    tops=1,
    passes=9,
    writes=H5,
    **ALONE,
)
row(
    "HDF5Data",
    "large_batch",
    "hdf5_data_param { source: 'list.txt' batch_size: 10 }",
    tops=2,
    passes=2,
    writes=H5,
    **ALONE,
)
row("HDF5Data", "missing", "hdf5_data_param { source: 'no_list.txt' batch_size: 1 }", fails=True, **ALONE)
row(
    "HDF5Data",
    "no_dataset",
    "hdf5_data_param { source: 'list.txt' batch_size: 1 }",
    tops=3,
    writes=H5,
    fails=True,
    **ALONE,
)
row(
    "HDF5Data",
    "transform",
    "hdf5_data_param { source: 'list.txt' batch_size: 1 } transform_param { scale: 2 }",
    writes=H5,
    fails=True,
    **ALONE,
)
row(
    "HDF5Output",
    "plain",
    "hdf5_output_param { file_name: 'out.h5' }",
    NCHW,
    "n : labels 5",
    tops=0,
    reads="out.h5",
    backward=False,
)
row(
    "HDF5Output",
    "two_axes",
    "hdf5_output_param { file_name: 'out.h5' }",
    "m k",
    "m k",
    tops=0,
    reads="out.h5",
    backward=False,
)
row(
    "HDF5Output",
    "label_map",
    "hdf5_output_param { file_name: 'out.h5' }",
    NCHW,
    "n 1 h w",
    tops=0,
    reads="out.h5",
    backward=False,
)
row("HDF5Output", "no_folder", "hdf5_output_param { file_name: 'none/out.h5' }", "m k", "m k", tops=0, fails=True)
IMAGES = (("list.txt", "".join(f"image_{i}.png {i % 3}\n" for i in range(5))),)
IMAGE = "image_data_param {{ source: 'list.txt' root_folder: 'inputs/images/' {} }} transform_param {{ {} }}".format
for name_, (a, b) in {
    "plain": ("batch_size: 1", ""),
    "resized": ("batch_size: 2 new_height: 13 new_width: 11", ""),
    "gray": ("batch_size: 2 new_height: 13 new_width: 11 is_color: false", ""),
    "crop_mirror": (
        "batch_size: 2 new_height: 13 new_width: 11",
        "crop_size: 7 mirror: true scale: 0.1 mean_value: 90",
    ),
    "shuffle": ("batch_size: 2 new_height: 13 new_width: 11 shuffle: true", ""),
    "shuffle_crop": ("batch_size: 3 new_height: 13 new_width: 11 shuffle: true", "crop_size: 9 mirror: true"),
    "rand_skip": ("batch_size: 2 new_height: 13 new_width: 11 rand_skip: 4", ""),
    "shuffle_skip": ("batch_size: 2 new_height: 13 new_width: 11 rand_skip: 3 shuffle: true", ""),
}.items():
    row("ImageData", name_, IMAGE(a, b), tops=2, passes=6, writes=IMAGES, **ALONE)
row(
    "ImageData",
    "test",
    IMAGE("batch_size: 2 new_height: 13 new_width: 11", "crop_size: 7"),
    tops=2,
    passes=3,
    phase="TEST",
    writes=IMAGES,
    **ALONE,
)
row(
    "ImageData",
    "in_image_data_param",
    "image_data_param { source: 'list.txt' root_folder: 'inputs/images/' batch_size: 2 "
    "new_height: 13 new_width: 11 scale: 0.5 crop_size: 6 mirror: true }",
    tops=2,
    passes=3,
    writes=IMAGES,
    note="old fields, which count in V1 files alone",
    **ALONE,
)
row(
    "ImageData",
    "mean_in_image_data_param",
    "image_data_param { source: 'list.txt' root_folder: 'inputs/images/' batch_size: 2 "
    "new_height: 14 new_width: 17 mean_file: 'inputs/mean.binaryproto' }",
    tops=2,
    passes=3,
    writes=IMAGES,
    **ALONE,
)
row(
    "ImageData",
    "missing_image",
    IMAGE("batch_size: 1", ""),
    tops=2,
    writes=(("list.txt", "none.png 0\n"),),
    fails=True,
    **ALONE,
)
row("ImageData", "half_a_size", IMAGE("batch_size: 1 new_height: 13", ""), tops=2, writes=IMAGES, fails=True, **ALONE)
row("ImageData", "no_list", IMAGE("batch_size: 1", ""), tops=2, fails=True, **ALONE)
WINDOWS = (
    (
        "windows.txt",
        "".join(
            f"# {i}\ninputs/images/image_{i}.png\n3\n{20 + 2 * i}\n{24 - i}\n4\n{1 + i % 3} 0.9 2 3 {14 + i} {12 + i}\n"
            f"2 0.7 0 0 9 15\n0 0.2 5 1 {18 - i} 9\n0 0.1 1 6 12 {17 - i}\n"
            for i in range(4)
        ),
    ),
)
WINDOW = "window_data_param {{ source: 'windows.txt' {} }} transform_param {{ {} }}".format
for name_, (a, b) in {
    "plain": ("batch_size: 4", "crop_size: 8"),
    "square": ("batch_size: 4 crop_mode: 'square'", "crop_size: 8"),
    "padded": ("batch_size: 4 context_pad: 2 fg_fraction: 0.5", "crop_size: 11 mirror: true"),
    "mean": (
        "batch_size: 4 context_pad: 1 fg_threshold: 0.6 bg_threshold: 0.3",
        "crop_size: 8 mirror: true scale: 0.5 mean_value: 90",
    ),
    "mean_file": ("batch_size: 4", "crop_size: 9 " + MEAN),
    "cached": ("batch_size: 4 cache_images: true fg_fraction: 0.25", "crop_size: 8 mirror: true"),
}.items():
    row("WindowData", name_, WINDOW(a, b), tops=2, passes=3, writes=WINDOWS, **ALONE)
row("WindowData", "test", WINDOW("batch_size: 4", "crop_size: 8"), tops=2, phase="TEST", writes=WINDOWS, **ALONE)
row(
    "WindowData",
    "in_window_data_param",
    WINDOW("batch_size: 4 scale: 0.5 crop_size: 5 mirror: true mean_file: 'none'", "crop_size: 8"),
    tops=2,
    passes=3,
    writes=WINDOWS,
    note="old fields, which count in V1 files alone",
    **ALONE,
)
row(
    "WindowData",
    "root_folder",
    WINDOW("batch_size: 4 root_folder: 'inputs/'", "crop_size: 8"),
    tops=2,
    passes=3,
    writes=tuple((name, text.replace("inputs/", "")) for name, text in WINDOWS),
    **ALONE,
)
row("WindowData", "no_crop", WINDOW("batch_size: 4", ""), tops=2, writes=WINDOWS, fails=True, **ALONE)
row("WindowData", "missing", WINDOW("batch_size: 4", "crop_size: 8"), tops=2, fails=True, **ALONE)

# ---- Python ----------------------------------------------------------------------------------------------------------
PYTHON = "python_param {{ module: 'py_layers' layer: '{}' {} }}".format
row("Python", "plain", PYTHON("Triple", ""), NCHW, again=("n+1 c h w+1",))
row("Python", "share_in_parallel", PYTHON("Triple", "share_in_parallel: true"), NCHW)
row("Python", "param_str", PYTHON("Power", "param_str: '2.5'"), NCHW + " : uniform 0.5 2", passes=2)
row("Python", "with_params", PYTHON("Weighted", ""), "m k", passes=2)
row("Python", "phase", PYTHON("Phase", ""), "m k", phase="TEST", backward=False)
row("Python", "two_tops", PYTHON("SumAndProduct", ""), NCHW, NCHW, tops=2)
row("Python", "loss", "loss_weight: 0.5 " + PYTHON("SquareLoss", ""), "m k", "m k")
row("Python", "no_module", "python_param { module: 'no_such_module' layer: 'X' }", NCHW, fails=True)
row("Python", "no_layer", PYTHON("NoSuchLayer", ""), NCHW, fails=True)
row("Python", "raises", PYTHON("Raises", ""), NCHW, fails=True)

# ---- corners ---------------------------------------------------------------------------------------------------------
# What showed, when it was first compared, that real Caffe is not what one would think.
for type_ in ("Convolution", "Deconvolution"):
    p = "convolution_param {{ num_output: {} }}".format
    row(type_, "nd_four", p("3 kernel_size: 2 stride: 2 pad: 1"), "n c t d h w", same=True)
    row(
        type_,
        "nd_four_group",
        p("4 group: 2 kernel_size: 2 dilation: 2 stride: 1 stride: 2 stride: 1 stride: 3"),
        "n 2*c t 5 h w",
        same=True,
    )
    row(type_, "nd_zero", p("4 group: 2"), "n 2*c", same=True)
    row(
        type_,
        "kernel_beyond_image",
        p("3 kernel_size: 5 stride: 3"),
        "n c 3 4",
        same=True,
        note="sizes are divided towards zero: one window comes out",
    )
    row(type_, "kernel_beyond_image_nd", p("4 group: 2 kernel_size: 5 stride: 3 pad: 1"), "n 2*c 3 1 8", same=True)
    row(type_, "dilation_zero", p("4 kernel_size: 2 dilation: 0 dilation: 2 pad: 1"), NCHW, same=True)
    row(type_, "one_item_twice", p("2 kernel_size: 1"), "1 c h w", passes=3)
row("Im2col", "nd_four", "convolution_param { kernel_size: 2 stride: 2 }", "n c d 5 h w", same=True)
row("Im2col", "kernel_beyond_image", "convolution_param { kernel_size: 5 stride: 3 }", "n c 3 4", same=True)
row("Im2col", "dilation_zero", "convolution_param { kernel_size: 3 dilation: 0 }", NCHW)
row("Im2col", "no_spatial_axes", "convolution_param { kernel_size: 1 }", "n c", fails=True)
row(
    "Pooling",
    "lone_kernel_h",
    "pooling_param { kernel_size: 3 kernel_h: 2 }",
    "n c 7 8",
    same=True,
    note="is overlooked",
)
for pool in ("MAX", "AVE"):
    p = ("pooling_param {{ pool: " + pool + " {} }}").format
    row("Pooling", pool.lower() + "_wide_pad", p("kernel_size: 5 stride: 2 pad: 4"), NCHW, same=True)
    row("Pooling", pool.lower() + "_wide_stride_pad", p("kernel_size: 2 stride: 5 pad: 1"), "n c 7 10", same=True)
    row("SPP", pool.lower() + "_two_square", f"spp_param {{ pyramid_height: 2 pool: {pool} }}", "n c 13 17", same=True)
row("LRN", "in_place_backward", "lrn_param { local_size: 3 alpha: 0.5 k: 2 beta: 0.6 }", NCHW, in_place=True)
row(
    "LRN",
    "within_in_place",
    "lrn_param { local_size: 5 alpha: 3 beta: 0.4 norm_region: WITHIN_CHANNEL }",
    NCHW,
    in_place=True,
)
row(
    "LRN",
    "within_wide",
    "lrn_param { norm_region: WITHIN_CHANNEL alpha: 3 beta: 0.4 local_size: 7 }",
    "n c 3 2",
    same=True,
)
row("MVN", "one_row", "mvn_param { across_channels: true }", "n k", note="the top has four axes")
row("MVN", "in_place", "", NCHW, in_place=True, note="the gradient is overwritten half way through")
row("MVN", "in_place_no_variance", "mvn_param { normalize_variance: false }", NCHW, in_place=True)
row("MVN", "five_axes", "", "n c d h w+4", fails=True)
for type_, param in (("Scale", "scale_param"), ("Bias", "bias_param")):
    row(
        type_,
        "everything_twice",
        f"{param} {{ axis: 0 num_axes: -1 }}",
        NCHW,
        passes=2,
        note="Scale overwrites its diff, where others add to it",
    )
    row(type_, "one_item_twice", "", "1 c h w", passes=2, note="Scale overwrites its diff")
    row(type_, "one_number_twice", f"{param} {{ num_axes: 0 }}", "1 c h w", passes=2)
    row(type_, "one_channel_twice", "", "n 1 h w", passes=2)
    row(type_, "one_value_twice", "", "1 1", passes=2, same=True)
row("Scale", "two_bottoms_bias_in_place", "scale_param { bias_term: true axis: 0 }", NCHW, NCHW, in_place=True)
row("Scale", "bias_one_item_in_place", "scale_param { bias_term: true }", "1 c h w", in_place=True, passes=2)
row("PReLU", "one_item_twice", "", "1 c h w", passes=3)
row("Flatten", "end_before_axis", "flatten_param { axis: 2 end_axis: 1 }", NCHW, note="an axis of size 1 more")
row("Flatten", "end_far_before_axis", "flatten_param { axis: 3 end_axis: 1 }", NCHW, fails=True)
row("Flatten", "in_place", "", NCHW, in_place=True, fails=True)
for operation in ("SUM", "PROD", "MAX"):
    p = f"eltwise_param {{ operation: {operation} }}"
    row(
        "Eltwise",
        "in_place_" + operation.lower(),
        p,
        NCHW,
        NCHW,
        NCHW,
        in_place=True,
        passes=2,
        note="SUM and MAX overwrite bottom 0 before they read it",
    )
    row("Eltwise", "four_ties_" + operation.lower(), p, *[NCHW + " : ties"] * 4)
row(
    "Eltwise",
    "in_place_unstable",
    "eltwise_param { operation: PROD stable_prod_grad: false }",
    NCHW,
    NCHW,
    in_place=True,
)
row("Eltwise", "in_place_coeff", "eltwise_param { coeff: 2 coeff: -1 coeff: 0.5 }", NCHW, NCHW, NCHW, in_place=True)
row("Eltwise", "max_nan_first", "eltwise_param { operation: MAX }", NCHW + " : constant nan", NCHW, backward=False)
row(
    "Eltwise", "max_nan_third", "eltwise_param { operation: MAX }", NCHW, NCHW, NCHW + " : constant nan", backward=False
)
row(
    "Crop",
    "more_axes",
    "crop_param { axis: 3 offset: 1 offset: 0 offset: 2 }",
    "n c t h+4 w+9 12",
    "n c t h w 7 2",
    same=True,
)
row("Reduction", "four_axes_mean", "reduction_param { operation: MEAN axis: -3 }", "n c h w")
row("ArgMax", "five_axes_ties", "argmax_param { top_k: 3 out_max_val: true }", "n c d h w+4 : ties", backward=False)
row("ArgMax", "axis_zero", "argmax_param { axis: 0 top_k: 2 out_max_val: true }", "m+2 k+2 : ties", backward=False)
row("Embed", "fractions", "embed_param { num_output: <o> input_dim: 3 }", "4 : given 1.7 0.3 -0.4 2.9", force=False)
row("EuclideanLoss", "five_axes", "", "n c d h w+4", "n c d h w+4", fails=True)
row("HingeLoss", "more_labels", "", "m k", "m 2 : labels <k>", same=True)
row("MultinomialLogisticLoss", "two_labels", "", "m k", "m 2 : labels <k>", same=True, fails=True)
row("ContrastiveLoss", "two_values", "", "m k 2", "m k 2", "m : labels 2", same=True, fails=True)
row("ContrastiveLoss", "fractions", "", "4 k", "4 k 1", "4 1 : given 1 0.5 0 1", same=True)
row(
    "SigmoidCrossEntropyLoss",
    "soft_ignore",
    "loss_param { ignore_label: 0 normalization: VALID }",
    "m k",
    "m k : uniform 0 2",
    note="targets are cut to integers before they are compared",
)
row("SoftmaxWithLoss", "fractions", "", "4 3", "4 : uniform 0 2.9", same=True)
for type_ in ("LSTM", "RNN"):
    p = "recurrent_param {{ num_output: <o> {} }}".format
    row(type_, "fractions", p(FILL), "t n k+6", "t n : uniform 0 1.5", passes=2, same=True)
    row(type_, "fewer_streams", p(FILL), "t 3 k", "t 3 : constant 1", passes=2, again=("t 2 k", "t 2"), same=True)
    row(type_, "more_streams", p(FILL), "t 2 k", "t 2 : constant 1", passes=2, again=("t 3 k", "t 3"), same=True)
    row(type_, "more_steps", p(FILL), "t n k", "t n : constant 1", again=("t+1 n k", "t+1 n"), same=True, fails=True)
    row(type_, "two_axes", p(FILL), "t n", "t n : constant 1", same=True, fails=True)
    row(type_, "static_axes", p(FILL), "t n k", "t n : continue", "n 2 2 2", passes=2, params="own", same=True)
    row(
        type_,
        "unforced",
        p(FILL) + " loss_weight: 0.5",
        "t n k",
        "t n : continue",
        force=False,
        same=True,
        note="the bottom gets its diff all the same",
    )
row("LSTMUnit", "fractions", "", "1 n k", "1 n 4*k", "1 n : uniform 0 1.5", tops=2, same=True)
row(
    "Parameter",
    "one_loss_twice",
    "loss_weight: 0.5 parameter_param { shape { dim: <n> dim: <c> } }",
    force=False,
    passes=2,
)
row(
    "HDF5Data",
    "one_line",
    "hdf5_data_param { source: 'list.txt' batch_size: 2 }",
    tops=2,
    passes=6,
    writes=(("list.txt", "  inputs/a.h5 inputs/b.h5"),),
    **ALONE,
)
row(
    "HDF5Output",
    "twice",
    "hdf5_output_param { file_name: 'out.h5' }",
    "m k",
    "m k",
    tops=0,
    backward=False,
    passes=2,
    fails=True,
)
for name_, lines_, a in (
    ("odd_labels", "image_0.png 3x\nimage_1.png -2\nimage_2.png x\n", "batch_size: 1 new_height: 9 new_width: 8"),
    ("no_label", "image_0.png\nimage_1.png 2", "batch_size: 1 new_height: 9 new_width: 8"),
    ("carriage_returns", "image_0.png 3\r\nimage_1.png 2\r\n", "batch_size: 1 new_height: 9 new_width: 8"),
    ("sizes", "image_0.png 3\nimage_1.png 2\n", "batch_size: 1"),
    ("enlarged", "image_0.png 3\nimage_1.png 2\n", "batch_size: 2 new_height: 57 new_width: 31"),
    ("gray_reduced", "image_0.png 3\nimage_1.png 2\n", "batch_size: 2 new_height: 5 new_width: 31 is_color: false"),
):
    row("ImageData", name_, IMAGE(a, "mirror: true"), tops=2, passes=4, writes=(("list.txt", lines_),), **ALONE)
row(
    "ImageData",
    "blank_line",
    IMAGE("batch_size: 2 new_height: 9 new_width: 8", ""),
    tops=2,
    fails=True,
    writes=(("list.txt", "image_0.png 3\n\nimage_1.png 2\n"),),
    **ALONE,
)
row(
    "ImageData",
    "skip_all",
    IMAGE("batch_size: 1 rand_skip: 1000000", ""),
    tops=2,
    writes=(("list.txt", "image_0.png 3\n"),),
    fails=True,
    **ALONE,
)
EDGES = (
    (
        "windows.txt",
        "".join(
            f"# {i}\ninputs/images/image_{i}.png\n3\n{20 + 2 * i}\n{24 - i}\n5\n1 0.9 0 0 {23 - i} {5 + i}\n2 0.7 {15 - i} 12 {23 - i} {19 + 2 * i}\n"
            f"0 0.2 0 8 4 12\n0 0.1 20 0 20 3\n3 0.4 {9 - i} 1 {15 - i} 18\n"
            for i in range(3)
        ),
    ),
)
for name_, (a, b) in {
    "edges_padded": ("batch_size: 16 context_pad: 4", "crop_size: 11 mirror: true"),
    "edges_square": (
        "batch_size: 16 context_pad: 3 crop_mode: 'square' cache_images: true fg_fraction: 0.5",
        "crop_size: 16 mirror: true mean_value: 3 mean_value: 4 mean_value: 5",
    ),
    "edges_mean_file": (
        "batch_size: 16 context_pad: 2 scale: 0.3 fg_threshold: 0.3 bg_threshold: 0.3",
        "crop_size: 10 " + MEAN,
    ),
}.items():
    row("WindowData", name_, WINDOW(a, b), tops=2, passes=3, writes=EDGES, **ALONE)
row(
    "WindowData",
    "no_objects",
    WINDOW("batch_size: 4 fg_threshold: 0.95", "crop_size: 8"),
    tops=2,
    writes=WINDOWS,
    fails=True,
    **ALONE,
)
row(
    "WindowData",
    "object_label_zero",
    WINDOW("batch_size: 4 fg_threshold: 0.15", "crop_size: 8"),
    tops=2,
    writes=EDGES,
    fails=True,
    **ALONE,
)

# ---- what BVLC does where one would expect it to refuse --------------------------------------------------------------
for type_ in ("Convolution", "Deconvolution"):
    p = "convolution_param {{ num_output: {} weight_filler {{ type: 'xavier' }} bias_filler {{ value: 0.3 }} }}".format
    row(
        type_,
        "in_place",
        p("<c> kernel_size: 3 pad: 1"),
        NCHW,
        in_place=True,
        passes=2,
        note="the weight's gradient comes out of the output, which took the input's memory",
    )
    row(type_, "in_place_group", p("<c> group: <c> kernel_size: 5 pad: 2 bias_term: false"), NCHW, in_place=True)
    row(
        type_,
        "in_place_nd",
        p("<c> kernel_size: 3 kernel_size: 1 kernel_size: 5 pad: 1 pad: 0 pad: 2"),
        "n c d h w+4",
        in_place=True,
    )
    row(
        type_,
        "in_place_one_by_one",
        p("<c> kernel_size: 1"),
        NCHW,
        in_place=True,
        params="own",
        note="BLAS clears its output, which is its input, first: the bias alone comes out, no gradient goes down",
    )
    row(
        type_,
        "in_place_one_by_one_group",
        p("<2*c> group: 2 kernel_size: 1 bias_term: false"),
        "n 2*c h w+8",
        in_place=True,
    )
row(
    "InnerProduct",
    "in_place",
    "inner_product_param { num_output: <w> axis: -1 }",
    NCHW,
    in_place=True,
    passes=2,
    note="BLAS clears its output, which is its input, first: the bias alone comes out, no gradient goes down",
)
row(
    "InnerProduct",
    "in_place_transpose",
    "inner_product_param { num_output: <k> transpose: true bias_term: false }",
    "m k",
    in_place=True,
)
for pool in ("MAX", "AVE"):
    row(
        "Pooling",
        pool.lower() + "_in_place",
        f"pooling_param {{ pool: {pool} kernel_size: 3 pad: 1 }}",
        NCHW,
        in_place=True,
        note="the top is cleared before the bottom, which is the same memory, is read",
    )
row("Tile", "in_place", "tile_param { tiles: 1 }", NCHW, in_place=True)
SOME = " : given 1 nan 2 -inf -0.5 inf 3 -1"
row("Pooling", "max_not_numbers", "pooling_param { kernel_size: 3 }", NCHW + SOME, note="NaN and -infinity never win")
row(
    "Pooling",
    "max_not_numbers_mask",
    "pooling_param { kernel_size: 3 stride: 2 pad: 1 }",
    "n c 6 9" + SOME,
    tops=2,
    same=True,
    backward=False,
)
row(
    "Pooling",
    "max_of_nothing",
    "pooling_param { kernel_size: 2 }",
    NCHW + " : given nan nan -inf 4 nan nan nan",
    tops=2,
    backward=False,
    note="-FLT_MAX and index -1 where a window has no number (BVLC's backward pass would write outside of the plane)",
)
row(
    "Pooling",
    "max_of_nothing_wide_pad",
    "pooling_param { kernel_size: 5 stride: 2 pad: 4 }",
    NCHW + " : given nan -inf nan 4 nan nan nan",
    tops=2,
    backward=False,
    same=True,
)
row("Pooling", "ave_not_numbers", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", NCHW + SOME)

# ---- what random configurations showed -----------------------------------------------------------------------------------
row("Clip", "limits_cross", "clip_param { min: 0.5 max: -0.2 }", NCHW, note="min wins")
row("Log", "scale_zero", "log_param { scale: 0 }", NCHW, note="-infinity; the gradient is 0")
row("Power", "negative_of_nothing", "power_param { power: -2 scale: 0 }", NCHW, note="infinity; the gradient is 0")
row("Power", "root_of_nothing", "power_param { power: 0.5 scale: 0 shift: -2 }", NCHW, note="NaN; the gradient is 0")
row("Sigmoid", "large_in_place", "", "m k : normal 0 30", in_place=True, passes=2)
row("Swish", "large_in_place", "swish_param { beta: 3 }", "m k : normal 0 30", in_place=True, passes=2)
row(
    "HingeLoss",
    "unforced",
    "hinge_loss_param { norm: L2 }",
    NCHW,
    "n : labels <c*h*w>",
    force=False,
    note="leaves the margins in the bottom's diff if no gradient follows",
)
row(
    "ContrastiveLoss",
    "asked_for_labels",
    "propagate_down: true propagate_down: true propagate_down: true",
    "m k",
    "m k",
    "m : labels 2",
    same=True,
    note="no gradient for the labels, and no error",
)
row(
    "Scale",
    "unforced",
    "loss_weight: 0.5",
    NCHW,
    force=False,
    note="leaves the terms of the scale's gradient in the bottom's diff if none is asked for",
)
row(
    "Scale",
    "two_bottoms_second_alone",
    "loss_weight: 0.5 propagate_down: false propagate_down: true",
    NCHW,
    "c",
    force=False,
)
row("Scale", "everything_unforced", "loss_weight: 0.5 scale_param { axis: 0 num_axes: -1 }", NCHW, force=False)

# ---- values that are not finite, and what two engines may take for bad input ---------------------------------------------
BAD = " : given 1 nan 2 -inf -0.5 inf 3 -1 0 -3 0.5 -2"
row("ReLU", "not_numbers", "", "m 9 : given 1 nan 2 inf -0.5", note="the gradient is 0 where the bottom is NaN")
row("ReLU", "in_place_not_numbers", "", "m 9 : given 1 nan 2 inf -0.5", in_place=True)
row("Clip", "not_numbers", "clip_param { min: -1 max: 2 }", "m 12" + BAD, same=True, note="NaN becomes min")
row("ELU", "not_numbers", "", "m 12" + BAD, same=True, note="the gradient of infinity is NaN")
row("Swish", "not_numbers_beta_zero", "swish_param { beta: 0 }", "m 12" + BAD, same=True)
row(
    "Exp",
    "not_numbers_scale_zero",
    "exp_param { scale: 0 shift: 2 base: 3 }",
    "m 12" + BAD,
    same=True,
    note="BLAS scales by 0 without a look at infinities",
)
row("Log", "not_numbers_scale_zero", "log_param { scale: 0 shift: 2 base: 3 }", "m 12" + BAD, same=True)
row(
    "Log", "not_numbers", "log_param { base: 2 scale: -1 }", "m 12" + BAD, same=True, note="-0 stays -0 without a shift"
)
row(
    "Reduction",
    "not_numbers_coeff_zero",
    "reduction_param { operation: SUMSQ coeff: 0 axis: 1 }",
    "4 3" + BAD,
    same=True,
)
row(
    "Eltwise",
    "not_numbers_coeff_zero",
    "eltwise_param { coeff: 0 coeff: 2 coeff: 0 }",
    "m 12" + BAD,
    "m 12",
    "m 12" + BAD,
    same=True,
)
IGNORED = "3 3 : given nan 0 0 1 2 3 inf -1 2", "3 : given 255 1 255"
row(
    "SoftmaxWithLoss",
    "ignored_not_numbers",
    "loss_param { ignore_label: 255 }",
    *IGNORED,
    same=True,
    note="the gradient is 0 where the label is ignored, even if the probability is NaN",
)
row(
    "InfogainLoss",
    "ignored_not_numbers",
    "loss_param { ignore_label: 255 }",
    *IGNORED,
    "3 3 : given 1 0.5 nan 2 -1 0.5 3 1 2",
    **LEARN,
)
row(
    "SigmoidCrossEntropyLoss",
    "ignored_not_numbers",
    "loss_param { ignore_label: -1 }",
    "2 2 : given nan 0 1 2",
    "2 2 : given -1 1 0 1",
    same=True,
)
row(
    "SoftmaxWithLoss",
    "labels_beyond_int",
    "loss_param { ignore_label: -2147483648 }",
    "4 3",
    "4 : given 3e9 1 nan -inf",
    same=True,
    note="what does not fit into an int becomes the least int",
)
row(
    "SigmoidCrossEntropyLoss",
    "labels_beyond_int",
    "loss_param { ignore_label: -2147483648 }",
    "2 3",
    "2 3 : given nan 1 0 3e9 inf 1",
    same=True,
)
for norm in ("L1", "L2"):
    row(
        "HingeLoss",
        "not_numbers_" + norm,
        f"hinge_loss_param {{ norm: {norm} }}",
        "4 3 : given 1 nan 2 -inf -0.5 0.1 3 -1 0 nan nan 2",
        "4 : given 0 2 1 1",
        same=True,
        note="NaN counts 0",
    )
row(
    "ContrastiveLoss",
    "infinitely_apart",
    "",
    "4 3 : given inf 1 0 1 2 3 nan 0 1 0.1 0.2 0.3",
    "4 3 : given 0.2 0.1 0.4",
    "4 : given 0 0 0 1",
    same=True,
)
for type_ in ("EuclideanLoss", "HingeLoss", "MultinomialLogisticLoss"):
    row(type_, "no_axes", "", "scalar : constant 0", "scalar : constant 0", fails=True)
row("Scale", "scalar_bias_axis", "scale_param { bias_term: true }", "k", "scalar", fails=True)
row("BatchReindex", "negative_fraction", "", "n k", "1 : given -0.9", force=False, fails=True)
row("Dropout", "ratio_one_test", "dropout_param { dropout_ratio: 1 }", NCHW, phase="TEST")
row("Slice", "in_place_one", "", NCHW, in_place=True)
row(
    "ArgMax",
    "in_place",
    "argmax_param { axis: 1 top_k: <k> out_max_val: true }",
    "m k",
    in_place=True,
    backward=False,
    passes=2,
)
row("ArgMax", "in_place_items", "argmax_param { top_k: <k> }", "n 1 k : ties", in_place=True, backward=False, passes=2)
row(
    "Crop",
    "in_place",
    "crop_param { axis: 3 }",
    NCHW,
    "n c h w",
    in_place=True,
    passes=2,
    note="no gradient comes through",
)
