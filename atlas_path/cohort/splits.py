"""Splits by patient: given ones are checked, missing ones made; a leak is an error that names patients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from atlas_path.cohort.table import Case, Cohort, cohort_faults
from atlas_path.cohort.targets import Targets
from atlas_path.config.schema import SplitConfig
from atlas_path.errors import CohortError


def assign_splits(cohort: Cohort, config: SplitConfig, targets: Targets, seed: int = 0) -> Cohort:
    """Give every case a split (train, tune, test) and, with `config.folds`, a fold.

    Given splits are kept; what is missing is made from what is given: a table with train and test only gets
    its tuning cases out of train. Divisions keep `config.group_by` together (patients always), are
    stratified by label, and depend on `seed` alone.

    Raises:
        CohortError: a patient in two splits or folds, a `group_by` column that does not exist, or a split
            that would be empty.
    """
    check_leaks(cohort)
    cases = list(cohort.cases)
    if config.test_sites:
        cases = _leave_sites_out(cohort, config.test_sites)
    given = {case.split for case in cases if case.split}
    unassigned = [case for case in cases if case.split is None]
    if given - {"test"} and unassigned:
        raise CohortError(
            cohort.source,
            f"{len(unassigned)} cases have no split while others have one (first: {unassigned[0].case_id})",
            "fill the column or remove it",
        )
    groups = _groups(cohort, cases, config.group_by)
    if not given and config.test > 0:
        parts = _divide(cases, groups, targets, [1 - config.test, config.test], seed)
        cases = [replace(c, split="test" if parts[groups[c.case_id]] else "train") for c in cases]
    cases = [replace(c, split=c.split or "train") for c in cases]
    rest = [c for c in cases if c.split != "test"]
    if config.folds:
        cases = _with_folds(cohort, cases, rest, groups, targets, config.folds, seed)
    elif "tune" not in given and config.tune > 0:
        parts = _divide(rest, groups, targets, [1 - config.tune, config.tune], seed + 1)
        cases = [
            replace(c, split="tune") if c.split == "train" and parts[groups[c.case_id]] else c for c in cases
        ]
    divided = cohort.with_cases(cases)
    check_leaks(divided)
    if not divided.of_split("train"):
        raise CohortError(cohort.source, "no case is left for training", "check split.* and the split column")
    return divided


def fold_view(cohort: Cohort, fold: int) -> Cohort:
    """The cohort of one fold's model: the fold is the tuning split, the other folds are train."""
    return cohort.with_cases(
        case if case.split == "test" else replace(case, split="tune" if case.fold == fold else "train")
        for case in cohort.cases
    )


def check_leaks(cohort: Cohort) -> None:
    """Raise `CohortError` naming patients, and files, that are in more than one split or fold."""
    faults = []
    for what in ("split", "fold"):
        places: dict[str, set[str]] = defaultdict(set)
        for case in cohort.cases:
            if getattr(case, what) is not None:
                places[case.patient_id].add(str(getattr(case, what)))
        faults += [
            f"patient {patient} is in {what}s {', '.join(sorted(found))}"
            for patient, found in sorted(places.items())
            if len(found) > 1
        ]
    files: dict[str, set[str]] = defaultdict(set)
    for case in cohort.cases:
        for image in case.images:
            if image.path and case.split:
                files[str(cohort.file(image))].add(case.split)
    faults += [
        f"file {name} is in splits {', '.join(sorted(f))}" for name, f in sorted(files.items()) if len(f) > 1
    ]
    if faults:
        raise cohort_faults(cohort.source, faults, "leak: all cases of a patient belong into one split")


def split_table(cohort: Cohort, targets: Targets) -> list[dict[str, str | int]]:
    """One row a split: patients, cases, images, unlabelled cases and cases per stratum."""
    table: list[dict[str, str | int]] = []
    for split in ("train", "tune", "test"):
        cases = cohort.of_split(split)
        strata: dict[str, int] = defaultdict(int)
        for case in cases:
            strata[targets.stratum(case.case_id)] += 1
        unlabelled = strata.pop("", 0)
        table.append(
            {
                "split": split,
                "patients": len({c.patient_id for c in cases}),
                "cases": len(cases),
                "images": sum(len(c.images) for c in cases),
                "unlabelled": unlabelled,
                "labels": ", ".join(f"{_named(k, targets)}: {n}" for k, n in sorted(strata.items())),
            }
        )
    return table


def _named(stratum: str, targets: Targets) -> str:
    simple = targets.kind in ("binary", "multiclass", "ordinal")
    return targets.classes[int(stratum)] if simple else stratum


def _leave_sites_out(cohort: Cohort, sites: Sequence[str]) -> list[Case]:
    present = {case.site for case in cohort.cases}
    unknown = [site for site in sites if site not in present]
    if unknown:
        known = ", ".join(sorted(s for s in present if s))
        raise CohortError(
            cohort.source, f"no case of site {', '.join(unknown)}", f"the sites are: {known or 'none'}"
        )
    cases = []
    for case in cohort.cases:
        if case.site in sites:
            cases.append(replace(case, split="test"))
        else:
            cases.append(replace(case, split=None if case.split == "test" else case.split))
    if all(case.split in (None, "test") for case in cases):
        return [replace(case, split=case.split or "train") for case in cases]
    return cases


def _groups(cohort: Cohort, cases: Sequence[Case], column: str) -> dict[str, str]:
    """case_id -> group; patients that share a value of `column` are one group, transitively."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for case in cases:
        patient = root(f"patient {case.patient_id}")
        if column != "patient_id":
            values = {image.attributes.get(column) for image in case.images} - {None}
            if not values:
                raise CohortError(
                    cohort.source, f"case {case.case_id} has no '{column}'", "check split.group_by"
                )
            for value in values:
                parent[root(f"{column} {value}")] = patient
                patient = root(patient)
    return {case.case_id: root(f"patient {case.patient_id}") for case in cases}


def _divide(
    cases: Sequence[Case], groups: Mapping[str, str], targets: Targets, shares: Sequence[float], seed: int
) -> dict[str, int]:
    """group -> part. Groups are dealt to the part that lacks most cases of their stratum, largest first."""
    members: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        members[groups[case.case_id]].append(case)
    strata: dict[str, list[str]] = defaultdict(list)
    for group, own in members.items():
        strata[max((targets.stratum(c.case_id) for c in own), default="")].append(group)
    rng = np.random.default_rng([seed, 0x51])
    parts: dict[str, int] = {}
    overall = np.zeros(len(shares))
    for stratum in sorted(strata):
        names = sorted(strata[stratum])
        order = [names[i] for i in rng.permutation(len(names))]
        order.sort(key=lambda g: -len(members[g]))
        total = sum(len(members[g]) for g in order)
        have = np.zeros(len(shares))
        for group in order:
            lack = np.asarray(shares) * total - have
            part = int(np.lexsort((overall, -lack.round(9)))[0])
            parts[group] = part
            have[part] += len(members[group])
            overall[part] += len(members[group])
        _fill_empty(order, parts, len(shares))
    return parts


def _fill_empty(order: Sequence[str], parts: dict[str, int], n_parts: int) -> None:
    """A stratum with enough groups is present in every part."""
    if len(order) < n_parts:
        return
    for part in range(n_parts):
        counts = np.bincount([parts[g] for g in order], minlength=n_parts)
        if counts[part] == 0:
            donor = int(counts.argmax())
            parts[[g for g in order if parts[g] == donor][-1]] = part


def _with_folds(
    cohort: Cohort,
    cases: Sequence[Case],
    rest: Sequence[Case],
    groups: Mapping[str, str],
    targets: Targets,
    n_folds: int,
    seed: int,
) -> list[Case]:
    given = sorted({c.fold for c in rest if c.fold is not None})
    if given:
        if any(c.fold is None for c in rest) or given != list(range(len(given))) or len(given) != n_folds:
            raise CohortError(
                cohort.source, f"the fold column has {given}", f"folds are 0..{n_folds - 1} for every case"
            )
        return [replace(c, split="train") if c.split != "test" else c for c in cases]
    n_groups = len({groups[c.case_id] for c in rest})
    if n_groups < n_folds:
        raise CohortError(
            cohort.source, f"{n_groups} groups cannot fill {n_folds} folds", "lower split.folds"
        )
    parts = _divide(rest, groups, targets, [1 / n_folds] * n_folds, seed + 1)
    return [
        c if c.split == "test" else replace(c, split="train", fold=parts[groups[c.case_id]]) for c in cases
    ]
