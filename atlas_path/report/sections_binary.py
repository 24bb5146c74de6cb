"""The page's sections on a yes/no outcome."""

from __future__ import annotations

from atlas_path.report import html, words
from atlas_path.report.html import number, p_value
from atlas_path.report.plots import Plot
from atlas_path.report.plots_binary import (
    curves_plot,
    decision_plot,
    forest_plot,
    histogram_plot,
    recalibrated_plot,
    reliability_plot,
)
from atlas_path.report.schema_binary import BinaryResult, CalibrationResult, OperatingPoint, Shortcut

Section = tuple[str, str]
"""Title and HTML body."""
WEAK_SIGN = 0.05


def binary_sections(result: BinaryResult, many: bool, plots: list[Plot]) -> list[Section]:
    """Sections of one outcome in reading order; drawn plots are appended to `plots`."""
    tag = f" of '{result.outcome}'" if many else ""
    stem = f"{_slug(result.outcome)}_" if many else ""
    found = [
        (f"Discrimination{tag}", _discrimination(result, stem, plots)),
        (
            f"At the operating point{'s' if len(result.operating_points) > 1 else ''}{tag}",
            _points(result, stem, plots),
        ),
    ]
    if result.calibration is not None:
        found.append((f"Calibration{tag}", _calibration(result, stem, plots)))
    if result.decision:
        plot = _keep(
            plots,
            decision_plot(result.decision, result.outcome, result.n_positive / result.n, f"{stem}decision"),
        )
        found.append((f"Decision curve{tag}", html.figure(plot, words.decision_sentence(result))))
    if result.subgroups or result.shortcuts:
        found.append((f"Subgroups{tag}", _subgroups(result, stem, plots)))
    if result.sample_size:
        found.append((f"How precise is this study?{tag}", _sample_size(result)))
    return found


def _discrimination(result: BinaryResult, stem: str, plots: list[Plot]) -> str:
    body = [html.paragraph(words.ranking_sentence(result))]
    if result.roc:
        plot = _keep(plots, curves_plot(result, f"{stem}curves"))
        body.append(
            html.figure(
                plot,
                "Left: sensitivity against false alarms at every possible threshold; orange marks are "
                "the frozen "
                f"operating points. Right: precision against recall. n = {result.n} cases of "
                f"{result.n_patients} "
                f"patients, {result.n_positive} positive.",
            )
        )
        body.append(html.paragraph(words.precision_sentence(result)))
        rows = [
            (f"{rate.fixed} {rate.target * 100:.0f} "
             f"%", "specificity" if rate.fixed == "sensitivity" else "sensitivity",
             number(rate.reached, 2, percent=True), rate.reached.note)
            for rate in result.fixed_rates
        ]  # fmt: skip
        body.append(
            html.table(
                ("where the curve has", "it reaches", "value (95 % interval)", ""), rows,
                "Read off the curve of these cases (a description: no threshold was frozen here)", (2,),
            )
        )  # fmt: skip
    return "".join(body)


def _points(result: BinaryResult, stem: str, plots: list[Plot]) -> str:
    if not result.operating_points:
        return html.paragraph(
            "No threshold was fixed before these cases were seen, so no sensitivity or specificity is "
            "reported. Take "
            "the operating points of a model file, fix one with --threshold, or choose one on a tuning "
            "split.", "warn"
        )  # fmt: skip
    body = []
    plot = histogram_plot(result, f"{stem}histogram")
    if plot is not None:
        plots.append(plot)
        body.append(
            html.figure(
                plot,
                "Each bar counts cases by predicted probability: cases with the condition upwards, "
                "without it "
                "downwards. Dotted lines are the frozen thresholds; bars on the wrong side of a line "
                "are errors.",
            )
        )
    first_at: dict[float, str] = {}
    for point in result.operating_points:
        if point.threshold in first_at:
            text = (
                f"'{point.name}' has the same threshold as '{first_at[point.threshold]}', and so the "
                f"same results."
            )
            body.append(html.paragraph(f"{text} {words.hash_sentence(point)}", "small"))
        else:
            first_at[point.threshold] = point.name
            body.append(_point(point, result))
    return "".join(body)


def _point(point: OperatingPoint, result: BinaryResult) -> str:
    c = point.confusion
    confusion = (
        '<table class="confusion"><thead><tr><td></td><th scope="col">called positive</th>'
        '<th scope="col">called negative</th></tr></thead><tbody>'
        f'<tr><th scope="row">{html.esc(result.outcome)}</th><td class=n>{c.true_positive}</td><td '
        f"class=n>{c.false_negative}</td></tr>"
        f'<tr><th scope="row">{html.esc(result.other)}</th><td class=n>{c.false_positive}</td><td '
        f"class=n>{c.true_negative}</td></tr>"
        "</tbody></table>"
    )
    rows = [
        (name, number(found, 2, percent=True), str(found.n), meaning)
        for name, found, meaning in (
            ("Sensitivity", point.sensitivity, "of cases with the condition, called positive"),
            ("Specificity", point.specificity, "of cases without it, called negative"),
            ("PPV", point.ppv, "of cases called positive, have it (at this study's prevalence)"),
            ("NPV", point.npv, "of cases called negative, do not have it (at this study's prevalence)"),
            ("Recall rate", point.recall_rate, "of all cases, called positive"),
            ("Accuracy", point.accuracy, "of all cases, called right"),
            ("Balanced accuracy", point.balanced_accuracy, "mean of sensitivity and specificity"),
        )
    ]
    adjusted = [
        (
            f"{found.prevalence * 100:g} %",
            number(found.ppv, 3, percent=True),
            number(found.npv, 3, percent=True),
        )
        for found in point.adjusted
    ]
    parts = [
        f"<h3>'{html.esc(point.name)}': threshold {point.threshold:.3f}</h3>",
        html.paragraph(words.point_sentence(point, result.n_positive, result.n_negative)),
        confusion,
        html.table(("rate", "value (95 % interval)", "n", "meaning"), rows, numeric=(1, 2)),
    ]
    if adjusted:
        parts.append(
            html.table(
                ("prevalence", "PPV", "NPV"),
                adjusted,
                "Predictive values at other prevalences (Bayes' rule)",
                (1, 2),
            )
        )
    parts.append(html.paragraph(f"Threshold {point.origin}. {words.hash_sentence(point)}", "small"))
    return "".join(parts)


def _calibration(result: BinaryResult, stem: str, plots: list[Plot]) -> str:
    found = result.calibration
    if found is None:
        return ""
    plot = _keep(plots, reliability_plot(found, result.outcome, f"{stem}reliability"))
    body = [html.paragraph(f"Do the probabilities mean what they say? Probabilities: {found.probabilities}.")]
    body += [html.paragraph(text) for text in words.calibration_sentences(found)]
    body.append(
        html.figure(
            plot,
            f"Cases sorted by predicted probability and cut into {len(found.bins)} groups of equal "
            f"size. Points on the "
            "dashed line: of cases given 30 %, 30 % have the condition. Below: how often each "
            "probability was given.",
        )
    )
    rows = [("as scored", *_calibration_cells(found))]
    rows += [
        (f"{r.method}, fitted on {r.n_fit} {r.fitted_on} cases", *_calibration_cells(r.result))
        for r in result.recalibration
    ]
    body.append(
        html.table(
            ("probabilities", "intercept (0)", "slope (1)", "O/E (1)", "Brier", "ECE"), rows,
            "Calibration measures with 95 % intervals; in brackets the ideal value", (1, 2, 3, 4, 5),
        )
    )  # fmt: skip
    if result.recalibration:
        before_after = recalibrated_plot(result, f"{stem}recalibrated")
        if before_after is not None:
            plots.append(before_after)
        body.append(
            html.figure(
                before_after,
                "Recalibration was fitted on the tuning split only and applied here unchanged. If it "
                "helps, the "
                "probabilities of the model should be recalibrated before use; the ranking does not change.",
            )
        )
    return "".join(body)


def _calibration_cells(found: CalibrationResult) -> tuple[str, ...]:
    return (
        number(found.intercept), number(found.slope), number(found.observed_expected), number(found.brier, 3),
        number(found.ece, 3),
    )  # fmt: skip


def _subgroups(result: BinaryResult, stem: str, plots: list[Plot]) -> str:
    body = []
    plot = forest_plot(result, result.subgroups, f"{stem}forest")
    if plot is not None:
        plots.append(plot)
        body.append(
            html.figure(
                plot,
                "Squares are AUROCs with 95 % intervals; dashed line and band: all cases. An interval "
                "away from the "
                "band deserves a look; with many groups some lie apart by chance.",
            )
        )
    for found in result.subgroups:
        rows = [
            (
                r.value, str(r.n), str(r.n_positive),
                "not shown" if r.auroc is None else number(r.auroc),
                "" if r.sensitivity is None else number(r.sensitivity, 2, percent=True),
                "" if r.specificity is None else number(r.specificity, 2, percent=True),
                "" if r.observed_expected is None else number(r.observed_expected),
                r.suppressed,
            )
            for r in found.rows
        ]  # fmt: skip
        header = (found.column, "n", "positive", "AUROC", "sensitivity", "specificity", "O/E", "remark")
        body.append(html.table(header, rows, "", (1, 2, 3, 4, 5, 6)))
        body.append(html.paragraph(words.heterogeneity_sentence(found), "small"))
    if result.shortcuts:
        columns = [
            (
                s.column,
                number(s.auroc).replace(" (no interval)", ""),
                p_value(s.p),
                s.warning or "no sign of it",
            )
            for s in result.shortcuts
        ]
        body.append("<h3>Can the label be told without looking at the image?</h3>")
        body.append(
            html.paragraph(
                "If site or scanner alone tells the label, a model can look good by recognising them. "
                "The AUROC here is "
                "that of the column's own prevalences; p compares it with shuffled columns."
            )
        )
        body.append(html.table(("column", "AUROC of the column", "test", "verdict"), columns, numeric=(1,)))
    return "".join(body)


def _verdict(found: Shortcut) -> str:
    if found.warning:
        return found.warning
    return "a weak sign: look at it" if found.p is not None and found.p < WEAK_SIGN else "no sign of it"


def _sample_size(result: BinaryResult) -> str:
    rows = [
        (
            s.quantity, f"{s.assumed:.2f}",
            "none" if s.half_width_reached is None else f"± {s.half_width_reached:.3f}",
            f"± {s.half_width_target:g}", f"{s.n_needed:,}", f"{s.n_here:,}", s.formula,
        )
        for s in result.sample_size
    ]  # fmt: skip
    text = (
        "Half-widths of the intervals reached here, and how many independent cases like these a target "
        "precision would "
        "take. Several cases a patient count for less, so more would be needed."
    )
    header = ("quantity", "assumed", "reached here", "target", "cases needed", "cases here", "formula")
    return html.paragraph(text) + html.table(header, rows, numeric=(1, 2, 3, 4, 5))


def _keep(plots: list[Plot], plot: Plot) -> Plot:
    plots.append(plot)
    return plot


def _slug(text: str) -> str:
    return "".join(ch if ch.isalnum() else "_" for ch in text.lower()).strip("_") or "outcome"
