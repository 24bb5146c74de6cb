"""Small HTML building blocks: everything is escaped, nothing is fetched, and it prints."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from atlas_path.report.plots import Plot
from atlas_path.report.schema_base import Number

CSS = """
:root{--ink:#1a1a1a;--soft:#555;--line:#d5d9de;--paper:#fff;--tint:#f3f7fb;--warn:#7a3b00;
--warnbg:#fff4e5}
*{box-sizing:border-box}
body{margin:0;background:#eef0f3;color:var(--ink);
font:15px/1.5 system-ui,"Segoe UI",Helvetica,Arial,sans-serif}
main{max-width:920px;margin:0 auto;background:var(--paper);padding:28px 44px 60px}
h1{font-size:1.7em;margin:.2em 0 .1em}
h2{font-size:1.25em;margin:2em 0 .5em;border-bottom:2px solid var(--ink);padding-bottom:3px}
h3{font-size:1.05em;margin:1.4em 0 .3em}p{margin:.5em 0}a{color:#005a96}
.notice{border:2px solid var(--warn);color:var(--warn);background:var(--warnbg);padding:8px 14px;
font-weight:600}
.warn{border-left:5px solid var(--warn);background:var(--warnbg);padding:6px 14px;margin:.6em 0}
.meta{color:var(--soft);font-size:.92em}.small{font-size:.88em;color:var(--soft)}
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:1em 0}
.card{flex:1 1 190px;border:1px solid var(--line);background:var(--tint);padding:10px 14px;
border-radius:4px}
.card b{display:block;font-size:1.5em;line-height:1.2}
.card span{display:block;font-size:.88em;color:var(--soft)}
table{border-collapse:collapse;margin:.7em 0;font-size:.92em;width:100%}
caption{text-align:left;font-weight:600;padding:4px 0}
th,td{border-bottom:1px solid var(--line);padding:4px 8px;text-align:left;vertical-align:top}
thead th{border-bottom:2px solid var(--ink)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td i{font-style:normal;white-space:nowrap}
td:first-child{white-space:nowrap}
table.confusion{width:auto}
table.confusion td,table.confusion th{border:1px solid var(--line);padding:6px 14px}
figure{margin:1em 0;break-inside:avoid}figure img{max-width:100%;height:auto;display:block}
figcaption{color:var(--ink);font-size:.93em;margin-top:4px}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(360px,1fr));gap:14px}
.gallery figure{border:1px solid var(--line);padding:8px;margin:0}
code{font:.86em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
nav ol{columns:2;margin:.4em 0;padding-left:1.4em}
@media print{body{background:#fff;font-size:10.5pt}main{max-width:none;padding:0}h2{break-after:avoid}
h3{break-after:avoid}tr,figure,.card,.warn{break-inside:avoid}a{color:inherit;text-decoration:none}
nav{display:none}
thead{display:table-header-group}.gallery{grid-template-columns:1fr 1fr}
figure img{max-height:150mm}@page{margin:16mm 14mm}}
@media (max-width:640px){main{padding:16px}nav ol{columns:1}}
"""


def esc(text: object) -> str:
    """Text made safe for HTML."""
    return html.escape(str(text), quote=True)


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; `kind` is a CSS class such as 'small' or 'warn'."""
    return f'<p class="{kind}">{esc(text)}</p>' if kind else f"<p>{esc(text)}</p>"


def figure(plot: Plot | None, words: str) -> str:
    """A plot with its explanation; nothing where there is no plot."""
    if plot is None:
        return ""
    image = f'<img src="{plot.data_uri}" alt="{esc(plot.alt)}">'
    return f"<figure>{image}<figcaption>{esc(words)}</figcaption></figure>"


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", numeric: Sequence[int] = ()
) -> str:
    """A table of plain-text cells; columns in `numeric` are right-aligned."""
    right = set(numeric)

    def cells(values: Sequence[str], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(
            f"<{tag}{scope}{' class=n' if k in right else ''}>{_cell(value, tag, k in right)}</{tag}>"
            for k, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    top = f"<caption>{esc(caption)}</caption>" if caption else ""
    return f"<table>{top}<thead><tr>{cells(header, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: str, tag: str, is_number: bool) -> str:
    """Escaped text; a number may break before its interval and nowhere else."""
    if tag == "th" or not is_number or len(value) > 40:
        return esc(value)
    first, bracket, rest = value.partition(" (")
    return f"<i>{esc(first)}</i>" + (f" <i>({esc(rest)}</i>" if bracket else "")


def number(found: Number | None, digits: int = 2, percent: bool = False) -> str:
    """'0.87 (0.81 to 0.92)', or why there is none; percentages carry no second % sign in the interval."""
    if found is None:
        return "not computed"
    if found.value is None:
        return f"not computed: {found.note}" if found.note else "not computed"
    factor, places, sign = (100, max(0, digits - 2), " %") if percent else (1, digits, "")
    text = f"{found.value * factor:.{places}f}{sign}"
    if found.low is None or found.high is None:
        return text + " (no interval)"
    return f"{text} ({found.low * factor:.{places}f} to {found.high * factor:.{places}f})"


def p_value(p: float | None) -> str:
    """'p = 0.034', 'p < 0.001' or 'no test'."""
    if p is None:
        return "no test"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def page(title: str, body: str) -> str:
    """The whole document. Its content policy allows nothing from the network."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{esc(title)}</title><style>{CSS}</style></head><body><main>{body}</main></body></html>\n"
    )
