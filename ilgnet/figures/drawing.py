"""A net as a drawing, from top to bottom: a box a layer, with the layers that work on it in place inside it; or a box
a block, as in the paper's Fig. 2."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html import escape
from typing import Any

from ilgnet.figures import plots
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
FITS = 32  # characters of the usual size in a box


@dataclass
class Node:
    """A box, or (no lines) a bend of an edge that passes a rank."""

    lines: list[str] = field(default_factory=list)
    colour: str = "#ffffff"
    weighted: bool = False  # on the net's longest path: drawn with a heavier border
    parents: list[int] = field(default_factory=list)
    rank: int = 0
    x: float = 0.0

    @property
    def width(self) -> int:
        return WIDTH if self.lines else BEND


def boxes(summary: Summary) -> list[Node]:
    """The boxes and, by their index, the boxes they read from."""
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
        rank = 1 + max((nodes[p].rank for p in parents), default=-1)
        colour = COLOURS.get(row.type, "#ffffff")
        nodes.append(Node([row.name, kind, shape], colour, row.name in on_path, parents, rank))
        maker.update({top: len(nodes) - 1 for top in row.tops})
    return nodes


def add_bends(nodes: list[Node]) -> None:
    """Lead every edge that passes ranks through a bend in each of them, so that it does not run through boxes."""
    bends: dict[tuple[int, int], int] = {}  # (box, rank): the edges of one box share their way
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
    """Give every node its x: ordered within its rank by the mean of its neighbours, and drawn towards them."""
    ranks: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        ranks.setdefault(node.rank, []).append(i)
    children: dict[int, list[int]] = {i: [] for i in range(len(nodes))}
    for i, node in enumerate(nodes):
        for parent in node.parents:
            children[parent].append(i)
    for row in ranks.values():
        spread(nodes, row, [0.0] * len(row))
    for sweep in range(24):
        downwards = sweep % 2 == 0
        for rank in sorted(ranks, reverse=not downwards):
            row = ranks[rank]
            wanted = []
            for i in row:
                near = nodes[i].parents if downwards else children[i]
                wanted.append(sum(nodes[n].x for n in near) / len(near) if near else nodes[i].x)
            order = sorted(range(len(row)), key=lambda k: wanted[k])
            ranks[rank] = [row[k] for k in order]
            spread(nodes, ranks[rank], [wanted[k] for k in order])


def spread(nodes: list[Node], row: list[int], wanted: list[float]) -> None:
    """Centres as near to `wanted` (ascending) as boxes that do not overlap can be: those that do share their shift."""
    groups: list[list] = []  # [sum of shifts, count, members' offsets from the group's first centre]
    for k, i in enumerate(row):
        groups.append([[i], [0.0], wanted[k]])
        while len(groups) > 1:
            left, right = groups[-2], groups[-1]
            needed = (nodes[left[0][-1]].width + nodes[right[0][0]].width) / 2 + GAP_X
            if right[2] - (left[2] + left[1][-1]) >= needed:
                break
            shift = left[1][-1] + needed
            total = left[2] * len(left[0]) + (right[2] - shift) * len(right[0])
            merged = len(left[0]) + len(right[0])
            groups[-2:] = [[left[0] + right[0], left[1] + [o + shift for o in right[1]], total / merged]]
    for members, offsets, start in groups:
        for i, offset in zip(members, offsets):
            nodes[i].x = start + offset


def svg(summary: Summary) -> str:
    """The drawing as the text of an SVG file that needs nothing else. Layers on the longest path have a dark border."""
    nodes = boxes(summary)
    add_bends(nodes)
    place(nodes)
    first = min(n.x - n.width / 2 for n in nodes) - GAP_X
    for node in nodes:
        node.x -= first
    width = max(520, *(n.x + n.width / 2 + GAP_X for n in nodes))
    top = 58
    height = top + (max(n.rank for n in nodes) + 1) * (HEIGHT + GAP_Y)

    def y(node: Node, bottom: bool = False) -> float:
        at = top + node.rank * (HEIGHT + GAP_Y)
        return at + HEIGHT if bottom else at

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{GAP_X}" y="22" font-size="13">{escape(depth_sentence(summary))}</text>',
        f'<text x="{GAP_X}" y="40" font-size="13">{summary.parameters:,} parameters, '
        f"{summary.multiply_adds:,} multiply-adds a photo</text>",
        '<g fill="none" stroke="#8a8a8a">',
    ]
    for node in nodes:
        for parent in (nodes[p] for p in node.parents):
            y0, y1 = y(parent, bottom=True), y(node)
            middle = (y0 + y1) / 2
            bend = f"C{parent.x:.1f} {middle:.0f} {node.x:.1f} {middle:.0f} {node.x:.1f} {y1:.0f}"
            out.append(f'<path d="M{parent.x:.1f} {y0:.0f}{bend}"/>')
        if not node.lines:
            out.append(f'<path d="M{node.x:.1f} {y(node):.0f}V{y(node, bottom=True):.0f}"/>')
    out.append("</g>")
    for node in nodes:
        if not node.lines:
            continue
        stroke, thick = ("#303030", 1.6) if node.weighted else ("#a0a0a0", 0.8)
        out.append(
            f'<rect x="{node.x - WIDTH / 2:.1f}" y="{y(node):.0f}" width="{WIDTH}" height="{HEIGHT}" rx="4" '
            f'fill="{node.colour}" stroke="{stroke}" stroke-width="{thick}"/>'
        )
        for k, text in enumerate(node.lines):
            weight = ' font-weight="bold"' if k == 0 else ""
            size = 11 * min(1, FITS / max(1, len(text)))  # a layer may have no name
            out.append(
                f'<text x="{node.x:.1f}" y="{y(node) + 15 + 15 * k:.0f}" text-anchor="middle" '
                f'font-size="{size:.1f}"{weight}>{escape(text)}</text>'
            )
    return "\n".join([*out, "</svg>"]) + "\n"


# --- Fig. 2: a box a block -------------------------------------------------------------------------------------------

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
BLOCK = 13  # points: a line of a block's text


def blocks(summary: Summary, labels: list[Label]) -> list[Node]:
    """The boxes of Fig. 2: what each labelled blob needs, less what the labels before it needed; the photo, and what is
    left over, the answer."""
    writers: dict[str, list[int]] = {}  # by blob: the rows that write it, in place ones too
    needs: list[set[int]] = []
    for i, row in enumerate(summary.rows):
        needs.append({j for bottom in row.bottoms for j in writers.get(bottom, [])})
        for top in row.tops:
            writers.setdefault(top, []).append(i)

    def below(rows: set[int]) -> set[int]:
        found, todo = set(rows), list(rows)
        while todo:
            new = needs[todo.pop()] - found
            found |= new
            todo += new
        return found

    parts = [("photo", "", {i for i, row in enumerate(summary.rows) if not row.bottoms})]
    taken = set(parts[0][2])
    for label in labels:
        for blob in label.blobs:
            rows = below(set(writers[blob])) - taken
            taken |= rows
            parts.append((label.mark, label.what, rows))
    parts.append(("answer", "(low or high)", set(range(len(summary.rows))) - taken))
    nodes: list[Node] = []
    home: dict[int, int] = {}
    for mark, what, rows in parts:
        home.update(dict.fromkeys(rows, len(nodes)))
        parents = sorted({home[j] for i in rows for j in needs[i] if home[j] != len(nodes)})
        rank = 1 + max((nodes[p].rank for p in parents), default=-1)
        lines = _block_text(mark, what, [summary.rows[i] for i in sorted(rows)])
        nodes.append(Node(lines, BLOCK_COLOURS.get(mark, "#8c959f"), parents=parents, rank=rank))
    return nodes


def _block_text(mark: str, what: str, rows: list[Row]) -> list[str]:
    """A block's title, what it is made of, and its shape and parameters."""
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
    add_bends(nodes)
    place(nodes)
    step = HEIGHT + GAP_Y
    left, right = min(n.x - n.width / 2 for n in nodes) - 4, max(n.x + n.width / 2 for n in nodes) + 4
    height = (max(n.rank for n in nodes) + 1) * step - GAP_Y

    def paint(axes: Any) -> None:
        from matplotlib.patches import FancyBboxPatch, PathPatch
        from matplotlib.path import Path

        axes.set_position([0, 0, 1, 1])
        axes.set_xlim(left, right)
        axes.set_ylim(height + 4, -4)
        axes.axis("off")
        for node in nodes:
            y = node.rank * step
            for parent in (nodes[p] for p in node.parents):
                y0 = parent.rank * step + HEIGHT
                bend = [(parent.x, y0), (parent.x, (y0 + y) / 2), (node.x, (y0 + y) / 2), (node.x, y)]
                path = Path(bend, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
                axes.add_patch(PathPatch(path, fill=False, edgecolor="#8c959f", linewidth=1.2))
            if not node.lines:
                axes.plot([node.x, node.x], [y, y + HEIGHT], color="#8c959f", linewidth=1.2)
                continue
            for style in (
                {"facecolor": node.colour, "edgecolor": "none", "alpha": 0.18},
                {"fill": False, "edgecolor": node.colour, "linewidth": 1.4},
            ):
                axes.add_patch(
                    FancyBboxPatch(
                        (node.x - WIDTH / 2 + 2, y + 2),
                        WIDTH - 4,
                        HEIGHT - 4,
                        boxstyle="round,pad=0,rounding_size=5",
                        **style,
                    )
                )
            first = y + HEIGHT / 2 - BLOCK * (len(node.lines) - 1) / 2
            for k, text in enumerate(node.lines):
                axes.text(
                    node.x,
                    first + BLOCK * k,
                    text,
                    ha="center",
                    va="center",
                    color=plots.INK,
                    fontsize=10.5 if k == 0 else 8.5,
                    fontweight="bold" if k == 0 else "normal",
                )

    return plots.draw(paint, ((right - left) / 72, (height + 8) / 72))
