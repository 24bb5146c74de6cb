"""From tables to the cases that are evaluated: matching and splits; every exclusion named and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atlas_path.cohort.table import SPLIT_ALIASES
from atlas_path.errors import CohortError, UsageError
from atlas_path.report.schema import Fault
from pipelines.evaluate_inputs import CohortTable, Predictions
from pipelines.evaluate_options import EvaluateOptions

if TYPE_CHECKING:
    import pandas as pd

N_EXAMPLES = 5
SEVERAL = "(several)"


@dataclass
class Ledger:
    """What was wrong, what was done, and what left the study on the way."""

    faults: list[Fault] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)

    def add(self, code: str, what: str, done: str, cases: Iterable[str], exclude: str = "") -> None:
        """Record a fault of these cases; `exclude` names the reason under which the flow counts them."""
        names = [str(case) for case in cases]
        if not names:
            return
        self.faults.append(
            Fault(code=code, what=what, done=done, n=len(names), examples=sorted(names)[:N_EXAMPLES])
        )
        if exclude:
            self.excluded[exclude] += len(names)


def nothing_left(label_column: str, ledger: Ledger) -> str:
    """Why no case can be evaluated, from the faults met on the way."""
    met = "; ".join(f"{fault.what} ({fault.n})" for fault in ledger.faults)
    return f"no case has both a label ('{label_column}') and a prediction" + (f": {met}" if met else "")


@dataclass(frozen=True)
class CaseTable:
    """Matched cases. `evaluated` and `tuning` share columns; `all_cases` is the cohort before exclusions."""

    evaluated: pd.DataFrame
    tuning: pd.DataFrame
    all_cases: pd.DataFrame
    in_split: pd.DataFrame
    split: str
    ledger: Ledger
    has_images: bool


def match(predictions: Predictions, cohort: CohortTable | None, options: EvaluateOptions) -> CaseTable:
    """Join predictions with the cohort and pick the split.

    Raises:
        CohortError: no case of the predictions is in the cohort, or the split has no case.
    """
    ledger = Ledger()
    predicted = _one_row_a_case(predictions.table, ledger)
    cases = _cases_of(cohort) if cohort is not None else predicted
    for table in (predicted, cases):
        if "split" in table.columns:
            table["split"] = [SPLIT_ALIASES.get(cell.lower(), cell.lower()) for cell in table["split"]]
    if cohort is None:
        joined, unscored = predicted, predicted.iloc[:0]
    else:
        joined, unscored = _join(predicted, cases, ledger)
    if "patient_id" not in joined.columns:
        ledger.add(
            "no_patient_ids",
            "no column patient_id",
            "each case counts as a patient of its own",
            joined["case_id"],
        )
        joined["patient_id"] = joined["case_id"]
    blank = joined["patient_id"] == ""
    ledger.add(
        "patient_id_missing",
        "patient_id is empty",
        "each such case counts as a patient",
        joined["case_id"][blank],
    )
    joined.loc[blank, "patient_id"] = joined["case_id"][blank]
    if "patient_id" not in cases.columns:
        cases = cases.assign(patient_id=cases["case_id"])
    split = _split_name(cases, options)
    in_split = cases if split == "all" else cases[cases["split"] == split]
    if in_split.empty:
        found = ", ".join(sorted(set(cases["split"]) - {""}))
        raise CohortError("the cohort", f"no case has split '{split}'", f"the splits are: {found}")
    missing = unscored if split == "all" else unscored[unscored["split"] == split]
    ledger.add(
        "not_scored", "in the cohort but not in the predictions", "excluded", missing["case_id"], "not scored"
    )
    chosen = joined if split == "all" else joined[joined["split"] == split]
    tuning = joined[joined["split"] == options.choose_on] if "split" in joined.columns else joined.iloc[:0]
    if split == "all" and len(tuning) and tuning["case_id"].nunique() < chosen["case_id"].nunique():
        what = "cases of the tuning split are among the evaluated ones"
        ledger.add(
            "tuning_evaluated", what, "kept: thresholds and calibration have seen them", tuning["case_id"]
        )
    evaluated = _without_failures(_without_training_cases(chosen, predictions, split, ledger), ledger)
    _patients_shared(evaluated, joined, split, ledger)
    return CaseTable(
        evaluated.reset_index(drop=True), _without_failures(tuning, Ledger()).reset_index(drop=True),
        cases, in_split, split, ledger, cohort is not None and cohort.images,
    )  # fmt: skip


def _one_row_a_case(table: pd.DataFrame, ledger: Ledger) -> pd.DataFrame:
    """Drop rows without an id, exact repeats, and every copy of a case whose rows disagree."""
    blank = table["case_id"] == ""
    ledger.add(
        "case_id_missing",
        "predictions without case_id",
        "ignored",
        [f"row {i + 2}" for i in table.index[blank]],
    )
    table = table[~blank]
    repeated = table["case_id"].duplicated()
    same = table.duplicated()
    ledger.add(
        "duplicate_same",
        "case occurs twice with equal rows",
        "counted once",
        table["case_id"][repeated & same].unique(),
    )
    table = table[~same]
    conflict = table["case_id"].duplicated(keep=False)
    names = table["case_id"][conflict].unique()
    ledger.add(
        "duplicate_conflict",
        "case occurs several times with different rows",
        "excluded: which row is right is unknown",
        names,
        "duplicate with conflict",
    )
    return table[~conflict].reset_index(drop=True)


def _cases_of(cohort: CohortTable) -> pd.DataFrame:
    """One row a case: a cell that differs between the images of a case becomes '(several)'."""
    table = cohort.table[cohort.table["case_id"] != ""]
    rows = []
    for case_id, images in table.groupby("case_id", sort=False):
        row = {"case_id": case_id, "n_rows": len(images)}
        for column in images.columns.drop("case_id"):
            values = [value for value in images[column].unique() if value != ""]
            row[column] = values[0] if len(values) == 1 else (SEVERAL if values else "")
        rows.append(row)
    import pandas as pd

    cases = pd.DataFrame(rows)
    for column in ("patient_id", "split"):
        if column in cases.columns:
            bad = cases["case_id"][cases[column] == SEVERAL]
            if len(bad):
                raise CohortError(
                    "the cohort",
                    f"{column} differs inside a case ({', '.join(bad[:N_EXAMPLES])})",
                    "correct the rows",
                )
    return cases


def _join(predicted: pd.DataFrame, cases: pd.DataFrame, ledger: Ledger) -> tuple[pd.DataFrame, pd.DataFrame]:
    known = predicted["case_id"].isin(cases["case_id"])
    if not known.any():
        raise CohortError(
            "the cohort",
            f"none of the {len(predicted)} predicted cases is there "
            f"(first predicted: {predicted['case_id'].iloc[0]!r}, first there: {cases['case_id'].iloc[0]!r})",
            "check that case_id means the same in both tables",
        )
    ledger.add("not_in_cohort", "predicted but not in the cohort", "ignored", predicted["case_id"][~known])
    ours = [c for c in predicted.columns if c == "case_id" or c not in cases.columns]
    joined = cases.merge(predicted[ours], on="case_id", how="inner", validate="one_to_one")
    for column in ("patient_id", "label", "time", "event"):
        if column in predicted.columns and column in cases.columns:
            theirs = predicted.set_index("case_id")[column].reindex(joined["case_id"]).to_numpy()
            differs = (joined[column].to_numpy() != theirs) & (theirs != "")
            if column == "patient_id":  # a scorer that was not told the patients takes each case for one
                differs &= theirs != joined["case_id"].to_numpy()
            what = f"{column} differs between predictions and cohort"
            ledger.add(f"{column}_differs", what, "the cohort's is used", joined["case_id"][differs])
    return joined, cases[~cases["case_id"].isin(predicted["case_id"])]


def _split_name(cases: pd.DataFrame, options: EvaluateOptions) -> str:
    if options.split is not None:
        wanted = SPLIT_ALIASES.get(options.split.lower(), options.split.lower())
        if wanted != "all" and "split" not in cases.columns:
            raise UsageError(
                f"--split {options.split}", "the cohort has no split column", "leave the option out"
            )
        return wanted
    return "test" if "split" in cases.columns and (cases["split"] == "test").any() else "all"


def _without_training_cases(
    chosen: pd.DataFrame, predictions: Predictions, split: str, ledger: Ledger
) -> pd.DataFrame:
    """A case the model was trained on cannot test it; asked for by name (`--split train`) it stays."""
    leaked = set(predictions.info.leaked_training_cases) if predictions.info else set()
    if split in ("train", "tune") or not leaked:
        return chosen
    seen = chosen["case_id"].isin(leaked)
    ledger.add(
        "training_case",
        "the model was trained on this case",
        "excluded",
        chosen["case_id"][seen],
        "was a training case",
    )
    return chosen[~seen]


def _without_failures(table: pd.DataFrame, ledger: Ledger) -> pd.DataFrame:
    """Rows the model gave no prediction for, by its own status."""
    if "status" not in table.columns:
        return table
    failed = ~table["status"].isin(["done", "ok", ""])
    reasons = table.get("reason", table["status"])
    for status in sorted(set(table["status"][failed])):
        for reason in sorted(set(reasons[table["status"] == status])):
            these = table["case_id"][(table["status"] == status) & (reasons == reason)]
            why = f"{status}: {reason}" if reason and reason != status else status
            ledger.add(f"status_{status}", f"no prediction ({why})", "excluded", these, why)
    return table[~failed]


def _patients_shared(evaluated: pd.DataFrame, joined: pd.DataFrame, split: str, ledger: Ledger) -> None:
    """A patient in the evaluated split and in another one is a leak; it is said, not hidden."""
    if split == "all" or "split" not in joined.columns:
        return
    others = set(joined["patient_id"][(joined["split"] != split) & (joined["split"] != "")])
    shared = sorted(set(evaluated["patient_id"]) & others)
    ledger.add(
        "patient_in_two_splits", "patient also in another split", "kept: results may be too good", shared
    )
