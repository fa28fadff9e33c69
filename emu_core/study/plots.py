"""The report's pictures, PNG as bytes. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .questions import KEYS, QUESTIONS
from .tables import number

INK, SOFT, LINE = "#1c2230", "#667085", "#d9dee7"
FIRST, SECOND = "#2f6fde", "#e0863a"
KINDS = {"split": "#cfd8e6", "partial": "#86a8dd", "complete": "#2f6fde"}
SERIES = ("#2f6fde", "#e0863a", "#2a9d78", "#b8519e", "#8a6d3b", "#5b6b8c")
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,  # a "$" in a system's name is a dollar
    **dict.fromkeys(("text.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.labelcolor", "xtick.color"), SOFT),
    "axes.edgecolor": LINE,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
}
ARROWS = {"higher": "↑", "lower": "↓", None: "–"}
MOST_COMPARISONS = 45
MOST_RATERS = 60
LONGEST_NAME = 28


def draw(report: dict[str, Any]) -> dict[str, bytes]:
    """File name -> PNG: win_rates, agreement, reasons, raters. Nothing where there is no complete pair."""
    makers = {"win_rates": _win_rates, "agreement": _agreement, "reasons": _reasons, "raters": _raters}
    return _drawn(report, makers if report["study"]["complete_pairs"] else {})


def draw_correlation(found: dict[str, Any]) -> dict[str, bytes]:
    """File name -> PNG: correlation. Nothing where there is no correlation."""
    return _drawn(found, {"correlation": _correlation} if _correlated(found) else {})


def _drawn(found: dict[str, Any], makers: Mapping[str, Callable[[dict[str, Any]], Figure]]) -> dict[str, bytes]:
    drawn: dict[str, bytes] = {}
    with mpl.rc_context(STYLE):
        for name, make in makers.items():
            content = io.BytesIO()
            figure = make(found)
            if note := found["study"].get("note"):  # a picture may be shown without its report
                figure.supxlabel(fill(note, 110), fontsize=9, color=SOFT)
            figure.savefig(content, format="png", dpi=160, metadata={"Software": None})
            drawn[f"{name}.png"] = content.getvalue()
    return drawn


PLOTS = {"report": draw, "correlation": draw_correlation}
"""By the name of the report that they belong to."""


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **settings: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")  # no window: may run inside a server
    figure.get_layout_engine().set(w_pad=0.18, h_pad=0.16)  # type: ignore[union-attr, call-arg]
    return figure, list(figure.subplots(rows, columns, squeeze=False, **settings).ravel())


def _panel(axes: Axes, title: str, text: str, names: Sequence[str], ends: tuple[float, float], grid: bool = False) -> None:
    """A heading with a line below it; from top to bottom a bar for each name, the axis having these ends; across 0 to 100 %."""
    axes.set_title(title, loc="left", fontweight="bold", fontsize=12, pad=21)
    axes.text(0, 1.0, text, transform=axes.transAxes, color=SOFT, fontsize=9, va="bottom")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(*ends)
    if grid:
        axes.grid(axis="x", color=LINE, lw=0.6)
        axes.set_axisbelow(True)
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.tick_params(length=0)


def _note(axes: Axes, place: float, text: str, size: float = 9) -> None:
    """Right of a bar."""
    axes.text(102, place, text, va="center", fontsize=size, color=SOFT, clip_on=False)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _win_rates(report: dict[str, Any]) -> Figure:
    """A bar a comparison, the first system's wins from the left, with the Wilson interval at the border."""
    compared = [report["questions"][key]["comparisons"][:MOST_COMPARISONS] for key in KEYS]
    count = max(map(len, compared))
    figure, panels = _figure(12, 1.9 + 0.72 * count, 1, 2)
    for axes, question, rows in zip(panels, QUESTIONS, compared, strict=True):
        _panel(axes, question.title, question.text, (), (count - 0.5, -0.75))
        for place, row in enumerate(rows):
            share = 100 * row["win_rate"]
            low, high = (100 * end for end in row["wilson"])
            axes.barh(place, share, height=0.42, color=FIRST)
            axes.barh(place, 100 - share, left=share, height=0.42, color=SECOND)
            axes.plot([low, high], [place, place], color=INK, lw=1.6, solid_capstyle="butt")
            axes.vlines([low, high], place - 0.09, place + 0.09, color=INK, lw=1.6)
            axes.plot(share, place, "o", color="white", markeredgecolor=INK, markersize=5.5)
            words: dict[str, Any] = {"fontweight": "bold", "va": "bottom", "fontsize": 9}
            axes.text(0, place - 0.26, f"{_short(row['first'])}  {share:.1f} %", color=FIRST, ha="left", **words)
            axes.text(100, place - 0.26, f"{100 - share:.1f} %  {_short(row['second'])}", color=SECOND, ha="right", **words)
            _note(axes, place, f"n = {row['prompts']}", 8.5)
        axes.axvline(50, color="white", lw=1)
        axes.set_xlabel("share of prompts won by the majority; line: 95 % Wilson interval")
    return figure


def _agreement(report: dict[str, Any]) -> Figure:
    """How united the raters were: all pairs in bold, then each comparison."""
    rows: list[tuple[str, dict[str, Any]]] = []
    for question in QUESTIONS:
        found = report["questions"][question.key]
        rows.append((f"{question.title}, all pairs", found))
        for row in found["comparisons"][:MOST_COMPARISONS] if len(found["comparisons"]) > 1 else ():
            rows.append((f"{_short(row['first'])} - {_short(row['second'])}", row))
    figure, (axes,) = _figure(9.5, 1.5 + 0.42 * len(rows))
    raters = report["study"]["raters_per_pair"]
    words = f"split {raters // 2 + 1}-{raters // 2}, complete {raters}-0{', partial between' if raters > 3 else ''}"
    text = f"share of pairs; {words}; κ: Fleiss' kappa"
    _panel(axes, "Agreement of the raters", text, [name for name, _ in rows], (len(rows) - 0.5, -0.6))
    for place, ((_, row), label) in enumerate(zip(rows, axes.get_yticklabels(), strict=True)):
        label.set_fontweight("bold" if "comparisons" in row else "normal")
        total, left = sum(row["agreement"].values()), 0.0
        for kind, colour in KINDS.items():
            share = 100 * row["agreement"][kind] / total if total else 0
            axes.barh(place, share, left=left, height=0.62, color=colour, label=kind if place == 0 else None)
            if share >= 6:
                ink = "white" if kind == "complete" else INK
                axes.text(left + share / 2, place, f"{share:.0f}", ha="center", va="center", fontsize=9, color=ink)
            left += share
        _note(axes, place, f"κ {number(row['kappa'])}   n = {total}")
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 1.0 + 0.55 / (0.42 * len(rows))), ncols=3, frameon=False, fontsize=9)
    return figure


def _reasons(report: dict[str, Any]) -> Figure:
    """Why a system won, where it won."""
    systems = report["study"]["systems"][: len(SERIES)]
    width = 0.8 / len(systems)
    sizes = [len(question.reasons) for question in QUESTIONS]
    height = 2.6 + (0.24 * len(systems) + 0.22) * sum(sizes)
    figure, panels = _figure(9.5, height, 2, 1, gridspec_kw={"height_ratios": sizes})
    for axes, question in zip(panels, QUESTIONS, strict=True):
        text = "share of the votes for the winner that gave the reason (several may be given)"
        names = [reason.name for reason in question.reasons]
        _panel(axes, f"{question.title}: reasons for wins", text, names, (len(names) - 0.5, -0.5), grid=True)
        found = {row["system"]: row for row in report["questions"][question.key]["systems"]}
        for order, system in enumerate(systems):
            for place, reason in enumerate(question.reasons):
                share = found[system]["reasons"][reason.key]
                at = place + (order - (len(systems) - 1) / 2) * width
                label = f"{_short(system)} ({found[system]['wins']} wins)" if place == 0 else None
                axes.barh(at, 100 * (share or 0), height=width * 0.86, color=SERIES[order], label=label)
                shown = "no wins" if share is None else f"{100 * share:.0f}"
                axes.text(100 * (share or 0) + 1, at, shown, va="center", fontsize=8, color=SOFT)
        axes.legend(loc="center left", bbox_to_anchor=(1.07, 0.5), frameon=False, fontsize=9)
    return figure


def _raters(report: dict[str, Any]) -> Figure:
    """A line a rater: how often with most of the others. Of very many, those who agree least."""

    def least(row: dict[str, Any]) -> float:
        return min((row[key]["with_others"] for key in KEYS if row[key]["with_others"] is not None), default=2.0)

    rows = sorted(sorted(report["raters"], key=least)[:MOST_RATERS], key=lambda row: row["rater"])
    figure, (axes,) = _figure(9.5, 1.9 + 0.3 * len(rows))
    few = f"; the {MOST_RATERS} who agree least" if len(report["raters"]) > MOST_RATERS else ""
    text = f"share of their votes with most of the other raters of the pair; dashed: chance{few}"
    _panel(axes, "Each rater", text, [_short(row["rater"]) for row in rows], (len(rows) - 0.4, -0.6), grid=True)
    for place, row in enumerate(rows):
        shares = [row[key]["with_others"] for key in KEYS]
        known = [100 * share for share in shares if share is not None]
        if known:
            axes.plot([min(known), max(known)], [place, place], color=LINE, lw=2.5, zorder=1)
        for share, question, colour in zip(shares, QUESTIONS, (FIRST, SECOND), strict=True):
            if share is not None:
                axes.scatter(100 * share, place, s=46, color=colour, zorder=2, label=question.title if place == 0 else None)
        _note(axes, place, f"{row['votes']} votes")
    axes.axvline(50, color=SOFT, lw=0.9, ls=(0, (4, 3)), zorder=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.1, 1.0), frameon=False, fontsize=9)
    return figure


def _correlated(found: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Of each metric that has a rank correlation with the votes on any question, its entries, one a question."""
    entries = zip(*(found["questions"][key]["metrics"] for key in KEYS), strict=True)
    return [list(of_one) for of_one in entries if any(entry["kendall_tau"]["value"] is not None for entry in of_one)]


def _correlation(found: dict[str, Any]) -> Figure:
    """A panel a metric, a dot a system and question: its win rate against its figure. Systems are numbered, and named above."""
    metrics, columns = _correlated(found), 3
    rows = -(-len(metrics) // columns)
    names = [f"{place} {_short(system)}" for place, system in enumerate(found["study"]["systems"], 1)]
    figure, panels = _figure(4.4 * columns, 1.4 + 3.3 * rows, rows, columns)
    figure.suptitle(fill("   ".join(names), 150), fontsize=10)
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    for axes, of_one in zip(panels, metrics, strict=False):
        metric = of_one[0]
        values = [number(entry["kendall_tau"]["value"]) for entry in of_one]
        taus = [f"{question.title} τ {value}" for question, value in zip(QUESTIONS, values, strict=True)]
        axes.set_title(f"{_short(metric['label'])} {ARROWS[metric['better']]}", loc="left", fontweight="bold", pad=20)
        axes.text(0, 1.02, ", ".join(taus), transform=axes.transAxes, color=SOFT, fontsize=8.5, va="bottom")
        for entry, question, colour, size in zip(of_one, QUESTIONS, (FIRST, SECOND), (7.5, 5), strict=True):
            rates = found["questions"][question.key]["win_rates"]
            for system, value in entry["figures"].items():
                place = (value, 100 * rates[system])
                axes.plot(*place, "o", color=colour, markersize=size, label=question.title)
                mark = str(found["study"]["systems"].index(system) + 1)
                axes.annotate(mark, place, (5, 3), textcoords="offset points", fontsize=8, color=colour)
        axes.set_ylim(-4, 104)
        axes.margins(x=0.12)
        axes.grid(color=LINE, lw=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
    handles = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
    panels[0].legend(handles.values(), handles.keys(), fontsize=8, frameon=False)
    for axes in panels[::columns]:
        axes.set_ylabel("win rate against all others, %")
    return figure
