"""How often 95 % intervals hold the truth, in simulated studies whose patients have several rows.

    python benchmarks/coverage.py --studies 2000 --out benchmarks/results/coverage.json

Scores are normal with a patient effect; the truth is known in closed form (AUROC, sensitivity) or by design
(calibration). The naive interval, which takes rows as independent, is shown beside ours.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy import stats

from atlas_path.stats import calibration, delong, intervals
from atlas_path.stats.discrimination import auroc_estimate

DESIGNS = (
    # patients, rows a patient, correlation of a patient's rows, AUROC, share of positive patients
    (100, 1, 0.0, 0.85, 0.30),
    (60, 4, 0.5, 0.80, 0.30),
    (100, 3, 0.6, 0.90, 0.20),
    (40, 3, 0.5, 0.85, 0.40),
    (200, 2, 0.5, 0.95, 0.15),
    (150, 4, 0.8, 0.75, 0.50),
)
SPECIFICITY_AT_CUT = 0.8
CALIBRATION_EVERY = 4  # its bootstrap is the slow part, so it is judged on a quarter of the studies


def one_design(design: tuple[int, int, float, float, float], studies: int, seed: int) -> dict[str, float]:
    """Coverage of every interval in one design."""
    n_patients, rows, correlation, auroc, share = design
    random = np.random.default_rng(seed)
    gap = float(np.sqrt(2) * stats.norm.ppf(auroc))
    cut = float(stats.norm.ppf(SPECIFICITY_AT_CUT))
    sensitivity = float(stats.norm.sf(cut - gap))
    patient = np.repeat(np.arange(n_patients), rows)
    inside = dict.fromkeys(
        ("auroc", "auroc_naive", "sensitivity", "sensitivity_naive", "slope", "intercept"), 0
    )
    done = 0
    while done < studies:
        positive = random.random(n_patients) < share
        if positive.sum() < 3 or (~positive).sum() < 3:
            continue
        done += 1
        label = np.repeat(positive, rows)
        noise = np.sqrt(correlation) * np.repeat(random.normal(size=n_patients), rows)
        noise += np.sqrt(1 - correlation) * random.normal(size=patient.size)
        score = gap * label + noise
        found = auroc_estimate(label, score, patient, n_resamples=400, seed=done)
        inside["auroc"] += found.low <= auroc <= found.high
        placed = delong.placements(label, score)
        if 0 < found.value < 1:
            variance = float(delong.covariance(placed)[0, 0])
            low, high, _ = delong.interval(found.value, variance, int(label.sum()), int((~label).sum()))
            inside["auroc_naive"] += low <= auroc <= high
        rate = intervals.proportion(score[label] >= cut, patient[label])
        inside["sensitivity"] += rate.low <= sensitivity <= rate.high
        low, high = intervals.wilson(float((score[label] >= cut).sum()), float(label.sum()))
        inside["sensitivity_naive"] += low <= sensitivity <= high
        if done % CALIBRATION_EVERY:
            continue
        prob = 1 / (1 + np.exp(-1.2 * random.normal(size=patient.size)))
        event = random.random(patient.size) < prob
        calibrated = calibration.calibrate_estimates(event, prob, patient, n_resamples=200, seed=done)
        inside["slope"] += calibrated.slope.low <= 1 <= calibrated.slope.high
        inside["intercept"] += calibrated.intercept.low <= 0 <= calibrated.intercept.high
    calibrated_studies = studies // CALIBRATION_EVERY
    return {
        name: count / (calibrated_studies if name in ("slope", "intercept") else studies)
        for name, count in inside.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results, started = [], time.monotonic()
    print("patients rows corr AUROC share | AUROC naive | sens. naive | slope intercept")
    for k, design in enumerate(DESIGNS):
        found = one_design(design, arguments.studies, arguments.seed + k)
        names = ("patients", "rows", "correlation", "auroc", "share")
        results.append({**dict(zip(names, design, strict=True)), "coverage": found})
        print("{:8d} {:4d} {:4.1f} {:5.2f} {:5.2f} |".format(*design), end="")
        print(
            " {auroc:.3f} {auroc_naive:.3f} | {sensitivity:.3f} {sensitivity_naive:.3f} |".format(**found),
            end="",
        )
        print(" {slope:.3f} {intercept:.3f}".format(**found), flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(time.monotonic() - started, 1)
        record = {"studies": arguments.studies, "seed": arguments.seed, "seconds": seconds}
        arguments.out.write_text(json.dumps({**record, "designs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
