"""The differences of two nets, layer by layer: layers in one net only, and layers that differ."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from torchcaffe.proto import caffe_pb2, format_text


class NetDiff(NamedTuple):
    """Layers by key (see `keyed`). changed: (lines of the first's text only, lines of the second's only)."""

    same: list[str]
    only_first: dict[str, Any]  # LayerParameter, in the net's order
    only_second: dict[str, Any]
    changed: dict[str, tuple[list[str], list[str]]]


def keyed(net: Any) -> dict[str, Any]:
    """A NetParameter's layers by name, with the phase if they have one, since a net has two data layers of one name."""
    phases = [" ".join(caffe_pb2.Phase.Name(rule.phase) for rule in layer.include) for layer in net.layer]
    return {f"{layer.name} {phase}".strip(): layer for layer, phase in zip(net.layer, phases)}


def fields(layer: Any) -> Counter[str]:
    """The lines of a layer's text; a message in it by its name."""
    return Counter(line.strip(" {") for line in format_text(layer).splitlines() if line.strip() != "}")


def diff(first: Any, second: Any) -> NetDiff:
    """Compare two NetParameters."""
    a, b = keyed(first), keyed(second)
    changed = {}
    for key in [key for key in a if key in b and a[key] != b[key]]:
        mine, theirs = (fields(x[key]) for x in (a, b))
        changed[key] = (list((mine - theirs).elements()), list((theirs - mine).elements()))
    return NetDiff(
        [key for key in a if key in b and a[key] == b[key]],
        {key: layer for key, layer in a.items() if key not in b},
        {key: layer for key, layer in b.items() if key not in a},
        changed,
    )


def block_of(key: str) -> str:
    """inception_3a/relu_1x1 -> inception_3a, temp1_drop -> temp1."""
    return key.split("/")[0] if "/" in key else key.split("_")[0]


def lines(first: Any, second: Any, titles: tuple[str, str]) -> list[str]:
    """The differences as text: a line for each block in one net only, and for each layer that differs."""
    found = diff(first, second)
    out = [
        f"{titles[0]}: {len(first.layer)} layers, {titles[1]}: {len(second.layer)} layers, "
        f"{len(found.same)} of them the same"
    ]
    for title, only in zip(titles, (found.only_first, found.only_second)):
        blocks: dict[str, Counter[str]] = {}
        for key, layer in only.items():
            blocks.setdefault(block_of(key), Counter())[layer.type] += 1
        out += [
            f"only in {title}: {block}: " + ", ".join(f"{n} {type_}" for type_, n in types.items())
            for block, types in blocks.items()
        ]
    out += [
        f"changed: {key}: {', '.join(mine) or '-'} -> {', '.join(theirs) or '-'}"
        for key, (mine, theirs) in found.changed.items()
    ]
    return out
