"""The table of layer types in docs/engine.md: python -m tests.bvlc.engine_table writes it anew between its two marks.

Options and configurations come from tests/bvlc/layers.py; errors from running them all and comparing with what real
Caffe computed (goldens/layers/), as tests/test_layers_bvlc.py does."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from tests.bvlc import compare, layers
from tests.bvlc.run_caffe import run_layer
from torchcaffe.formats.files import write_bytes
from torchcaffe.proto import caffe_pb2, parse_text

HERE = Path(__file__).resolve().parent
GOLDENS = HERE / "goldens" / "layers"
PAGE = HERE.parents[1] / "docs" / "engine.md"
BEGIN, END = "<!-- made by python -m tests.bvlc.engine_table -->", "<!-- end -->"
BEYOND = {"BN": "tests/torchcaffe/ops/test_bn_layer.py"}  # types that BVLC has not: the proof is another
# Options that no configuration sets, and why
EXCUSED = {
    "HDF5Data.shuffle": "drawn from the C library's `rand()`: `tests/torchcaffe/formats/test_hdf5_shuffle_bvlc.py`",
    **{
        f"Im2col.{name}": "belongs to Convolution, which shares the message"
        for name in ("num_output", "bias_term", "group", "weight_filler", "bias_filler", "engine")
    },
}
SHARED_PARAMS = ("transform_param", "loss_param", "softmax_param")  # messages that several types read


def own_field(type_: str) -> str | None:
    """The field of LayerParameter that is the type's own."""
    from torchcaffe.core.layer import registry
    from torchcaffe.nets import net

    net.layer_type_list()  # loads them all
    return registry[type_].param_field


def options_of(message: str | None) -> list[str]:
    """The fields of a *_param."""
    fields = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name
    return [field.name for field in fields[message].message_type.fields] if message else []


def set_options(message, prefix: str = "") -> list[str]:
    """The fields that a message sets, an enum with its value: ["kernel_size", "pool: AVE"]."""
    found = []
    for field, value in message.ListFields():
        text = prefix + field.name
        if field.enum_type is not None:
            text += ": " + field.enum_type.values_by_number[value].name
        found.append(text)
    return found


def used(type_: str) -> Counter:
    """How many configurations that BVLC accepts set each option of a type, and what else of a layer's fields."""
    count: Counter = Counter()
    own = own_field(type_)
    for row in layers.ROWS:
        if row.type != type_ or row.fails:
            continue
        layer = parse_text(layers.case(row)["proto"], caffe_pb2.NetParameter(), row.id).layer[-1]
        names = set_options(getattr(layer, own)) if own else []
        for field, _ in layer.ListFields():
            if field.name in SHARED_PARAMS and field.name != own:
                names += set_options(getattr(layer, field.name), field.name + ".")
            elif field.name in ("loss_weight", "propagate_down", "param", "phase"):
                names.append(field.name)
        names += ["in place"] if row.in_place else []
        count.update(list(dict.fromkeys(names)))  # once each, in an order that is always the same
    return count


def untried(type_: str) -> list[str]:
    """Options of a type that no configuration sets."""
    names = {name.split(":")[0] for name in used(type_)}
    return [option for option in options_of(own_field(type_)) if option not in names]


def cells(type_: str) -> list[str]:
    """The cells of a type's line that need no computing: type, options, configurations, refused."""
    if type_ in BEYOND:
        return [f"`{type_}`", ", ".join(f"`{name}`" for name in options_of(own_field(type_))), "", ""]
    options = ", ".join(f"`{name}`" + (f" {n}" if n > 1 else "") for name, n in used(type_).items())
    rows = [row for row in layers.ROWS if row.type == type_]
    refused = sum(row.fails for row in rows)
    return [f"`{type_}`", options or "(has none)", str(len(rows) - refused), str(refused) if refused else ""]


def measured(type_: str, caffe) -> list[str]:
    """Greatest errors against BVLC over a type's configurations: tops, bottoms' diffs, parameters' diffs."""
    worst = {"forward": [], "bottom": [], "param": []}
    with np.load(GOLDENS / f"{type_}.npz") as f:
        golden = {key: f[key] for key in f.files}
    for row in layers.ROWS:
        if row.type != type_ or row.fails:
            continue
        wanted = {key.split("/", 1)[1]: value for key, value in golden.items() if key.startswith(row.name + "/")}
        _, got = run_layer(caffe, json.loads(str(wanted.pop("job"))))
        for kind, error in compare.errors(got, wanted).items():
            if any(compare.kind(key) == kind for key in wanted):
                worst[kind].append(error)
    return [f"{max(errors):.0e}".replace("0e+00", "0") if errors else "" for errors in worst.values()]


def notes() -> list[str]:
    """A line a corner case: what the table's rows have to say."""
    return [f"- `{row.id}`: {row.note}." for row in layers.ROWS if row.note]


def make(caffe) -> str:
    """Everything between the marks."""
    header = [
        "type",
        "options, and how many configurations set them",
        "configurations",
        "refused, as by BVLC",
        "tops",
        "bottoms' diffs",
        "parameters' diffs",
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for type_ in caffe.layer_type_list():
        print(type_, file=sys.stderr, flush=True)
        errors = [f"[{BEYOND[type_]}](../{BEYOND[type_]})", "", ""] if type_ in BEYOND else measured(type_, caffe)
        lines.append("| " + " | ".join([*cells(type_), *errors]) + " |")
    lines += [
        "",
        "Options that no configuration sets: "
        + "; ".join(f"`{name}` ({why})" for name, why in excuses().items())
        + ".",
        "",
        "Corner cases among them:",
        "",
        *notes(),
    ]
    return "\n".join(lines)


def excuses() -> dict[str, str]:
    """EXCUSED, those of one type for one reason in a line."""
    found: dict[str, str] = {}
    for name, why in EXCUSED.items():
        type_, option = name.split(".")
        same = next((key for key in found if found[key] == why and key.startswith(type_ + ".")), None)
        key = f"{same}`, `{option}" if same else name
        if same:
            del found[same]
        found[key] = why
    return found


def parts(page: str) -> tuple[str, str, str]:
    """The page before the table, the table, and behind it."""
    before, _, rest = page.partition(BEGIN + "\n")
    table, _, after = rest.partition("\n" + END)
    return before, table, after


def main() -> int:
    os.environ["GLOG_minloglevel"] = "2"
    import torchcaffe as caffe

    caffe.install_as_caffe()
    caffe.allow_python_layers(True)
    sys.path.insert(0, str(HERE))  # py_layers
    page = PAGE.read_text()
    before, _, after = parts(page)
    write_bytes(PAGE, f"{before}{BEGIN}\n{make(caffe)}\n{END}{after}".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
