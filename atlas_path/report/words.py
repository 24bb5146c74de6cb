"""What the numbers say, in sentences a reader without statistics can use."""

from __future__ import annotations

from atlas_path.report.html import number, p_value
from atlas_path.report.schema_base import Number
from atlas_path.report.schema_binary import BinaryResult, CalibrationResult, OperatingPoint, SubgroupTable

WIDE_AUROC = 0.2
SMALL_STUDY_PATIENTS = 30
UNJUDGED = "too few patients to judge it"
SMALL_STUDY_CLASS = 10


def is_small(result: BinaryResult) -> bool:
    """Whether a study is too small for its point estimates to be quoted alone."""
    least = min(result.n_positive, result.n_negative)
    return result.n_patients < SMALL_STUDY_PATIENTS or least < SMALL_STUDY_CLASS


def small_study(result: BinaryResult) -> str:
    """The warning of a small study."""
    return (
        f"A small study: {result.n_patients} patients, {result.n_positive} cases with and "
        f"{result.n_negative} without "
        f"'{result.outcome}'. Read the intervals, not the point estimates."
    )


REVERSED = (
    "The whole interval lies below 0.5: the model ranks the wrong way round. Check that the positive "
    "class and the "
    "labels mean the same."
)


def is_reversed(result: BinaryResult) -> bool:
    """Whether the model ranks significantly the wrong way round, most often a mix-up of classes."""
    return result.auroc.high is not None and result.auroc.high < 0.5


def ranking_sentence(result: BinaryResult) -> str:
    """The AUROC in words."""
    found = result.auroc
    if found.value is None:
        return f"The AUROC could not be computed: {found.note}."
    text = (
        f"Of all pairs of one case with '{result.outcome}' and one without, the model gives the higher "
        f"probability to the right one in {found.value * 100:.0f} % (AUROC {number(found)}, 95 % "
        f"interval; 50 % is "
        f"guessing). {result.auroc_why}"
    )
    if found.low is not None and found.high is not None and found.high - found.low > WIDE_AUROC:
        text += " The interval is wide: this study alone does not settle how good the model is."
    if found.low is not None and found.high is not None and found.low <= 0.5 <= found.high:
        text += " The interval includes 0.5: these data do not show that the model ranks better than chance."
    if is_reversed(result):
        text += f" {REVERSED}"
    return text + (f" Note: {found.note}." if found.note else "")


def precision_sentence(result: BinaryResult) -> str:
    """Average precision against its chance level."""
    found = result.average_precision
    if found.value is None:
        return ""
    share = result.n_positive / result.n
    return (
        f"Average precision is {number(found)}; a model that guesses would reach the share of "
        f"positives, {share:.2f}. "
        "Unlike the AUROC it depends on how common the condition is, so compare it only at equal prevalence."
    )


def point_sentence(point: OperatingPoint, n_positive: int, n_negative: int) -> str:
    """What happens at an operating point, in counts."""
    c = point.confusion
    text = (
        f"At a probability of {point.threshold:.3f} or more a case is called positive. The model finds "
        f"{c.true_positive} of {n_positive} positive cases and calls {c.false_positive} of {n_negative} "
        f"negative "
        f"cases positive by mistake."
    )
    promised = point.tuning
    if promised.get("sensitivity") is not None and promised.get("specificity") is not None:
        text += (
            f" On the tuning split the same threshold had sensitivity "
            f"{promised['sensitivity'] * 100:.0f} % and "
            f"specificity {promised['specificity'] * 100:.0f} %."
        )
    return text


def hash_sentence(point: OperatingPoint) -> str:
    """Whether the point is as it was frozen."""
    if point.sha256 is None:
        return "No hash was stored with this threshold."
    if point.hash_matches:
        return f"Its hash {point.sha256[:12]} matches: it was not changed after it was frozen."
    return f"Its hash {point.sha256[:12]} does NOT match its content: it was changed after it was frozen."


def calibration_sentences(found: CalibrationResult) -> list[str]:
    """What intercept, slope and O/E mean here."""
    said = []
    ratio, slope = found.observed_expected, found.slope
    if ratio.value is not None:
        if not _has_interval(ratio):
            verdict = UNJUDGED
        elif _covers(ratio, 1):
            verdict = "as many positives as predicted, within the uncertainty"
        elif ratio.value > 1:
            verdict = "more positives than predicted: risks are underestimated on average"
        else:
            verdict = "fewer positives than predicted: risks are overestimated on average"
        said.append(f"Observed over expected is {number(ratio)}: {verdict}.")
    if slope.value is not None:
        if not _has_interval(slope):
            verdict = UNJUDGED
        elif _covers(slope, 1) and _covers(slope, 0):
            verdict = "these cases cannot tell whether predictions are too extreme, or useless"
        elif _covers(slope, 1):
            verdict = "no sign that predictions are too extreme or too timid"
        elif slope.value < 1:
            verdict = (
                "predictions are too extreme: high ones too high, low ones too low, as after overfitting"
            )
        else:
            verdict = "predictions are too timid: high ones too low, low ones too high"
        said.append(f"The calibration slope is {number(slope)}: {verdict}.")
    if found.brier.value is not None:
        text = f"The Brier score is {number(found.brier, 3)} (0 is perfect)"
        if found.brier_skill.value is not None:
            gain = found.brier_skill.value * 100
            text += (
                f", {abs(gain):.0f} % {'better' if gain >= 0 else 'WORSE'} than always predicting the "
                f"prevalence"
            )
        said.append(text + ".")
    return said


def decision_sentence(result: BinaryResult) -> str:
    """Where on the decision curve acting on the model is best."""
    useful = [p.threshold for p in result.decision if p.model > max(p.treat_all, 0) + 1e-12]
    lead = (
        "Net benefit counts found positives minus false alarms, each false alarm charged at the odds of "
        "the threshold "
        "probability: the risk at which one would just act. "
    )
    if not useful:
        return lead + "At no threshold does acting on the model beat both acting on everyone and on no one."
    spans: list[list[float]] = []
    for value in useful:
        if spans and value - spans[-1][1] < 0.011:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    text = ", ".join(f"{a:.2f} to {b:.2f}" if b > a else f"{a:.2f}" for a, b in spans)
    return lead + (
        f"Acting on the model is better than acting on everyone and on no one for thresholds {text}. "
        f"Which threshold "
        "is right is a clinical decision, not a statistical one."
    )


def heterogeneity_sentence(table: SubgroupTable) -> str:
    """The test over the groups of one column."""
    if table.heterogeneity_p is None:
        return f"{table.column}: {table.heterogeneity_note}."
    verdict = (
        "the AUROC differs between groups by more than chance would explain"
        if table.heterogeneity_p < 0.05
        else "no difference between groups beyond chance was seen, which in small groups does not show "
        "that there is none"
    )
    note = f" ({table.heterogeneity_note})" if table.heterogeneity_note else ""
    return (
        f"{table.column}: {verdict} (Cochran's Q {table.heterogeneity_q:.1f}, {table.heterogeneity_df} df, "
        f"{p_value(table.heterogeneity_p)}){note}."
    )


def _has_interval(found: Number) -> bool:
    return found.low is not None and found.high is not None


def _covers(found: Number, value: float) -> bool:
    return found.low is None or found.high is None or found.low <= value <= found.high
