"""The flow diagram: how many images, cases and patients there were, and what left on the way."""

from __future__ import annotations

import textwrap
from typing import Any

from atlas_path.report.plots import BLACK, GREY, Plot, canvas
from atlas_path.report.schema import FlowStep

BOX_LEFT, BOX_WIDTH, SIDE_LEFT, SIDE_WIDTH = 0.02, 0.46, 0.56, 0.42
LINE_IN = 0.17


def flow_plot(steps: list[FlowStep], name: str = "flow") -> Plot | None:
    """Boxes from top to bottom, exclusions to the right."""
    if not steps:
        return None
    mains = [_main_lines(step) for step in steps]
    sides = [_side_lines(step) for step in steps]
    heights = [LINE_IN * len(main) + 0.2 for main in mains]
    gaps = [max(0.45, LINE_IN * len(side) + 0.4) if side else 0.4 for side in sides[:-1]]
    total = sum(heights) + sum(gaps) + 0.1
    with canvas(7.0, total) as c:
        axes = c.axes()
        axes.set(xlim=(0, 1), ylim=(total, 0))
        axes.axis("off")
        top = 0.05
        for k, (main, height) in enumerate(zip(mains, heights, strict=True)):
            _box(axes, BOX_LEFT, top, BOX_WIDTH, height, main, bold_first=True)
            if k < len(gaps):
                middle, bottom = BOX_LEFT + BOX_WIDTH / 2, top + height
                axes.annotate(
                    "",
                    (middle, bottom + gaps[k]),
                    (middle, bottom),
                    arrowprops={"arrowstyle": "-|>", "color": BLACK},
                )
                if sides[k]:
                    side_height = LINE_IN * len(sides[k]) + 0.2
                    centre = bottom + gaps[k] / 2
                    axes.annotate(
                        "",
                        (SIDE_LEFT, centre),
                        (middle, centre),
                        arrowprops={"arrowstyle": "-|>", "color": GREY},
                    )
                    _box(axes, SIDE_LEFT, centre - side_height / 2, SIDE_WIDTH, side_height, sides[k], False)
                top = bottom + gaps[k]
        return c.plot(name, "Flow of images, cases and patients: " + "; ".join(" ".join(m) for m in mains))


def _box(
    axes: Any, left: float, top: float, width: float, height: float, lines: list[str], bold_first: bool
) -> None:
    from matplotlib.patches import Rectangle

    colour = "#f3f7fb" if bold_first else "#ffffff"
    axes.add_patch(Rectangle((left, top), width, height, facecolor=colour, edgecolor="#444444", lw=0.9))
    for row, text in enumerate(lines):
        weight = "bold" if bold_first and row == 0 else "normal"
        axes.text(
            left + 0.012,
            top + 0.1 + LINE_IN * (row + 0.5),
            text,
            va="center",
            fontsize=8.5,
            fontweight=weight,
        )


def _main_lines(step: FlowStep) -> list[str]:
    counts = [
        f"{count:,} {unit if count != 1 else unit[:-1]}"
        for count, unit in ((step.images, "images"), (step.cases, "cases"), (step.patients, "patients"))
        if count is not None
    ]
    return [*textwrap.wrap(step.label, 46), ", ".join(counts)] if counts else textwrap.wrap(step.label, 46)


def _side_lines(step: FlowStep) -> list[str]:
    lines: list[str] = []
    for reason, count in sorted(step.excluded.items(), key=lambda item: -item[1]):
        unit = step.excluded_unit if count != 1 else step.excluded_unit[:-1]
        wrapped = textwrap.wrap(f"{count:,} {unit}: {reason}", 46)
        lines += [wrapped[0], *("   " + more for more in wrapped[1:])]
    return lines
