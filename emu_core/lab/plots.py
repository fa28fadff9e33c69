"""The report's pictures but for its sheets. matplotlib is imported as something is drawn: it takes a second."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from ..media.files import whole_file
from ..study.questions import QUESTIONS
from ..study.tables import number
from .automatic import DESIGN
from .losses import STAGES
from .measures import OF

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a6d3b")  # Okabe & Ito, and one more
MARKERS = "os^"
KINDS = {"split": "#cfd8e6", "partial": "#86a8dd", "complete": "#2f6fde"}
FIRST, SECOND, GREY = "#2f6fde", "#e0863a", "#667085"
SHOWN = ("motion", "edge_error_px")
"""Measures of the curves."""
Numbers = Mapping[str, float | None]


def draw_all(found: dict[str, Any], folder: Path) -> dict[str, str]:
    """Every picture that there is something for, in `folder`. Returns what each is of -> the name of its file."""
    makers: dict[str, tuple[bool, Callable[[dict[str, Any]], Figure]]] = {
        "agreement": (bool(found["claims"]), agreement),
        "reasons": (bool(found["claims"]), reasons),
        "scatter": (bool(found["automatic"]), scatter),
        "curves": (any(curve["points"] for curve in found["curves"].values()), curves),
        "losses": (any(found["losses"]["curves"].values()), losses),
    }
    drawn = {name: make(found) for name, (there, make) in makers.items() if there}
    drawn |= {f"probe_{name}": probe(one) for name, one in found["probes"].items() if curve_of(one)}
    for name, figure in drawn.items():
        with whole_file(folder / f"lab_{name}.png") as part:
            figure.savefig(part, format="png", dpi=100, metadata={"Software": None})
    return {name: f"lab_{name}.png" for name in drawn}


def _panels(rows: int, columns: int, width: float, height: float, **settings: Any) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    panels = list(figure.subplots(rows, columns, squeeze=False, **settings).ravel())
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    return figure, panels


def _bars(panel: Axes, x: Sequence[float], values: Sequence[Numbers], times: float = 1, **style: Any) -> None:
    """A line through the values that there are, with their intervals."""
    known = [(at, one) for at, one in zip(x, values, strict=True) if _is_number(one["value"])]
    means = [times * float(one["value"] or 0) for _, one in known]
    ends = [_ends(one, times) for _, one in known]
    panel.errorbar([at for at, _ in known], means, yerr=list(zip(*ends, strict=True)) or None, marker="o", capsize=3, **style)
    if not known:
        panel.text(0.5, 0.5, "no value", transform=panel.transAxes, ha="center", fontsize=8, color=GREY)


def _plain_numbers(axis: Axis) -> None:
    """On a logarithmic axis, also between powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="both", labelsize=7)


def _is_number(value: float | None) -> bool:
    return value is not None and value == value


def _ends(one: Numbers, times: float = 1) -> tuple[float, float]:
    """How far the ends of an interval are from its value; 0 where there is none."""
    value, low, high = one["value"], one["low"], one["high"]
    if value is None or low is None or high is None or not _is_number(low):
        return 0.0, 0.0
    return times * max(value - low, 0.0), times * max(high - value, 0.0)


def _names(claims: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{claim['arm']} - {claim['against']}" for claim in claims]


def agreement(found: dict[str, Any]) -> Figure:
    """A bar a claim: the share of prompts in which five raters were split (3-2), nearly (4-1) or wholly (5-0) of one mind."""
    claims, count = found["claims"], found["budget"]["raters"]
    figure, panels = _panels(1, 2, 12, 1.3 + 0.3 * len(claims), sharey=True)
    marks = {"split": f"{count // 2 + 1}-{count // 2}", "partial": "4-1" if count == 5 else "between", "complete": f"{count}-0"}
    for panel, question in zip(panels, QUESTIONS, strict=True):
        for place, claim in enumerate(claims):
            one, left = claim[f"our_{question.key}"], 0.0
            total = sum(one["agreement"].values())
            for kind, colour in KINDS.items():
                share = 100 * one["agreement"][kind] / total
                label = f"{kind} ({marks[kind]})" if place == 0 else None
                panel.barh(place, share, left=left, height=0.7, color=colour, label=label)
                left += share
            panel.text(101.5, place, f"κ {number(one['kappa'])}", va="center", fontsize=8, color=GREY)
        panel.set_title(f"{question.title}: agreement of simulated raters, % of prompts", fontsize=9, loc="left")
        panel.set_xlim(0, 112)
        panel.set_xticks(range(0, 101, 25))
    panels[0].set_yticks(range(len(claims)), _names(claims))
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def reasons(found: dict[str, Any]) -> Figure:
    """A bar a claim and reason: the share of the votes for the arm that won more prompts, in those prompts, that gave it."""
    claims = found["claims"]
    columns = [(question.key, reason) for question in QUESTIONS for reason in question.reasons]
    figure, panels = _panels(1, len(columns), 13, 1.2 + 0.3 * len(claims), sharey=True)
    for panel, (question, reason) in zip(panels, columns, strict=True):
        for place, claim in enumerate(claims):
            one = claim[f"our_{question}"]
            share = 100 * (one["reasons"][reason.key] or 0)
            panel.barh(place, share, height=0.7, color=FIRST if one["winner"] == claim["arm"] else SECOND)
            panel.text(share + 2, place, f"{share:.0f}", va="center", fontsize=7, color=GREY)
        panel.set_title(f"{question.title()}:\n{fill(reason.name, 18)}", fontsize=8, loc="left")
        panel.set_xlim(0, 118)
        panel.set_xticks([0, 50, 100])
    panels[0].set_yticks(range(len(claims)), _names(claims))
    panels[0].invert_yaxis()
    said = "% of the votes for the winner (simulated raters); blue: the first arm won more prompts, orange: the second"
    figure.supxlabel(said, fontsize=8)
    return figure


def scatter(found: dict[str, Any]) -> Figure:
    """A mark an arm: its Fréchet distance against its win rate over the design."""
    figure, panels = _panels(1, 2, 13, 5)
    against = [claim for claim in found["claims"] if claim["arm"] == DESIGN and claim["against"] in found["arms"]]
    for panel, question in zip(panels, QUESTIONS, strict=True):
        for order, claim in enumerate(against):
            ours, distance = claim[f"our_{question.key}"], found["arms"][claim["against"]]["fvd_lab"]
            rate = {"value": 1 - ours["win_rate"], "low": 1 - ours["high"], "high": 1 - ours["low"]}
            place = (distance["value"], 100 * rate["value"])
            x, y = ([[end] for end in _ends(one, times)] for one, times in ((distance, 1), (rate, 100)))
            colour, marker = COLOURS[order % len(COLOURS)], MARKERS[order // len(COLOURS) % len(MARKERS)]
            style = {"color": colour, "label": claim["against"], "alpha": 0.85}
            panel.errorbar([place[0]], [place[1]], y, x, marker, markersize=5, elinewidth=0.5, **style)
        metrics = {metric["key"]: metric for metric in found["automatic"]["questions"][question.key]["metrics"]}
        tau = metrics["fvd_lab"]["kendall_tau"]["value"]
        said = "" if tau is None else f", Kendall's tau {tau:.2f}"
        panel.set_title(f"{question.title} (simulated raters){said}", fontsize=9, loc="left")
        panel.axvline(found["arms"][DESIGN]["fvd_lab"]["value"], color=GREY, lw=0.8, ls=":", label="the design's distance")
        panel.set_xscale("log")
        _plain_numbers(panel.xaxis)
        panel.set_ylim(-4, 104)
        panel.set_xlabel("FVD by the laboratory's classifier (lower is better)", fontsize=8)
        panel.set_ylabel("wins over the design, % of prompts", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def curves(found: dict[str, Any]) -> Figure:
    """Motion and edge error against steps at half the resolution and against clips, whose axis is logarithmic."""
    there = {what: curve for what, curve in found["curves"].items() if curve["points"]}
    figure, panels = _panels(len(there), len(SHOWN), 9, 3 * len(there))
    for place, (what, curve) in enumerate(there.items()):
        for panel, key in zip(panels[place * len(SHOWN) :], SHOWN, strict=False):
            x = [point["x"] for point in curve["points"]]
            values = [found["arms"][point["arm"]]["measures"][key] for point in curve["points"]]
            _bars(panel, x, values, OF[key].times)
            if what == "clips":
                panel.set_xscale("log")
            panel.set_xticks(x, [str(each) for each in x])
            panel.minorticks_off()
            panel.set_xlabel(curve["x"], fontsize=8)
            panel.set_title(OF[key].label, fontsize=9, loc="left")
    return figure


def losses(found: dict[str, Any]) -> Figure:
    """Smoothed loss of training against steps, the seeds' range shaded, and each seed's validation loss at the end."""
    shown = {stage: arms for stage, arms in found["losses"]["curves"].items() if arms}
    names = list(dict.fromkeys(name for arms in shown.values() for name in arms))
    figure, panels = _panels(1, len(shown), 6 * len(shown), 4.2)
    for panel, (stage, arms) in zip(panels, shown.items(), strict=True):
        for name, arm in arms.items():
            colour, steps = COLOURS[names.index(name) % len(COLOURS)], [point["step"] for point in arm["points"]]
            line = "-" if names.index(name) < len(COLOURS) else "--"
            panel.plot(steps, [point["value"] for point in arm["points"]], line, color=colour, lw=1.4, label=name)
            low, high = ([point[end] for point in arm["points"]] for end in ("low", "high"))
            panel.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
            for value in filter(None, arm["validation"]):
                panel.plot(steps[-1], value, "x", color=colour, markersize=5)
        panel.set_yscale("log")
        _plain_numbers(panel.yaxis)
        panel.set_xlabel("steps of this stage", fontsize=8)
        panel.set_title(f"{STAGES[stage]}: loss of training, x: of validation", fontsize=9, loc="left")
        panel.legend(fontsize=7, frameon=False)
    return figure


def curve_of(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a probe that have an x and any value, by their x; none where the probe has no curve."""
    known = (row for row in one["rows"] if any(_is_number(each["value"]) for each in row["values"].values()))
    return sorted((row for row in known if one["x"] and row["x"] is not None), key=lambda row: row["x"])


def probe(one: dict[str, Any]) -> Figure:
    """A panel a column that has any value, against the probe's x."""
    rows, lacking = curve_of(one), {"value": None, "low": None, "high": None}
    columns = {key: [row["values"].get(key, lacking) for row in rows] for key in one["columns"]}
    columns = {key: values for key, values in columns.items() if any(_is_number(value["value"]) for value in values)}
    count = len(columns)
    figure, panels = _panels(-(-count // 3), min(count, 3), 4.2 * min(count, 3), 3 * -(-count // 3))
    for panel, (key, values) in zip(panels, columns.items(), strict=False):
        label = one["columns"][key]
        _bars(panel, [row["x"] for row in rows], values, 100 if label.endswith("%") else 1)
        panel.set_xlabel(one["x"], fontsize=8)
        panel.set_title(label, fontsize=9, loc="left")
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure
