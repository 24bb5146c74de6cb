"""The page's sections on classes and grades, numbers, survival, localisation and two models."""

from __future__ import annotations

from atlas_path.report.html import figure, number, p_value, paragraph, table
from atlas_path.report.plots import Plot
from atlas_path.report.plots_other import (
    confusion_plot,
    froc_plot,
    horizons_plot,
    kaplan_meier_plot,
    risk_reliability_plot,
    scatter_plot,
)
from atlas_path.report.schema import Metrics
from atlas_path.report.schema_other import (
    ClassesResult,
    ComparisonResult,
    LocalisationResult,
    RegressionResult,
    SurvivalResult,
)
from atlas_path.report.sections_binary import Section


def other_sections(metrics: Metrics, plots: list[Plot]) -> list[Section]:
    """The sections this report has, in reading order; drawn plots are appended to `plots`."""
    sections: list[Section] = []
    if metrics.classes is not None:
        title = "Agreement of grades" if metrics.classes.ordered else "Classes"
        sections.append((title, _classes(metrics.classes, plots)))
    if metrics.regression is not None:
        sections.append(("Predicted and observed values", _regression(metrics.regression, plots)))
    if metrics.survival is not None:
        sections.append(("Time to event", _survival(metrics.survival, plots)))
    sections += [
        ("Does the map point at the lesions?", _localisation(found, k, plots))
        for k, found in enumerate(metrics.localisation)
    ]
    sections += [(f"Two models: {found.outcome}", _comparison(found)) for found in metrics.comparisons]
    return sections


def _classes(found: ClassesResult, plots: list[Plot]) -> str:
    plot = confusion_plot(found, "confusion")
    plots.append(plot)
    if found.ordered:
        text = (
            f"Quadratic kappa is {number(found.kappa)} (95 % interval): agreement beyond chance, in which a "
            "miss by two grades counts four times a miss by one. 1 is perfect, 0 is chance."
        )
    else:
        text = (
            f"The mean one-against-rest AUROC is {number(found.macro_auroc)}; "
            f"{number(found.accuracy, 2, True)} of "
            f"cases get the right class (balanced over the classes: "
            f"{number(found.balanced_accuracy, 2, True)})."
        )
    rows = [
        ("accuracy", number(found.accuracy, 2, True), str(found.n)),
        ("balanced accuracy", number(found.balanced_accuracy, 2, True), str(found.n)),
        (f"kappa ({'quadratic' if found.ordered else 'unweighted'})", number(found.kappa), str(found.n)),
        ("macro AUROC", number(found.macro_auroc), str(found.n)),
    ]
    each = [(name, str(found.counts[name]), number(auroc)) for name, auroc in found.class_auroc.items()]
    return "".join(
        (
            paragraph(f"{found.n} cases of {found.n_patients} patients. {text}"),
            figure(
                plot,
                "Rows are the true class, columns the predicted one; shade and percentages are shares "
                "of the row.",
            ),
            table(("measure", "value (95 % interval)", "n"), rows, numeric=(1, 2)),
            table(("class", "cases", "AUROC against the rest"), each, numeric=(1, 2)),
        )
    )


def _regression(found: RegressionResult, plots: list[Plot]) -> str:
    plot = scatter_plot(found, "scatter")
    plots.append(plot)
    rows = [
        (name, number(value), meaning)
        for name, value, meaning in (
            ("mean absolute error", found.mean_absolute_error, "typical size of an error"),
            ("root mean square error", found.root_mean_square_error, "large errors count more"),
            ("bias", found.bias, "predicted minus observed, on average; 0 is ideal"),
            ("R2", found.r2, "1 is perfect, 0 is as good as predicting the mean"),
            ("Pearson correlation", found.pearson, "linear agreement"),
            ("Spearman correlation", found.spearman, "agreement of the order"),
            ("calibration slope", found.slope, "observed on predicted; 1 is ideal"),
        )
    ]
    return "".join(
        (
            paragraph(f"{found.n} cases of {found.n_patients} patients."),
            figure(plot, "One point a case. On the dashed line prediction and observation agree."),
            table(("measure", "value (95 % interval)", "meaning"), rows, numeric=(1,)),
        )
    )


def _survival(found: SurvivalResult, plots: list[Plot]) -> str:
    unit = found.time_unit
    follow = "" if found.median_follow_up is None else f", median follow-up {found.median_follow_up:g} {unit}"
    body = [
        paragraph(
            f"{found.n} cases of {found.n_patients} patients, {found.n_events} events{follow}. Of two "
            f"cases whose order "
            f"is known, the one with the earlier event has the higher predicted risk in "
            f"{number(found.uno_c)} of pairs "
            f"(Uno's C, corrected for censoring, events before {found.tau:g} {unit}); Harrell's C, not "
            f"corrected, is "
            f"{number(found.harrell_c)}. 0.5 is guessing."
        )
    ]
    curves = kaplan_meier_plot(found, "kaplan_meier")
    plots.append(curves)
    body.append(
        figure(
            curves,
            "Cases in thirds of predicted risk. The wider the curves part, the better the model separates.",
        )
    )
    over_time = horizons_plot(found, "auc_over_time")
    if over_time is not None:
        plots.append(over_time)
        body.append(
            figure(
                over_time,
                "How well risk at each time separates who had the event by then from who was still free "
                "of it.",
            )
        )
    rows = [
        (
            f"{h.time:g}", str(h.n_events), str(h.n_at_risk), str(h.n_censored_before), number(h.auc),
            "" if h.predicted_risk is None else f"{h.predicted_risk * 100:.1f} %",
            number(h.observed_risk, 3, True), "" if h.brier is None else number(h.brier, 3),
        )
        for h in found.horizons
    ]  # fmt: skip
    header = (
        f"by ({unit})",
        "events",
        "still free",
        "censored",
        "AUC",
        "mean predicted risk",
        "observed risk",
        "Brier",
    )
    body.append(
        table(header, rows, "Risk at fixed times, with inverse-censoring weights", (1, 2, 3, 4, 5, 6, 7))
    )
    if found.integrated_brier is not None:
        body.append(
            paragraph(f"Integrated Brier score over these times: {number(found.integrated_brier, 3)}.")
        )
    panels = risk_reliability_plot(found, "risk_reliability")
    if panels is not None:
        plots.append(panels)
        words = (
            "Groups of equal size by predicted risk; on the dashed line predicted and observed risk agree."
        )
        body.append(figure(panels, words))
    return "".join(body)


def _localisation(found: LocalisationResult, k: int, plots: list[Plot]) -> str:
    chance = f"{found.pointing_chance * 100:.1f} %"
    body = [
        paragraph(
            f"The highest point of the map lies on a lesion (or within {found.tolerance_um:g} um of one) in "
            f"{number(found.pointing, 2, True)} of the {found.pointing.n} images with lesions; a blind "
            f"guess inside the evaluated area would reach {chance} (one-sided "
            f"{p_value(found.pointing_p)}). Map: {found.map}."
        )
    ]
    if found.froc is not None:
        froc = found.froc
        plot = froc_plot(froc, "froc" if k == 0 else f"froc_{k}")
        plots.append(plot)
        body.append(
            figure(
                plot,
                f"Share of the {froc.n_lesions} lesions found at each number of false positives an "
                f"image, over all "
                f"{froc.n_images} images. The CAMELYON16 score, the mean of the orange marks, is "
                f"{number(froc.score)}. "
                f"{froc.n_ignored} lesions below 275 um are ignored, as that challenge does.",
            )
        )
        header = ("false positives an image", *(f"{float(rate):g}" for rate in froc.at))
        found_share = ("lesions found", *(f"{value * 100:.0f} %" for value in froc.at.values()))
        body.append(table(header, [found_share], numeric=range(1, len(header))))
    if found.sizes:
        sizes = [(s.label, str(s.n), number(s.hit, 2, True)) for s in found.sizes]
        body.append(
            table(
                ("major axis", "lesions", "found"), sizes, "By size, at one false positive an image", (1, 2)
            )
        )
    body += [paragraph(note, "small") for note in found.notes]
    body.append(paragraph("A map shows what moved this model's output, not the extent of a lesion.", "small"))
    return "".join(body)


def _comparison(found: ComparisonResult) -> str:
    lead = (
        f"On {found.n} cases of {found.n_patients} patients that both models scored, the AUROC of "
        f"{found.first} minus "
        f"that of {found.second} is {number(found.difference)} ({p_value(found.p)}, {found.test})."
    )
    covers = found.difference.low is not None and found.difference.high is not None
    if covers and (found.difference.low or 0) <= 0 <= (found.difference.high or 0):
        lead += " The interval includes 0: these cases do not show that one ranks better than the other."
    rows = [
        (found.first, number(found.auroc_first).replace(" (no interval)", ""), ""),
        (found.second, number(found.auroc_second).replace(" (no interval)", ""), ""),
        ("difference", number(found.difference), found.difference.method),
        ("difference", number(found.bootstrap_difference), found.bootstrap_difference.method),
    ]
    body = paragraph(lead) + table(("model", "AUROC", "interval"), rows, numeric=(1,))
    if found.mcnemar:
        tests = [
            (m.point, m.among, f"{m.first_threshold:.3f} / {m.second_threshold:.3f}", str(m.only_first_right),
             str(m.only_second_right), p_value(m.p))
            for m in found.mcnemar
        ]  # fmt: skip
        header = ("point", "among", "thresholds", "only first right", "only second right", "exact McNemar")
        body += table(header, tests, "Where only one of the two is right at its frozen threshold", (3, 4))
        body += "".join(
            paragraph(note, "small") for note in dict.fromkeys(m.note for m in found.mcnemar) if note
        )
    return body + paragraph(
        "Choosing the better of two models on these cases makes it look better here.", "small"
    )
