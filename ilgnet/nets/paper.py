"""What the paper prints, for reports: Tables 2 and 3, every row. Our variants' figures come from variants.py."""

from typing import NamedTuple

from ilgnet.nets.variants import PAPER, VARIANTS


class Row(NamedTuple):
    """A method's accuracies in per cent, None where the paper prints none; `variant` is our net, if it is one."""

    method: str
    printed: tuple[float | None, ...]
    variant: str | None = None


TABLE2_OTHERS = [  # accuracy on AVA1, delta 0 and delta 1
    Row("Traditional method [10]", (66.70, 67.00)),
    Row("RAPID [37]", (69.91, 71.26)),
    Row("RAPID-E [39]", (74.46, 73.70)),
    Row("Multi-patch [38]", (75.41, None)),
    Row("AROD [51]", (75.83, None)),
    Row("Multi-scene [41]", (76.94, None)),
    Row("Comp.-prev. [12]", (77.10, 76.10)),
    Row("AADB [42]", (77.33, None)),
    Row("BDN [44]", (78.08, 77.27)),
    Row("Semantic-based [43]", (79.08, 76.04)),
    Row("A-Lamp [45]", (82.5, None)),
]
TABLE3_OTHERS = [  # accuracy on AVA2
    Row("Subject-based [15]", (61.49,)),
    Row("EfficientAssess [49]", (68.13,)),
    Row("Generic-based [34]", (68.55,)),
    Row("Compt.-based [13]", (68.67,)),
    Row("High-level [14]", (71.06,)),
    Row("Multi-level [40]", (78.92,)),
    Row("Query-dependent [52]", (80.38,)),
    Row("DCNN-Aesth-SP [50]", (83.52,)),
    Row("Multi-scene [41]", (84.88,)),
]
# Photos of each class (low, high) in the released test lists: the majority baseline of a log depends on them.
RELEASED_TEST = {"ava1": (4000, 16000), "ava1_delta1": (4000, 16000), "ava2": (12831, 12722)}
# What the authors tested on: caffe test's default 50 iterations.
DEFAULT_TEST_BATCHES = 50


# Our rows in the order of the paper's tables; the others are not in them.
ORDER = ("noinc", "third", "v1bn", "v3", "v4")


def tables() -> list[tuple[str, list[tuple[str, str]], list[Row]]]:
    """Tables 2 and 3: (title, columns as (data set, heading), rows as printed, then our variants without a figure)."""
    ours = [PAPER[name] for name in ORDER] + [v for v in PAPER.values() if v.name not in ORDER]
    return [
        (
            "Table 2: accuracy on AVA1",
            [("ava1", "δ = 0"), ("ava1_delta1", "δ = 1")],
            TABLE2_OTHERS + [Row(v.title, v.table2, v.name) for v in ours],
        ),
        (
            "Table 3: accuracy on AVA2",
            [("ava2", "AVA2")],
            TABLE3_OTHERS + [Row(v.title, (v.table3,), v.name) for v in ours],
        ),
    ]


class Label(NamedTuple):
    """One of Fig. 2's labels: where it stands, what it is, and the blobs that hold it."""

    mark: str
    what: str
    blobs: tuple[str, ...]


def labels(variant: str) -> list[Label]:
    """Fig. 2's labels in an ILGNet; none for GoogLeNet's parts, which have no connected local and global layers."""
    v = VARIANTS[variant]
    if not v.local:
        return []
    return [
        Label("(1)", "pre-treatment layer", (v.stem,)),
        Label("(2)", "first inception module", v.local[:1]),
        Label("(3)", "second inception module", v.local[1:]),
        Label("(4)", "third inception module", (v.trunk,)),
        Label("(5)", "local features", ("temp1", "temp2")),
        Label("(6)", "global features", ("temp3",)),
        Label("(7)", "connected layer", ("temp_cjy",)),
    ]
