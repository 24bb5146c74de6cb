"""The look of all plots: one style, colours that colour-blind readers can tell apart, SVG and PNG at once.

Colours: Okabe and Ito, Color Universal Design, 2008. Drawn without pyplot, so nothing global is touched.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, GREY, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#6b6b6b", "#56B4E9", "#1a1a1a"
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "atlas-path",
    "savefig.facecolor": "white",
}
PNG_DPI = 160


@dataclass(frozen=True)
class Plot:
    """One figure: a file name without suffix, what it shows in words, and its two encodings."""

    name: str
    alt: str
    svg: bytes
    png: bytes

    def save(self, folder: Path) -> None:
        """Write `<name>.svg` and `<name>.png`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.svg").write_bytes(self.svg)
        (folder / f"{self.name}.png").write_bytes(self.png)

    @property
    def data_uri(self) -> str:
        """The SVG as an inline image: nothing is fetched and its ids cannot clash with another figure's."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


class Canvas:
    """A figure being drawn; `plot()` encodes it."""

    def __init__(self, width_in: float, height_in: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width_in, height_in), layout="constrained")

    def axes(self, *arguments: Any, **keywords: Any) -> Any:
        return self.figure.add_subplot(*arguments, **keywords)

    def plot(self, name: str, alt: str) -> Plot:
        svg, png = io.BytesIO(), io.BytesIO()
        self.figure.savefig(svg, format="svg", metadata={"Date": None, "Title": alt})
        self.figure.set_layout_engine("none")  # both files keep the layout found for the first
        self.figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": "atlas-path"})
        return Plot(name, alt, svg.getvalue(), png.getvalue())


@contextmanager
def canvas(width_in: float, height_in: float) -> Iterator[Canvas]:
    """A canvas in the house style."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        yield Canvas(width_in, height_in)


def unit_square(axes: Any, x_label: str, y_label: str) -> None:
    """Axes from 0 to 1 with equal scales and a light grid."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x_label, ylabel=y_label, aspect="equal")
    light_grid(axes)


def light_grid(axes: Any, axis: str = "both") -> None:
    """A grid that does not compete with the data."""
    axes.grid(visible=True, axis=axis, color="#e3e3e3", linewidth=0.6)
    axes.set_axisbelow(True)
