"""A cohort made ready: read, divided, matched with its stores, and checked before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_path.cohort import Cohort, Targets, assign_splits, encode_targets, read_cohort, split_table
from atlas_path.cohort.checks import duplicate_pixels, shortcuts
from atlas_path.config import TrainConfig
from atlas_path.errors import CohortError
from atlas_path.progress import say
from pipelines.data_cases import FoundCases, find_cases
from pipelines.data_files import find_image_cases


@dataclass(frozen=True)
class Prepared:
    """A cohort ready to train on."""

    cohort: Cohort
    targets: Targets
    found: FoundCases
    warnings: list[str]

    def ids(self, split: str) -> list[str]:
        """Labelled cases of a split whose windows can be read."""
        return [
            c.case_id
            for c in self.cohort.of_split(split)
            if c.case_id in self.found.cases and self.targets.is_labelled(c.case_id)
        ]


def prepare(config: TrainConfig, quiet: bool = False) -> Prepared:
    """Read the cohort, divide it, find its windows, and check it for leaks, duplicates and shortcuts."""
    keep = config.task.label_columns
    cohort = read_cohort(config.cohort, keep, config.columns)
    cohort = assign_splits(cohort, config.split, encode_targets(cohort, config.task), config.runtime.seed)
    targets = encode_targets(cohort, config.task)
    if config.cohort.is_dir():
        found = find_image_cases(cohort, config.data, config.images)
    else:
        found = find_cases(cohort, config.data)
    splits = {case.case_id: case.split for case in cohort.cases}
    pixels = {
        image.image_id: (found.facts[image.image_id]["pixel_sha256"], case_id, str(splits[case_id]))
        for case_id, case in found.cases.items()
        for image in case.images
        if "pixel_sha256" in found.facts[image.image_id]
    }
    warnings = duplicate_pixels(cohort.source, pixels) + shortcuts(cohort, targets)
    prepared = Prepared(cohort, targets, found, warnings)
    if not prepared.ids("train"):
        raise CohortError(
            cohort.source, "no labelled training case has windows", "check labels and data.stores"
        )
    if not quiet:
        for row in split_table(cohort, targets):
            say(
                f"{row['split']}: {row['patients']} patients, {row['cases']} cases, {row['images']} images"
                + (f" ({row['labels']})" if row["labels"] else "")
                + (f", {row['unlabelled']} unlabelled" if row["unlabelled"] else "")
            )
        if targets.kind == "binary":
            say(f"positive class: {targets.classes[1]}")
        for warning in warnings:
            say(f"warning: {warning}")
    return prepared
