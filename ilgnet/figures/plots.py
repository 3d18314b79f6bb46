"""Plots as SVG (light and dark) and PNG, by matplotlib."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilgnet.figures import html
from torchcaffe.formats.files import write_bytes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # distinct for the colour-blind, too
SIZE = (5.2, 3.3)  # inches; text stays readable at 350 pixels
INK, GRID, GREY = "#1f2328", "#d0d7de", "#8c959f"
DARK = {INK: "#e6edf3", GRID: "#3d444d"}  # their colours on a dark page


class Plot(NamedTuple):
    """A drawing as SVG for light and for dark pages, and as PNG on white."""

    light: bytes
    dark: bytes
    png: bytes

    def write(self, path: Path | str) -> None:
        """Write PATH.svg and PATH.png."""
        write_bytes(f"{path}.svg", self.light)
        write_bytes(f"{path}.png", self.png)


@dataclass
class Curve:
    """A line of a plot. `smooth`: show the mean of so many values, with the data faint behind it."""

    label: str
    x: np.ndarray
    y: np.ndarray
    colour: str = COLOURS[0]
    dashed: bool = False
    smooth: int = 0


def plain(text: str) -> str:
    """A name for matplotlib, which would set text between dollars as a formula."""
    return text.replace("$", r"\$")


def draw(paint: Callable[[Any], None], size: tuple[float, float] = SIZE) -> Plot:
    """Call paint(axes) on an empty plot. The same input gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(fname=html.TEMPLATES / "plots.mplstyle"):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    dark = svg.getvalue()
    for light_colour, dark_colour in DARK.items():
        dark = dark.replace(light_colour.encode(), dark_colour.encode())
    return Plot(svg.getvalue(), dark, png.getvalue())


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values without those that are not finite."""
    good = np.isfinite(values)
    total = np.cumsum(np.where(good, values, 0.0))
    count = np.cumsum(good)
    total[window:] -= total[:-window].copy()
    count[window:] -= count[:-window].copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan)


def curves(found: list[Curve], ylabel: str, level: tuple[float, str] | None = None, percent: bool = False) -> Plot:
    """Lines over iterations. `level`: the height and name of a horizontal line."""

    def paint(axes: Any) -> None:
        scale = 100 if percent else 1
        for curve in found:
            marker = "o" if curve.dashed and len(curve.x) < 40 or len(curve.x) == 1 else ""
            y = curve.y * scale
            if curve.smooth > 1 and len(y) > 2 * curve.smooth:
                axes.plot(curve.x, y, color=curve.colour, linewidth=0.8, alpha=0.3)
                y = smoothed(y, curve.smooth)
            axes.plot(
                curve.x,
                y,
                color=curve.colour,
                label=plain(curve.label),
                linestyle="--" if curve.dashed else "-",
                linewidth=1.6,
                marker=marker,
                markersize=3,
            )
        if level is not None:
            axes.axhline(level[0] * scale, color=GREY, linewidth=1.2, linestyle=":", label=level[1])
        values = np.concatenate([curve.y for curve in found] or [np.zeros(0)]) * scale
        finite = values[np.isfinite(values)]
        if len(finite) and percent:
            shown = np.append(finite, level[0] * scale if level else [])
            pad = 0.06 * max(np.ptp(shown), 1.0)
            axes.set_ylim(shown.min() - pad, min(shown.max() + pad, 100.5))
        elif len(finite):
            low, high = min(0, finite.min()), np.percentile(finite, 99.5)
            axes.set_ylim(low, high + 0.06 * max(high - low, 1e-9))
        axes.set_xlabel("iteration")
        axes.set_ylabel(ylabel + (" (%)" if percent else ""))
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        if found or level:
            axes.legend(loc="best")

    return draw(paint)


def histograms(groups: list[tuple[str, np.ndarray, str]], xlabel: str, ylabel: str) -> Plot:
    """Histograms of (name, values, colour), each in per cent of its own values, on 30 common bins."""

    def paint(axes: Any) -> None:
        everything = np.concatenate([values for _, values, _ in groups])
        low, high = float(everything.min()), float(everything.max())
        edges = np.linspace(low, high if high > low else low + 1, 31)
        for name, values, colour in groups:
            weights = np.full(len(values), 100 / max(1, len(values)))
            axes.hist(values, edges, weights=weights, histtype="stepfilled", color=colour, alpha=0.25)
            axes.hist(values, edges, weights=weights, histtype="step", color=colour, linewidth=1.4, label=plain(name))
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.legend(loc="best")

    return draw(paint)


def calibration(p_high: Sequence[float], observed: Sequence[float], counts: Sequence[int]) -> Plot:
    """The observed share of high photos over the mean probability: a point for each bin, larger for more photos."""

    def paint(axes: Any) -> None:
        area = 12 + 120 * np.array(counts, dtype=float) / max(counts)
        axes.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.2, label="perfect")
        axes.plot(p_high, observed, "-", color=COLOURS[0], linewidth=1)
        axes.scatter(p_high, observed, s=area, color=COLOURS[0], zorder=3, label="this net")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("mean P(high) in the bin")
        axes.set_ylabel("share of high photos")
        axes.legend(loc="upper left")

    return draw(paint)
