"""The report as one HTML page that needs no other file: plain markup, plots as inline SVG."""

import html
import math
from collections.abc import Sequence
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --error: #c62828; --warning: #b26a00;
  --note: #777 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.verdict { font-size: 1.1rem; border-left: .3rem solid var(--note); padding-left: .8rem }
.finding { border-left: .3rem solid; padding: .1rem .8rem; margin: .8rem 0 }
.error { border-color: var(--error) } .warning { border-color: var(--warning) }
.note { border-color: var(--note) } .finding b { text-transform: uppercase; font-size: .75rem }
code { display: block; font: .85rem ui-monospace, monospace; overflow-wrap: anywhere; opacity: .85 }
table { border-collapse: collapse; width: 100%; font-size: .88rem }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .5rem; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto } svg { width: 100%; height: auto } svg text { fill: currentColor }
"""
_COLORS = ("#2c6fbb", "#c0582b", "#3a8f4d", "#7d4fa3", "#a08a00", "#4aa3a3")
_DASHES = ("none", "7 4", "2 3")  # One curve may lie over another.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 260, 64, 34


def page(report: dict[str, Any]) -> str:
    """The page of a report's JSON values.

    >>> empty = {"verdict": "sound", "steps": 5, "roles_known": True, "findings": [], "groups": []}
    >>> "<title>weight decay: sound</title>" in page(empty)
    True
    """
    groups, steps = report["groups"], report["steps"]
    decays = [(_names(g), g["steps"], g["shrink"]) for g in groups if g["peak_shrink"]]
    moves = [(_names(g), g["steps"], [_size(r) for r in g["response"]]) for g in groups]
    plots = "".join(
        f"<h2>{title}</h2>{plot(curves, title)}"
        for title, curves in (
            ("Share of a weight that a step takes", decays),
            ("What a gradient of 1 moves it", moves),
        )
        if curves
    )
    findings = "".join(
        f'<div class="finding {f["severity"]}"><b>{f["severity"]}</b> '
        f"{html.escape(f['text'])}<code>{html.escape(f['advice'])}</code></div>"
        for f in report["findings"]
    )
    verdict = html.escape(report["verdict"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>weight decay: {verdict}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Weight decay over {steps:,} steps</h1>"
        f'<p class="verdict">{verdict}</p>{findings}'
        f"<h2>What each group of leaves does</h2>{_table(groups)}{plots}</body></html>"
    )


def plot(curves: Sequence[tuple[str, Sequence[int], Sequence[float | None]]], title: str) -> str:
    """Curves over the steps as an SVG with a logarithmic axis; zeros and unknowns are left out.

    Args:
      curves: Name, steps and values of each.
      title: For those who cannot see it.

    >>> plot([("w", [0, 1], [0.1, 0.2])], "decay").count("<polyline")
    1
    """
    points = [v for _, _, values in curves for v in values if v is not None and v > 0]
    if not points:
        return "<p>zero at every step</p>"
    low, high = math.floor(math.log10(min(points))), math.ceil(math.log10(max(points)))
    low, high = max(low, high - 8), max(high, low + 1)
    last = max(max(steps) for _, steps, _ in curves) or 1
    right, top = _WIDTH - 8, 10

    def x(step: float) -> float:
        return _LEFT + (right - _LEFT) * step / last

    def y(value: float) -> float:
        share = (math.log10(value) - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - top) * max(share, 0.0)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 18 * len(curves)}" role="img" font-size="12">']
    parts.append(f"<title>{html.escape(title)}</title>")
    for power in range(low, high + 1, max((high - low) // 6, 1)):
        at = y(10.0**power)
        parts.append(
            f'<line x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="#8884"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">1e{power}</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        anchor = "end" if share == 1 else "middle"
        text, place = f"{share * last:,.0f}", f'x="{x(share * last):.1f}" y="{_HEIGHT - 14}"'
        parts.append(f'<text {place} text-anchor="{anchor}">{text}</text>')
    for n, (name, steps, values) in enumerate(curves):
        color = _COLORS[n % len(_COLORS)]
        pairs = zip(steps, values, strict=True)
        line = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in pairs if v is not None and v > 0)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2" '
            f'stroke-dasharray="{_DASHES[n % len(_DASHES)]}"/>'
            f'<rect x="{_LEFT}" y="{_HEIGHT + 18 * n}" width="12" height="3" fill="{color}"/>'
            f'<text x="{_LEFT + 18}" y="{_HEIGHT + 18 * n + 6}">{html.escape(name)}</text>'
        )
    return "".join(parts) + "</svg>"


def _table(groups: Sequence[dict[str, Any]]) -> str:
    headings = (
        "leaves", "roles", "steps of", "decay", "weight decay", "shrink per step",
        "timescale, steps", "tokens", "of the run", "taken in all", "rotation", "rms",
    )  # fmt: skip
    keys = (
        "weight_decay", "peak_shrink", "timescale_steps", "timescale_tokens", "timescale_of_run",
        "total_shrink", "rotation", "equilibrium_rms",
    )  # fmt: skip
    rows = []
    for g in groups:
        words = (_names(g), ", ".join(g["roles"]), g["convention"] or "unknown", g["coupling"])
        cells = "".join(f"<td>{html.escape(word)}</td>" for word in words)
        numbers = "".join(f'<td class="n">{_number(g[key])}</td>' for key in keys)
        rows.append(f"<tr>{cells}{numbers}</tr>")
    head = "".join(f"<th{' class=n' if n > 3 else ''}>{h}</th>" for n, h in enumerate(headings))
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _names(group: dict[str, Any]) -> str:
    leaves = group["leaves"]
    return leaves[0] + (f" and {len(leaves) - 1} more" if len(leaves) > 1 else "")


def _size(value: float | None) -> float | None:
    return None if value is None else abs(value)
