"""TRIPOD+AI: which item this report answers, which in part, and which only the authors can.

The items and their numbers are those of Collins et al., BMJ 2024;385:e078378; their content is put in our own
short words, so read the statement itself before submitting.
"""

from __future__ import annotations

from typing import Literal

from atlas_path.report.schema import ChecklistItem, Metrics

Answer = Literal["here", "partly", "you"]
ITEMS: tuple[tuple[str, str, str, Answer, str], ...] = (
    ("1", "Title", "says what was developed or evaluated, for whom and for which "
                   "outcome", "you", "the title of your paper"),
    ("2", "Abstract", "structured summary (TRIPOD+AI for "
                      "Abstracts)", "you", "the summary above can be a start"),
    ("3a", "Background", "health context, reason for the model, existing models", "you", ""),
    ("3b", "Background", "intended population, place in care, intended "
                         "users", "partly", "intended use, above"),
    ("3c", "Background", "known health inequalities", "you", ""),
    ("4", "Objectives", "aims; development, evaluation or "
                        "both", "partly", "this report evaluates a frozen model"),
    ("5a", "Data", "sources, why these, how representative", "you", ""),
    ("5b", "Data", "dates of data collection and follow-up", "you", "dates never enter the pipeline"),
    ("6a", "Participants", "setting and centres", "partly", "subgroups by site, where the cohort has them"),
    ("6b", "Participants", "eligibility criteria", "partly", "flow diagram: exclusions made by the software"),
    ("6c", "Participants", "treatments received", "you", ""),
    ("7", "Data "
          "preparation", "pre-processing and quality "
                         "checks", "partly", "manifest and run report of preprocess; faults, above"),
    ("8a", "Outcome", "definition, horizon, how and when "
                      "assessed", "you", "the label column is named in the provenance"),
    ("8b", "Outcome", "who assessed it and how qualified", "you", ""),
    ("8c", "Outcome", "blinding of the assessment", "you", ""),
    ("9a", "Predictors", "choice of "
                         "predictors", "here", "pixels of the images only; no clinical variable enters"),
    ("9b", "Predictors", "definition and measurement of "
                         "predictors", "partly", "resolution and normalisation in model.json"),
    ("9c", "Predictors", "subjective predictors: who interpreted them", "here", "none"),
    ("10", "Sample size", "how the size was arrived at", "partly", "precision reached and needed, above"),
    ("11", "Missing "
           "data", "how missing data were "
                   "handled", "here", "flow diagram and faults: excluded, counted, named"),
    ("12a", "Analysis", "how data were used and "
                        "partitioned", "here", "splits by patient; the evaluated split is named"),
    ("12b", "Analysis", "handling of predictors", "partly", "configuration of the run"),
    ("12c", "Analysis", "type of model and all building "
                        "steps", "partly", "config.yaml and model.json of the run"),
    ("12d", "Analysis", "heterogeneity between clusters", "here", "subgroups and Cochran's Q"),
    ("12e", "Analysis", "measures and plots of performance; comparison of models", "here", "all sections"),
    ("12f", "Analysis", "model updating, such as "
                        "recalibration", "here", "calibration: fitted on tuning cases only"),
    ("12g", "Analysis", "how predictions were calculated", "partly", "model hash and scores.json"),
    ("13", "Class "
           "imbalance", "methods used, and recalibration after "
                        "them", "partly", "config.yaml; calibration shows the effect"),
    ("14", "Fairness", "approach to fairness and its "
                       "rationale", "partly", "subgroup tables; the rationale is yours"),
    ("15", "Model "
           "output", "what the output is, thresholds and their "
                     "rationale", "here", "operating points, frozen with a hash"),
    ("16", "Training versus "
           "evaluation", "differences between both data "
                         "sets", "partly", "guard of score; describe the populations yourself"),
    ("17", "Ethics", "approval and consent", "you", ""),
    ("18a", "Open science", "funding", "you", ""),
    ("18b", "Open science", "conflicts of interest", "you", ""),
    ("18c", "Open science", "protocol", "you", ""),
    ("18d", "Open science", "registration", "you", ""),
    ("18e", "Open science", "availability of data", "you", "hashes of the inputs are in the provenance"),
    ("18f", "Open science", "availability of code", "partly", "version and hash of this software"),
    ("19", "Patient and public involvement", "how patients and the public took part", "you", ""),
    ("20a", "Results: "
            "participants", "flow, numbers with and without the outcome, follow-up", "here", "flow diagram"),
    ("20b", "Results: "
            "participants", "characteristics, overall and by "
                            "source", "partly", "characteristics: columns of the cohort table"),
    ("20c", "Results: participants", "comparison with the development data", "you", ""),
    ("21", "Results: "
           "development", "numbers and events in each analysis", "here", "n is given with every number"),
    ("22", "Results: "
           "specification", "the full model, so that others can use "
                            "it", "partly", "model.safetensors and model.json"),
    ("23a", "Results: "
            "performance", "estimates with intervals, also in key subgroups", "here", "all sections"),
    ("23b", "Results: performance", "heterogeneity between clusters", "here", "subgroups"),
    ("24", "Results: updating", "results of updating", "here", "calibration after recalibration"),
    ("25", "Interpretation", "main results, fairness, earlier studies", "you", ""),
    ("26", "Limitations", "non-representative samples, size, overfitting, missing "
                          "data", "partly", "limits, above"),
    ("27a", "Usability", "poor or unavailable input in use", "partly", "faults; the guard of score abstains"),
    ("27b", "Usability", "interaction and expertise needed from users", "you", ""),
    ("27c", "Usability", "next steps", "you", ""),
)  # fmt: skip


def checklist(metrics: Metrics) -> list[ChecklistItem]:
    """All items, with the answer lowered where this very report lacks the section it refers to."""
    outcomes = metrics.binary
    missing: dict[str, str] = {}
    if not any(o.subgroups for o in outcomes):
        missing |= dict.fromkeys(("6a", "12d", "14", "23b"), "the cohort table has no subgroup columns")
    if not any(o.operating_points for o in outcomes):
        missing["15"] = "no threshold was frozen"
    if not any(o.recalibration for o in outcomes):
        missing |= dict.fromkeys(("12f", "24"), "no tuning cases were at hand")
    if not any(o.sample_size for o in outcomes):
        missing["10"] = "no sample-size statement for this kind of task"
    if not metrics.characteristics:
        missing["20b"] = "the cohort table has no such columns"
    return [
        ChecklistItem(
            item=item, section=section, asks=asks,
            answered="you" if item in missing else answered, where=missing.get(item, where),
        )
        for item, section, asks, answered, where in ITEMS
    ]  # fmt: skip


LIMITS = (
    "Whether the labels are right: a wrong reference standard makes every number here wrong.",
    "Whether these patients resemble those the model would meet in use; numbers hold for the stated "
    "population, "
    "scanners and operating points only.",
    "Whether using the model helps patients: that takes a prospective study with people in the loop.",
    "Whether a map shows the extent of a lesion: it shows what moved this model's output.",
    "Whether the model would work on another scanner, stain or site that is not among the subgroups.",
    "What happened before the images reached the pipeline: selection, consent, missing patients.",
)
