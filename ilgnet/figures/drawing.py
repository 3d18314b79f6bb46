"""Drawings of a net, from top to bottom: a box for each layer together with its in-place layers, or a box for each
block as in the paper's Fig. 2."""

import itertools
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ilgnet.figures import html, plots
from ilgnet.figures.summary import POOLINGS, WEIGHTED, Row, Summary, depth_sentence
from ilgnet.nets.paper import Label

COLOURS = {
    "Input": "#e8e8e8",
    "Data": "#e8e8e8",
    "Convolution": "#cfe2f7",
    "InnerProduct": "#d8ccf0",
    "Pooling": "#fbdcc0",
    "SPP": "#fbdcc0",
    "LRN": "#e3eccb",
    "Concat": "#f6f2c5",
    "Eltwise": "#f6f2c5",
    "Softmax": "#f5c6cb",
    "SoftmaxWithLoss": "#f5c6cb",
    "Accuracy": "#f5c6cb",
}
WIDTH, HEIGHT, GAP_X, GAP_Y, BEND = 196, 52, 18, 34, 10
FITS = 32  # characters of the usual size that fit into a box
TOP = 58  # of the first box in the SVG


@dataclass
class Node:
    """A box; or, without lines of text, a bend of an edge that passes a rank. `x`: centre; `y`: top."""

    lines: list[str] = field(default_factory=list)
    colour: str = "#ffffff"
    weighted: bool = False  # on the net's longest path, drawn with a heavier border
    parents: list[int] = field(default_factory=list)
    rank: int = 0
    x: float = 0.0
    y: int = 0

    @property
    def width(self) -> int:
        return WIDTH if self.lines else BEND

    @property
    def bottom(self) -> int:
        return self.y + HEIGHT


def boxes(summary: Summary) -> list[Node]:
    """The boxes of the layers."""
    nodes: list[Node] = []
    maker: dict[str, int] = {}
    on_path = set(summary.path)
    for row in summary.rows:
        if row.bottoms and row.bottoms == row.tops and row.bottoms[0] in maker:
            nodes[maker[row.bottoms[0]]].lines[1] += f", {row.type}"  # in place
            continue
        kind = f"{row.type} {row.window}".strip()
        shape = " × ".join(map(str, row.shape)) or "1"
        parents = sorted({maker[b] for b in row.bottoms if b in maker})
        colour = COLOURS.get(row.type, "#ffffff")
        nodes.append(Node([row.name, kind, shape], colour, row.name in on_path, parents, _rank(nodes, parents)))
        maker.update(dict.fromkeys(row.tops, len(nodes) - 1))
    return nodes


def _rank(nodes: list[Node], parents: list[int]) -> int:
    return 1 + max((nodes[p].rank for p in parents), default=-1)


def add_bends(nodes: list[Node]) -> None:
    """Lead every edge that passes ranks through a bend in each of them, so that it does not cross boxes."""
    bends: dict[tuple[int, int], int] = {}  # (box, rank): the edges of a box share their bends
    for i in range(len(nodes)):
        for k, parent in enumerate(nodes[i].parents):
            last = parent
            for rank in range(nodes[parent].rank + 1, nodes[i].rank):
                if (parent, rank) not in bends:
                    nodes.append(Node(parents=[last], rank=rank))
                    bends[parent, rank] = len(nodes) - 1
                last = bends[parent, rank]
            nodes[i].parents[k] = last


def place(nodes: list[Node]) -> None:
    """Add the bends and set every node's position. Within its rank, a node is ordered by and drawn towards the mean of
    its neighbours."""
    add_bends(nodes)
    ranks: dict[int, list[int]] = {}
    children: dict[int, list[int]] = {i: [] for i in range(len(nodes))}
    for i, node in enumerate(nodes):
        node.y = node.rank * (HEIGHT + GAP_Y)
        ranks.setdefault(node.rank, []).append(i)
        for parent in node.parents:
            children[parent].append(i)
    for row in ranks.values():
        spread(nodes, row, [0.0] * len(row))
    for sweep in range(24):
        downwards = sweep % 2 == 0
        for rank in sorted(ranks, reverse=not downwards):
            wanted = {}
            for i in ranks[rank]:
                near = nodes[i].parents if downwards else children[i]
                wanted[i] = sum(nodes[n].x for n in near) / len(near) if near else nodes[i].x
            ranks[rank].sort(key=wanted.__getitem__)
            spread(nodes, ranks[rank], [wanted[i] for i in ranks[rank]])


def spread(nodes: list[Node], row: list[int], wanted: list[float]) -> None:
    """Set centres as near to `wanted` (ascending) as boxes without overlap can be; touching boxes share a shift."""
    from scipy.optimize import isotonic_regression

    gaps = [(nodes[i].width + nodes[k].width) / 2 + GAP_X for i, k in itertools.pairwise(row)]
    offsets = np.cumsum([0, *gaps])
    # Without the offsets, the centres must only not decrease.
    for i, x in zip(row, isotonic_regression(wanted - offsets).x + offsets):
        nodes[i].x = x


def svg(summary: Summary) -> str:
    """The drawing as a self-contained SVG file. Layers on the longest path have a dark border."""
    nodes = boxes(summary)
    place(nodes)
    first = min(n.x - n.width / 2 for n in nodes) - GAP_X
    for node in nodes:
        node.x -= first
        node.y += TOP
    return html.page(
        "net.svg",
        nodes=nodes,
        width=f"{max(520, *(n.x + n.width / 2 + GAP_X for n in nodes)):.0f}",
        height=max(n.bottom for n in nodes) + GAP_Y,
        left=GAP_X,
        fits=FITS,
        sentence=depth_sentence(summary),
        amount=f"{summary.parameters:,} parameters, {summary.multiply_adds:,} multiply-adds a photo",
    )


# --- Fig. 2: a box for each block ------------------------------------------------------------------------------------

BLOCK_COLOURS = {
    "photo": "#8c959f",
    "(1)": "#0072b2",
    "(2)": "#e69f00",
    "(3)": "#e69f00",
    "(4)": "#e69f00",
    "(5)": "#009e73",
    "(6)": "#009e73",
    "(7)": "#cc79a7",
    "answer": "#d55e00",
}
GREY = plots.GREY
BLOCK = 13  # points: a line of a block's text


def blocks(summary: Summary, labels: list[Label]) -> list[Node]:
    """The boxes of Fig. 2: the photo; for each labelled blob the layers it needs, without those of the labels before
    it; and the rest, the answer."""
    writers: dict[str, list[int]] = {}  # by blob: the rows that write it, in place ones too
    needs: list[set[int]] = []
    below: list[set[int]] = []  # by row: itself and all that it depends on
    for i, row in enumerate(summary.rows):
        needs.append({j for bottom in row.bottoms for j in writers.get(bottom, [])})
        below.append({i}.union(*(below[j] for j in needs[i])))
        for top in row.tops:
            writers.setdefault(top, []).append(i)

    parts = [("photo", "", {i for i, row in enumerate(summary.rows) if not row.bottoms})]
    taken = set(parts[0][2])
    for label in labels:
        for blob in label.blobs:
            rows = set().union(*(below[i] for i in writers[blob])) - taken
            taken |= rows
            parts.append((label.mark, label.what, rows))
    parts.append(("answer", "(low or high)", set(range(len(summary.rows))) - taken))
    nodes: list[Node] = []
    home: dict[int, int] = {}
    for mark, what, rows in parts:
        home.update(dict.fromkeys(rows, len(nodes)))
        parents = sorted({home[j] for i in rows for j in needs[i] if home[j] != len(nodes)})
        lines = _block_text(mark, what, [summary.rows[i] for i in sorted(rows)])
        nodes.append(Node(lines, BLOCK_COLOURS.get(mark, GREY), parents=parents, rank=_rank(nodes, parents)))
    return nodes


def _block_text(mark: str, what: str, rows: list[Row]) -> list[str]:
    """A block's title, its kinds of layers, and its shape and parameters."""
    kinds = Counter(row.type for row in rows if row.type in WEIGHTED + POOLINGS)
    made = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    parameters = sum(row.parameters for row in rows)
    count = f"{parameters / 1e6:.2f} M" if parameters > 99999 else f"{parameters:,}"
    shape = " × ".join(map(str, rows[-1].shape))
    counted = f", {count} parameters" if parameters else ""
    return [f"{mark} {what}".strip(), *([made] if made else []), shape + counted]


def figure2(summary: Summary, labels: list[Label]) -> plots.Plot:
    """Fig. 2 as a plot, labelled as in the paper."""
    nodes = blocks(summary, labels)
    place(nodes)
    left, right = min(n.x - n.width / 2 for n in nodes) - 4, max(n.x + n.width / 2 for n in nodes) + 4
    height = max(n.bottom for n in nodes)

    def paint(axes: Any) -> None:
        from matplotlib.patches import FancyBboxPatch, PathPatch
        from matplotlib.path import Path

        axes.set_position([0, 0, 1, 1])
        axes.set_xlim(left, right)
        axes.set_ylim(height + 4, -4)
        axes.axis("off")
        for node in nodes:
            for parent in (nodes[p] for p in node.parents):
                middle = (parent.bottom + node.y) / 2
                bend = [(parent.x, parent.bottom), (parent.x, middle), (node.x, middle), (node.x, node.y)]
                path = Path(bend, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
                axes.add_patch(PathPatch(path, fill=False, edgecolor=GREY, linewidth=1.2))
            if not node.lines:
                axes.plot([node.x, node.x], [node.y, node.bottom], color=GREY, linewidth=1.2)
                continue
            corner = (node.x - WIDTH / 2 + 2, node.y + 2)
            box = partial(FancyBboxPatch, corner, WIDTH - 4, HEIGHT - 4, boxstyle="round,pad=0,rounding_size=5")
            axes.add_patch(box(facecolor=node.colour, edgecolor="none", alpha=0.18))
            axes.add_patch(box(fill=False, edgecolor=node.colour, linewidth=1.4))
            first = node.y + HEIGHT / 2 - BLOCK * (len(node.lines) - 1) / 2
            for k, text in enumerate(node.lines):
                axes.text(
                    node.x,
                    first + BLOCK * k,
                    text,
                    ha="center",
                    va="center",
                    color=plots.INK,
                    fontsize=8.5 if k else 10.5,
                    fontweight="normal" if k else "bold",
                )

    return plots.draw(paint, ((right - left) / 72, (height + 8) / 72))
