"""Figures of a yes/no outcome, drawn from its part of `metrics.json`."""

from __future__ import annotations

import math

from atlas_path.report.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    Plot,
    canvas,
    light_grid,
    unit_square,
)
from atlas_path.report.schema_binary import BinaryResult, CalibrationResult, DecisionPoint, SubgroupTable

MARKERS = "osD^v"
LEAST_SHOWN = 0.3  # intervals of tiny groups may run out of the forest plot to the left


def curves_plot(result: BinaryResult, name: str) -> Plot:
    """ROC and precision-recall curves side by side, with the frozen operating points."""
    sensitivity = [p.sensitivity for p in result.roc]
    with canvas(7.4, 3.6) as c:
        roc, pr = c.axes(1, 2, 1), c.axes(1, 2, 2)
        unit_square(roc, "1 - specificity (negatives called positive)", "sensitivity (positives found)")
        roc.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--", label="chance")
        roc.plot(
            [1 - p.specificity for p in result.roc], sensitivity, color=BLUE, lw=1.8, drawstyle="default"
        )
        unit_square(pr, "recall (sensitivity)", "precision (PPV)")
        share = result.n_positive / result.n
        pr.axhline(share, color=GREY, lw=0.8, ls="--", label=f"prevalence {share:.2f}")
        pr.plot(
            sensitivity[1:], [p.precision for p in result.roc][1:], color=BLUE, lw=1.8, drawstyle="steps-pre"
        )
        for point, marker in zip(result.operating_points, MARKERS * 9, strict=False):
            se, sp, ppv = point.sensitivity.value, point.specificity.value, point.ppv.value
            if se is None or sp is None:
                continue
            style = {"color": ORANGE, "marker": marker, "ms": 7, "ls": "none", "mec": "white"}
            roc.plot(1 - sp, se, label=f"'{point.name}' at {point.threshold:.3f}", **style)
            if ppv is not None:
                pr.plot(se, ppv, **style)
        roc.legend(loc="lower right")
        pr.legend(loc="lower left")
        roc.set_title("ROC curve")
        pr.set_title("Precision and recall")
        return c.plot(name, f"ROC and precision-recall curves for {result.outcome}, {result.n} cases")


def histogram_plot(result: BinaryResult, name: str) -> Plot | None:
    """Predicted probabilities of positives above the axis and of negatives below."""
    found = result.calibration
    if found is None:
        return None
    edges = found.histogram_edges
    width = edges[1] - edges[0]
    with canvas(7.4, 2.5) as c:
        axes = c.axes()
        middles = [edge + width / 2 for edge in edges[:-1]]
        axes.bar(middles, found.histogram_positive, width * 0.92, color=ORANGE, label=f"{result.outcome}")
        axes.bar(
            middles, [-n for n in found.histogram_negative], width * 0.92, color=SKY, hatch="////",
            edgecolor="white", linewidth=0, label=result.other,
        )  # fmt: skip
        axes.axhline(0, color=BLACK, lw=0.8)
        for row, point in enumerate(sorted(result.operating_points, key=lambda p: p.threshold)):
            axes.axvline(point.threshold, color=BLACK, lw=0.9, ls=":")
            axes.annotate(
                point.name, (point.threshold, 1.0 - 0.09 * row), xycoords=("data", "axes fraction"),
                fontsize=8, ha="left", va="top", xytext=(3, 0), textcoords="offset points",
            )  # fmt: skip
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        axes.set(xlim=(0, 1), xlabel="predicted probability", ylabel="cases")
        light_grid(axes, "y")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return c.plot(name, f"Predicted probabilities of cases with and without {result.outcome}")


def reliability_plot(found: CalibrationResult, outcome: str, name: str) -> Plot:
    """Observed share against predicted probability, with the distribution of predictions below."""
    with canvas(4.2, 4.6) as c:
        grid = c.figure.add_gridspec(2, 1, height_ratios=(4.4, 1))
        axes, strip = c.figure.add_subplot(grid[0]), c.figure.add_subplot(grid[1])
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.9, ls="--", label="perfect")
        bins = [b for b in found.bins if b.observed.value is not None]
        x = [b.predicted for b in bins]
        y = [b.observed.value or 0.0 for b in bins]
        low = [
            v - (b.observed.low if b.observed.low is not None else v) for v, b in zip(y, bins, strict=True)
        ]
        high = [
            (b.observed.high if b.observed.high is not None else v) - v for v, b in zip(y, bins, strict=True)
        ]
        axes.errorbar(
            x, y, yerr=[[max(0.0, v) for v in low], [max(0.0, v) for v in high]], fmt="o", color=BLUE, ms=5,
            lw=1.1, capsize=2.5, label="bins of equal size, 95 %",
        )  # fmt: skip
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), ylabel=f"observed share of {outcome}")
        light_grid(axes)
        axes.legend(loc="upper left")
        axes.set_title("Reliability")
        edges = found.histogram_edges
        counts = [a + b for a, b in zip(found.histogram_positive, found.histogram_negative, strict=True)]
        strip.bar(edges[:-1], counts, edges[1] - edges[0], align="edge", color=SKY, edgecolor="white", lw=0.4)
        strip.set(xlim=(-0.01, 1.01), xlabel="predicted probability", ylabel="cases")
        return c.plot(name, f"Reliability plot of {outcome}: {found.probabilities}")


def decision_plot(points: list[DecisionPoint], outcome: str, prevalence: float, name: str) -> Plot:
    """Net benefit of the model, of treating all and of treating none."""
    x = [p.threshold for p in points]
    with canvas(5.0, 3.6) as c:
        axes = c.axes()
        if all(p.low is not None and p.high is not None for p in points):
            low, high = [p.low or 0.0 for p in points], [p.high or 0.0 for p in points]
            axes.fill_between(x, low, high, color=BLUE, alpha=0.15, lw=0, label="95 % interval")
        axes.plot(x, [p.model for p in points], color=BLUE, lw=1.8, label="act on the model")
        axes.plot(x, [p.treat_all for p in points], color=ORANGE, lw=1.3, ls="--", label="act on all")
        axes.axhline(0, color=BLACK, lw=1.0, label="act on none")
        top = max(max(p.model for p in points), prevalence, 0.05)
        axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.08 * top))
        axes.set(xlabel="threshold probability", ylabel="net benefit per case")
        light_grid(axes)
        axes.legend(loc="upper right")
        axes.set_title("Decision curve")
        return c.plot(name, f"Decision curve for {outcome} against acting on all and on none")


def forest_plot(result: BinaryResult, tables: list[SubgroupTable], name: str) -> Plot | None:
    """AUROC of every subgroup that may be shown, with the overall value as a line."""
    lines: list[tuple[str, float | None, float | None, float | None]] = []
    for table in tables:
        shown = [r for r in table.rows if r.auroc is not None and r.auroc.value is not None]
        if not shown:
            continue
        lines.append((table.column, None, None, None))
        lines += [
            (f"{r.value}  (n={r.n}, {r.n_positive} pos.)", r.auroc.value, r.auroc.low, r.auroc.high)
            for r in shown
            if r.auroc is not None
        ]
    if not lines or result.auroc.value is None:
        return None
    with canvas(7.4, 0.6 + 0.26 * (len(lines) + 1)) as c:
        axes = c.axes()
        axes.axvline(result.auroc.value, color=GREY, lw=1.0, ls="--")
        if result.auroc.low is not None and result.auroc.high is not None:
            axes.axvspan(result.auroc.low, result.auroc.high, color=GREY, alpha=0.12, lw=0)
        least = 0.5
        for row, (_, value, low, high) in enumerate(lines):
            if value is None:
                continue
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color=BLUE, lw=1.3)
                least = min(least, low)
            axes.plot(value, row, marker="s", color=BLUE, ms=5)
        axes.set_yticks(range(len(lines)), [text for text, *_ in lines])
        for tick, (_, value, _, _) in zip(axes.get_yticklabels(), lines, strict=True):
            tick.set_fontweight("bold" if value is None else "normal")
        axes.tick_params(axis="y", length=0)
        left = max(LEAST_SHOWN, math.floor(least * 10) / 10)
        axes.set(ylim=(len(lines) - 0.4, -0.6), xlim=(left, 1.005), xlabel="AUROC")
        light_grid(axes, "x")
        return c.plot(name, f"AUROC of {result.outcome} by subgroup; dashed: all cases")


def recalibrated_plot(result: BinaryResult, name: str) -> Plot | None:
    """Reliability before and after recalibration on the tuning split."""
    if result.calibration is None or not result.recalibration:
        return None
    with canvas(4.2, 3.8) as c:
        axes = c.axes()
        unit_square(axes, "predicted probability", f"observed share of {result.outcome}")
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.9, ls="--")
        shown = [("as scored", result.calibration)] + [(r.method, r.result) for r in result.recalibration]
        for (label, found), colour, marker in zip(shown, (BLUE, GREEN, ORANGE, BLACK), MARKERS, strict=False):
            bins = [b for b in found.bins if b.observed.value is not None]
            axes.plot(
                [b.predicted for b in bins], [b.observed.value for b in bins], color=colour, marker=marker,
                ms=4, lw=1.1, label=label,
            )  # fmt: skip
        axes.legend(loc="upper left")
        axes.set_title("Before and after recalibration")
        return c.plot(name, f"Reliability of {result.outcome} before and after recalibration on tuning cases")
