"""The report: one self-contained HTML page drawn from `Metrics`, and every plot as SVG and PNG beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atlas_path.report import html, words
from atlas_path.report.flow import flow_plot
from atlas_path.report.gallery import gallery_html
from atlas_path.report.html import esc, number, paragraph
from atlas_path.report.plots import Plot
from atlas_path.report.schema import Metrics
from atlas_path.report.sections_binary import Section, binary_sections
from atlas_path.report.sections_other import other_sections

NOTICE = (
    "Not a medical device. Not for diagnosis, triage or treatment. The numbers hold only for the "
    "population, scanners "
    "and operating points stated here. A qualified reader must decide."
)
ANSWERS = {"here": "answered here", "partly": "partly here", "you": "only you can"}


def render(metrics: Metrics, folder: Path) -> tuple[str, list[Plot]]:
    """The page and its plots. `folder` is the report folder, where gallery pictures already lie."""
    plots: list[Plot] = []
    sections: list[Section] = [("Who was studied", _studied(metrics, plots))]
    for outcome in metrics.binary:
        sections += binary_sections(outcome, len(metrics.binary) > 1, plots)
    sections += other_sections(metrics, plots)
    if any(gallery.items for gallery in metrics.galleries):
        sections.append(("The worst errors", "".join(gallery_html(g, folder) for g in metrics.galleries)))
    sections.append(("What this software cannot answer", _limits(metrics)))
    sections.append(("TRIPOD+AI checklist", _checklist(metrics)))
    sections.append(("Where these numbers come from", _provenance(metrics)))
    contents = "".join(
        f'<li><a href="#s{k}">{esc(title)}</a></li>' for k, (title, _) in enumerate(sections, 1)
    )
    body = _top(metrics) + f'<nav aria-label="contents"><ol>{contents}</ol></nav>'
    body += "".join(
        f'<section><h2 id="s{k}">{k}. {esc(title)}</h2>{content}</section>'
        for k, (title, content) in enumerate(sections, 1)
    )
    return html.page(metrics.title, body), plots


def write(metrics: Metrics, folder: Path, commit: Callable[[Path, str], None]) -> None:
    """Write `report.html`, `metrics.json`, `metrics.schema.json` and `plots/*.svg|png` into `folder`."""
    import json

    document, plots = render(metrics, folder)
    for plot in plots:
        plot.save(folder / "plots")
    commit(folder / "metrics.schema.json", json.dumps(Metrics.model_json_schema(), indent=1) + "\n")
    commit(folder / "report.html", document)
    commit(folder / "metrics.json", metrics.model_dump_json(indent=1) + "\n")


def _top(metrics: Metrics) -> str:
    model = metrics.provenance.model_sha256
    meta = [
        f"Task: {metrics.task} ({metrics.kind})",
        "all cases" if metrics.split == "all" else f"split '{metrics.split}'",
        f"model {model[:12]}" if model else "model not named",
        f"made {metrics.provenance.created_utc[:10]} with atlas-path {metrics.provenance.atlas_path_version}",
    ]
    parts = [
        f'<p class="notice" role="note">{esc(metrics.notice)} {esc(NOTICE)}</p>',
        f"<h1>{esc(metrics.title)}</h1>",
        f'<p class="meta">{esc(" · ".join(meta))}</p>',
        paragraph(f"Intended use, as stated by the model's makers: {metrics.intended_use}"),
        _cards(metrics),
    ]
    parts += [
        paragraph(f"{fault.what[:1].upper()}{fault.what[1:]} ({fault.n}): {fault.done}.", "warn")
        for fault in metrics.faults
        if fault.code
        in (
            "patient_in_two_splits",
            "training_case",
            "prob_outside",
            "duplicate_conflict",
            "tuning_evaluated",
        )
    ]
    parts += [
        paragraph(words.small_study(found), "warn") for found in metrics.binary if words.is_small(found)
    ]
    parts += [paragraph(words.REVERSED, "warn") for found in metrics.binary if words.is_reversed(found)]
    for outcome in metrics.binary:
        parts += [
            paragraph(s.warning[:1].upper() + s.warning[1:] + ".", "warn")
            for s in outcome.shortcuts
            if s.warning
        ]
        parts += [
            paragraph(words.hash_sentence(p), "warn")
            for p in outcome.operating_points
            if p.hash_matches is False
        ]
    return "".join(parts)


def _cards(metrics: Metrics) -> str:
    """The three or four numbers to remember."""
    shown: list[tuple[str, str, str]] = []
    for outcome in metrics.binary[:3]:
        who = f" ({outcome.outcome})" if len(metrics.binary) > 1 else ""
        shown.append((f"AUROC{who}", *_value_and_interval(number(outcome.auroc))))
        if len(metrics.binary) == 1:
            for point in outcome.operating_points[:1]:
                shown.append(
                    ("sensitivity", *_value_and_interval(number(point.sensitivity, 2, percent=True)))
                )
                shown.append(
                    ("specificity", *_value_and_interval(number(point.specificity, 2, percent=True)))
                )
            if outcome.calibration is not None:
                text = number(outcome.calibration.observed_expected)
                shown.append(("observed / expected", *_value_and_interval(text)))
    if not metrics.binary:
        shown.append((metrics.primary.name, *_value_and_interval(number(metrics.primary.number))))
    cards = "".join(
        f'<div class="card"><span>{esc(name)}</span><b>{esc(value)}</b><span>{esc(interval)}</span></div>'
        for name, value, interval in shown
    )
    return f'<div class="cards">{cards}</div>'


def _value_and_interval(text: str) -> tuple[str, str]:
    value, _, rest = text.partition(" (")
    return (
        (value, "95 % interval " + rest.rstrip(")"))
        if rest and rest != "no interval)"
        else (value, "no interval")
    )


def _studied(metrics: Metrics, plots: list[Plot]) -> str:
    body = []
    for outcome in metrics.binary:
        share = number(outcome.prevalence, 2, percent=True)
        body.append(
            paragraph(
                f"{outcome.n} cases of {outcome.n_patients} patients were evaluated for '{outcome.outcome}': "
                f"{outcome.n_positive} have it, {outcome.n_negative} do not (prevalence {share})."
            )
        )
    plot = flow_plot(metrics.flow)
    if plot is not None:
        plots.append(plot)
        body.append(
            html.figure(plot, "From what was given to what was evaluated; to the right what left, and why.")
        )
    if metrics.characteristics:
        rows = [
            (column, ", ".join(f"{value}: {count}" for value, count in values.items()))
            for column, values in metrics.characteristics.items()
        ]
        body.append(html.table(("column", "cases by value"), rows, "Characteristics of the evaluated cases"))
    if metrics.faults:
        faults = [(f.what, str(f.n), f.done, ", ".join(f.examples)) for f in metrics.faults]
        header = ("found in the input", "n", "what was done", "for example")
        body.append(html.table(header, faults, "Faults of the input", (1,)))
    else:
        body.append(paragraph("No fault was found in the input tables."))
    return "".join(body)


def _limits(metrics: Metrics) -> str:
    return "<ul>" + "".join(f"<li>{esc(text)}</li>" for text in metrics.limits) + "</ul>"


def _checklist(metrics: Metrics) -> str:
    rows = [(c.item, c.section, c.asks, ANSWERS[c.answered], c.where) for c in metrics.checklist]
    text = (
        "TRIPOD+AI (BMJ 2024;385:e078378) lists what a paper on a prediction model must say. Items in "
        "short words; "
        "read the statement itself before submitting."
    )
    return paragraph(text) + html.table(("item", "section", "asks for", "answered", "where or why not"), rows)


def _provenance(metrics: Metrics) -> str:
    found = metrics.provenance
    rows = [
        ("made (UTC)", found.created_utc),
        ("atlas-path", found.atlas_path_version),
        ("evaluation code, SHA-256", found.code),
        ("model, SHA-256", found.model_sha256 or "not given"),
        ("random seed, resamples", f"{found.seed}, {found.n_resamples}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
        ("options", ", ".join(f"{k} = {v}" for k, v in found.options.items()) or "defaults"),
        *((f"input {name}, SHA-256", digest) for name, digest in found.inputs.items()),
    ]
    body = "".join(
        f'<tr><th scope="row">{esc(name)}</th><td><code>{esc(value)}</code></td></tr>' for name, value in rows
    )
    methods = sorted(set(_methods(metrics)))
    listed = "".join(f"<li>{esc(method)}</li>" for method in methods)
    return (
        f"<table><tbody>{body}</tbody></table><h3>How intervals were computed</h3><ul>{listed}</ul>"
        + paragraph(
            "All numbers of this page, with n, method and notes, are in metrics.json beside it.", "small"
        )
    )


def _methods(metrics: Metrics) -> list[str]:
    names: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            method = value.get("method")
            if isinstance(method, str) and "low" in value and value.get("low") is not None:
                names.append(method)
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(metrics.model_dump())
    return [name for name in names if name]
