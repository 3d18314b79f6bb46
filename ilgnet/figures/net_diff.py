"""The differences of two nets, layer by layer: layers in one net only, and layers that differ."""

from collections import Counter
from typing import Any

from torchcaffe.proto import caffe_pb2, format_text


def keyed(net: Any) -> dict[str, Any]:
    """A NetParameter's layers by name, with the phase if they have one, since a net has two data layers of one name."""
    phases = [" ".join(caffe_pb2.Phase.Name(rule.phase) for rule in layer.include) for layer in net.layer]
    return {f"{layer.name} {phase}".strip(): layer for layer, phase in zip(net.layer, phases)}


def fields(layer: Any) -> Counter[str]:
    """The lines of a layer's text; a message in it by its name."""
    return Counter(line.strip(" {") for line in format_text(layer).splitlines() if line.strip() != "}")


def block_of(key: str) -> str:
    """inception_3a/relu_1x1 -> inception_3a, temp1_drop -> temp1."""
    return key.split("/")[0] if "/" in key else key.split("_")[0]


def lines(first: Any, second: Any, titles: tuple[str, str]) -> list[str]:
    """The differences of two NetParameters as text: a line for each block in one net only, and for each layer that
    differs."""
    a, b = keyed(first), keyed(second)
    changed = [key for key in a if key in b and a[key] != b[key]]
    same = sum(key in b for key in a) - len(changed)
    counts = f"{titles[0]}: {len(first.layer)} layers, {titles[1]}: {len(second.layer)} layers"
    out = [f"{counts}, {same} of them the same"]
    for title, layers, others in zip(titles, (a, b), (b, a)):
        blocks: dict[str, Counter[str]] = {}
        for key, layer in layers.items():
            if key not in others:
                blocks.setdefault(block_of(key), Counter())[layer.type] += 1
        for block, types in blocks.items():
            out.append(f"only in {title}: {block}: " + ", ".join(f"{n} {type_}" for type_, n in types.items()))
    for key in changed:
        mine, theirs = fields(a[key]), fields(b[key])
        gone, new = (", ".join(only.elements()) or "-" for only in (mine - theirs, theirs - mine))
        out.append(f"changed: {key}: {gone} -> {new}")
    return out
