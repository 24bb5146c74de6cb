"""Figures of classes, numbers, survival and localisation, drawn from their parts of `metrics.json`."""

from __future__ import annotations

import textwrap

from atlas_path.report.plots import BLUE, GREEN, GREY, ORANGE, Plot, canvas, light_grid, unit_square
from atlas_path.report.schema_other import (
    ClassesResult,
    FrocResult,
    RegressionResult,
    SurvivalResult,
)

DARK_CELL = 0.55


def confusion_plot(result: ClassesResult, name: str) -> Plot:
    """Confusion matrix: counts, shaded by the share of the true class."""
    k = len(result.classes)
    side = 1.6 + 0.55 * k
    with canvas(side + 1.2, side) as c:
        axes = c.axes()
        totals = [max(1, sum(row)) for row in result.confusion]
        shares = [[cell / total for cell in row] for row, total in zip(result.confusion, totals, strict=True)]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i in range(k):
            for j in range(k):
                colour = "white" if shares[i][j] > DARK_CELL else "black"
                text = f"{result.confusion[i][j]}\n{shares[i][j] * 100:.0f} %"
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
        short = [textwrap.shorten(cls, 14, placeholder="..") for cls in result.classes]
        axes.set_xticks(range(k), short, rotation=35 if max(map(len, short)) > 4 else 0, ha="right")
        axes.set_yticks(range(k), short)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.tick_params(length=0)
        return c.plot(name, f"Confusion matrix of {k} classes, {result.n} cases")


def scatter_plot(result: RegressionResult, name: str) -> Plot:
    """Observed against predicted values."""
    x, y = [p for p, _ in result.points], [o for _, o in result.points]
    with canvas(4.2, 4.0) as c:
        axes = c.axes()
        low, high = min(*x, *y), max(*x, *y)
        axes.plot([low, high], [low, high], color=GREY, lw=0.9, ls="--", label="perfect")
        axes.plot(x, y, ls="none", marker="o", ms=3.5, color=BLUE, alpha=0.6, mec="none", label="cases")
        axes.set(xlabel="predicted value", ylabel="observed value")
        light_grid(axes)
        axes.legend(loc="upper left")
        return c.plot(name, f"Observed against predicted values of {result.n} cases")


def kaplan_meier_plot(result: SurvivalResult, name: str) -> Plot:
    """Event-free share over time, for thirds of predicted risk."""
    with canvas(6.6, 3.8) as c:
        axes = c.axes()
        looks = ((BLUE, "-"), (GREEN, "--"), (ORANGE, "-."))
        for group, (colour, line) in zip(result.groups, looks, strict=False):
            label = f"{group.label} (n={group.n})"
            axes.step(group.time, group.survival, where="post", color=colour, ls=line, lw=1.6, label=label)
            axes.fill_between(group.time, group.low, group.high, step="post", color=colour, alpha=0.13, lw=0)
        axes.set(ylim=(-0.02, 1.02), xlabel=f"time ({result.time_unit})", ylabel="share without an event")
        axes.set_xlim(left=0)
        light_grid(axes)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=3)
        return c.plot(name, "Kaplan-Meier curves of cases with low, middle and high predicted risk")


def horizons_plot(result: SurvivalResult, name: str) -> Plot | None:
    """AUC at each horizon with its interval."""
    shown = [h for h in result.horizons if h.auc.value is not None]
    if len(shown) < 2:
        return None
    with canvas(4.6, 3.2) as c:
        axes = c.axes()
        axes.axhline(0.5, color=GREY, lw=0.9, ls="--")
        for h in shown:
            if h.auc.low is not None and h.auc.high is not None:
                axes.plot([h.time, h.time], [h.auc.low, h.auc.high], color=BLUE, lw=1.2)
        axes.plot([h.time for h in shown], [h.auc.value for h in shown], color=BLUE, marker="o", ms=5, lw=1.2)
        axes.set(xlabel=f"time ({result.time_unit})", ylabel="AUC at that time", ylim=(0.2, 1.02))
        light_grid(axes)
        return c.plot(name, "Time-dependent AUC with intervals")


def risk_reliability_plot(result: SurvivalResult, name: str) -> Plot | None:
    """Observed risk (1 - Kaplan-Meier) against predicted risk, one panel a horizon."""
    shown = [h for h in result.horizons if h.bins]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    with canvas(0.3 + 2.4 * columns, 0.3 + 2.5 * rows) as c:
        for k, horizon in enumerate(shown):
            axes = c.axes(rows, columns, k + 1)
            left, bottom = k % columns == 0, k + columns >= len(shown)
            unit_square(axes, "predicted risk" if bottom else "", "observed risk" if left else "")
            axes.plot([0, 1], [0, 1], color=GREY, lw=0.9, ls="--")
            for b in horizon.bins:
                found = b.observed
                if found.value is None:
                    continue
                if found.low is not None and found.high is not None:
                    axes.plot([b.predicted, b.predicted], [found.low, found.high], color=BLUE, lw=1.2)
                axes.plot(b.predicted, found.value, marker="o", color=BLUE, ms=4.5)
            axes.set_title(f"by {horizon.time:g} {result.time_unit}")
        return c.plot(name, f"Reliability of the predicted risk at {len(shown)} times")


def froc_plot(found: FrocResult, name: str) -> Plot:
    """Lesions found against false positives an image, with the six rates of CAMELYON16."""
    with canvas(5.0, 3.5) as c:
        axes = c.axes()
        axes.plot(found.false_positives, found.sensitivity, color=BLUE, lw=1.8)
        rates = [float(rate) for rate in found.at]
        label = "rates of the CAMELYON16 score"
        axes.plot(
            rates,
            list(found.at.values()),
            ls="none",
            marker="o",
            color=ORANGE,
            ms=6,
            label=label,
            clip_on=False,
            zorder=3,
        )
        axes.set(xlim=(0, 8.3), ylim=(-0.01, 1.01))
        axes.set(xlabel="false positives an image (mean)", ylabel="lesions found")
        light_grid(axes)
        axes.legend(loc="lower right")
        axes.set_title("FROC")
        return c.plot(name, f"Free-response ROC: {found.n_lesions} lesions in {found.n_images} images")
