"""Plots as SVG (light and dark) and PNG, by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchcaffe.formats.files import write_bytes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind too
SIZE = (5.2, 3.3)  # inches: its letters stay readable in 350 pixels
INK, GRID = "#1f2328", "#d0d7de"
DARK = {INK: "#e6edf3", GRID: "#3d444d"}  # the same on a dark page


class Plot(NamedTuple):
    """One drawing: the SVG for light and for dark pages, and a PNG on white."""

    light: bytes
    dark: bytes
    png: bytes

    def write(self, path: Path | str) -> None:
        """PATH.svg and PATH.png."""
        write_bytes(f"{path}.svg", self.light)
        write_bytes(f"{path}.png", self.png)


@dataclass
class Curve:
    """A line of a plot; `faint`: the unsmoothed data behind it; `dashed`: a test's values."""

    label: str
    x: np.ndarray
    y: np.ndarray
    colour: str = COLOURS[0]
    dashed: bool = False
    smooth: int = 0


def plain(text: str) -> str:
    """A name from outside, to matplotlib, which would set what is between dollars as a formula."""
    return text.replace("$", r"\$")


def draw(paint: Callable[[Any], None], size: tuple[float, float] = SIZE) -> Plot:
    """Call paint(axes) on an empty plot. The same input gives the same bytes."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "ilgnet",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": GRID,
        "axes.edgecolor": GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "axes.titlesize": 10,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained") if _has_layout() else Figure(size, tight_layout=True)
        paint(figure.add_subplot())
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    dark = svg.getvalue()
    for light_colour, dark_colour in DARK.items():
        dark = dark.replace(light_colour.encode(), dark_colour.encode())
    return Plot(svg.getvalue(), dark, png.getvalue())


def _has_layout() -> bool:
    import matplotlib

    return tuple(int(part) for part in matplotlib.__version__.split(".")[:2]) >= (3, 5)


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values; values that are not finite are left out of it."""
    good = np.isfinite(values)
    total = np.cumsum(np.where(good, values, 0.0))
    count = np.cumsum(good)
    total[window:] -= total[:-window].copy()
    count[window:] -= count[:-window].copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan)


def curves(found: list[Curve], ylabel: str, level: tuple[float, str] | None = None, percent: bool = False) -> Plot:
    """Lines over iterations. `level` is a horizontal line with its name (a baseline)."""

    def paint(axes: Any) -> None:
        scale = 100 if percent else 1
        for curve in found:
            style = "--" if curve.dashed else "-"
            marker = "o" if curve.dashed and len(curve.x) < 40 or len(curve.x) == 1 else ""
            y = curve.y * scale
            if curve.smooth > 1 and len(y) > 2 * curve.smooth:
                axes.plot(curve.x, y, color=curve.colour, linewidth=0.8, alpha=0.3)
                y = smoothed(y, curve.smooth)
            axes.plot(
                curve.x,
                y,
                style,
                marker=marker,
                markersize=3,
                color=curve.colour,
                linewidth=1.6,
                label=plain(curve.label),
            )
        if level is not None:
            axes.axhline(level[0] * scale, color="#8c959f", linewidth=1.2, linestyle=":", label=level[1])
        finite = np.concatenate([c.y[np.isfinite(c.y)] * scale for c in found] or [np.zeros(0)])
        if len(finite):
            high = np.percentile(finite, 99.5) if not percent else max(finite.max(), (level or (0,))[0] * scale)
            low = min(finite.min(), (level or (np.inf,))[0] * scale) if percent else min(0, finite.min())
            pad = 0.06 * max(high - low, 1.0 if percent else 1e-9)
            axes.set_ylim(low - (pad if percent else 0), min(high + pad, 100.5) if percent else high + pad)
        axes.set_xlabel("iteration")
        axes.set_ylabel(ylabel + (" (%)" if percent else ""))
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        if found or level:
            axes.legend(loc="best")

    return draw(paint)


def histograms(groups: list[tuple[str, np.ndarray, str]], xlabel: str, ylabel: str, bins: int = 30) -> Plot:
    """(name, values, colour) each as a histogram in per cent of its own values, on common bins."""

    def paint(axes: Any) -> None:
        everything = np.concatenate([values for _, values, _ in groups])
        low, high = float(everything.min()), float(everything.max())
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
        for name, values, colour in groups:
            weights = np.full(len(values), 100 / max(1, len(values)))
            axes.hist(values, edges, weights=weights, histtype="stepfilled", color=colour, alpha=0.25)
            axes.hist(values, edges, weights=weights, histtype="step", color=colour, linewidth=1.4, label=plain(name))
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.legend(loc="best")

    return draw(paint)


def calibration(bins: list[dict[str, float]]) -> Plot:
    """Observed share of "high" over the mean probability, a point a bin, its area growing with the bin's photos."""

    def paint(axes: Any) -> None:
        n = np.array([b["n"] for b in bins], dtype=float)
        axes.plot([0, 1], [0, 1], ":", color="#8c959f", linewidth=1.2, label="perfect")
        axes.plot([b["p_high"] for b in bins], [b["observed"] for b in bins], "-", color=COLOURS[0], linewidth=1)
        axes.scatter(
            [b["p_high"] for b in bins],
            [b["observed"] for b in bins],
            s=12 + 120 * n / n.max(),
            color=COLOURS[0],
            zorder=3,
            label="this net",
        )
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("mean P(high) in the bin")
        axes.set_ylabel("share of high photos")
        axes.legend(loc="upper left")

    return draw(paint)
