"""The report as text, a function a section, each from the numbers that its JSON holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..study.correlation import metrics_table
from ..study.questions import KEYS, QUESTIONS
from ..study.tables import cell, number, table
from .arms import GROUPS
from .losses import SMOOTH, STAGES
from .measures import DIFFERENCES, MEASURES, OF
from .raters import NOTE
from .stages import BATCH, LOW_BATCH

Found = dict[str, Any]
Pictures = Mapping[str, str]
"""What each is of -> its address from the page."""


def figure(one: Mapping[str, float | None] | None, times: float = 1, signed: bool = False) -> str:
    """A value with its interval; "-" for none."""
    if one is None or (value := one["value"]) is None or value != value:
        return "-"
    form = f"{'+' if signed else ''}.{0 if times > 1 else 2}f"
    ends = [one["low"], one["high"]]
    said = f"{times * value:{form}}"
    known = [f"{times * end:{form}}" for end in ends if end is not None and end == end]
    return f"{said} ({' to '.join(known)})" if len(known) == 2 else said


def rate(one: Found | None) -> str:
    """A win rate in per cent."""
    return figure(one and {**one, "value": one["win_rate"]}, 100)


def picture(pictures: Pictures, name: str) -> list[str]:
    """A line that shows it, if it was drawn."""
    return [f"![{name}]({pictures[name]})", ""] if name in pictures else []


def opening(found: Found) -> list[str]:
    """What has to be known of every number below."""
    budget, machine = found["budget"], found["machine"]
    threads = " or ".join(map(str, machine["threads"]))
    quick = "**The smallest budget: everything runs, and no figure means anything.** " if budget["name"] == "quick" else ""
    return [
        "# The laboratory",
        "",
        f"**{NOTE} They say how the study's arithmetic turns known differences into win rates, and nothing of people.**",
        "",
        f"{quick}Budget `{budget['name']}`: {budget['low']} steps of {LOW_BATCH} clips at half the resolution and "
        f"{budget['full']} of {BATCH} at the full one an arm, {budget['clips']} clips, {budget['prompts']} held-out prompts, "
        f"{budget['seeds']} seeds of training where a claim is decided, else one. {machine['cpu']}, {machine['cores']} "
        f"cores{threads and f', {threads} of them a run'}, torch {machine['torch']}; the times of all runs add up to "
        f"{found['hours']:.1f} hours, without the image model's. Intervals are 95 % over the prompts. "
        "All numbers are in `lab.json` beside this page.",
        "",
    ]


def claims(found: Found) -> list[str]:
    """Win rates and paired differences, in groups."""
    least = found["least_if_all_won"]
    lines = [
        "## Claims",
        "",
        "Win rates of the first arm in per cent, quality / faithfulness. *Open*: the interval holds 50. Intervals draw prompts "
        "anew, which leaves no doubt where all prompts were won, or none: there Wilson's interval would begin at "
        f"{100 * least:.0f}. Beside the votes stand differences of what the exact judge measured, the first arm less the second, "
        "prompt by prompt from the same noise; shares in points of a hundred. Of edge error and wobble less is better, and they "
        "are there only where both videos show the right figure.",
        "",
    ]
    for group, title in GROUPS.items():
        if not (rows := [claim for claim in found["claims"] if claim["group"] == group]):
            continue
        head = ["claim", "the paper", "here: quality", "faithfulness", "sign", "each seed by itself"]
        lines += [f"### {title}", "", *table(head, [_claim(claim, found["losses"]["speed"]) for claim in rows])]
        head = ["difference", *(OF[key].label for key in DIFFERENCES), "prompts of the last two"]
        lines += table(head, map(_difference, rows))
    return lines


def _claim(claim: Found, paces: Sequence[Found]) -> list[str]:
    paper = " / ".join("-" if claim[key] is None else f"{claim[key]:g}" for key in KEYS)
    ours = [claim[f"our_{key}"] for key in KEYS]
    said = claim["source"] if claim["source"] and paper == "- / -" else paper
    what = f"{claim['says']} (`{claim['arm']}` against `{claim['against']}`)"
    seeds = [", ".join(f"{100 * of:.0f}" for of in one["by_seed"]) for one in ours] if claim["seeds"] > 1 else ["one"]
    sign = " / ".join(one["verdict"] for one in ours)
    pair = (claim["arm"], claim["against"])
    if pace := next((one for one in paces if (one["than"], one["arm"]) == pair), None):  # the first is the first stage's
        sign += f"; by the loss, which decides it: {pace['verdict']} ({figure(pace['whole'], signed=True)})"
    return [what, said, *map(rate, ours), sign, " / ".join(seeds)]


def _difference(claim: Found) -> list[str]:
    cells = [figure(claim["differences"][key], OF[key].times, signed=True) for key in DIFFERENCES]
    return [f"`{claim['arm']}` - `{claim['against']}`", *cells, str(claim["differences"]["edge_error_px"]["count"])]


def systems(found: Found) -> list[str]:
    """Ours, and the published figures beside them."""
    if not found["systems"]:
        return []
    head = ["system", "FVD by the lab's classifier", "IS by it", *(measure.label for measure in MEASURES)]
    head += [f"the design wins: {key}" for key in KEYS]
    rows = [
        [
            one["system"],
            figure(one["fvd_lab"]),
            figure(one["is_lab"]),
            *_measured(one),
            *(rate(one[f"our_{key}"]) for key in KEYS),
        ]
        for one in found["systems"]
    ]
    about = "Arms with the systems' ideas on the laboratory's image model, clips and steps."
    lines = ["## Systems", "", about, "", *table(head, rows)]
    lines += [
        "### As published, and here",
        "",
        "**Never comparable, only the order is.** Published: I3D's distance and C3D's score on UCF-101, of the systems as they "
        "were. Here: the laboratory's own classifier on its own world, of arms with the systems' ideas.",
        "",
    ]
    head = ["system", "FVD, UCF-101", "IS, UCF-101", "how", "source", "FVD by the lab's classifier", "IS by it"]
    lines += table(head, map(_published, found["published"]["rows"]))
    return lines + [*map(_order, found["published"]["orders"]), ""]


def _published(row: Found) -> list[str]:
    spread = "" if row["spread"] is None else f" ± {row['spread']:g}"
    fvd, score = ("-" if row[key] is None else f"{row[key]:g}" for key in ("fvd", "inception"))
    how = "trained on it" if row["trained"] else "zero-shot"
    return [row["system"], fvd, f"{score}{spread}", how, row["source"], number(row["fvd_lab"]), number(row["is_lab"])]


def _order(order: Found) -> str:
    of = {"fvd": "FVD", "inception": "IS"}[order["of"]]
    if order["rho"] is None:
        return f"* {of}: {order['n']} systems have both, too few for an order."
    said = f"Spearman's rho {order['rho']:.2f} over {order['n']} systems ({', '.join(order['systems'])})"
    return f"* {of}: {said}, p {order['p']:.2g} by all orders that there are."


def automatic(found: Found, pictures: Pictures) -> list[str]:
    """Rank correlations with the win rates."""
    about = found["automatic"]
    if about is None:
        return []
    method = about["method"]
    lines = [
        "## Automatic measures against votes",
        "",
        f"Over {len(about['study']['systems'])} arms that were compared with the design: each measure of an arm against its win "
        "rate over the design, and prompt by prompt whether the measure prefers the video that most raters do. The simulated "
        "raters know the exact measures, so that these agree by construction; only FVD and IS by the classifier are apart from "
        f"what they know. Tau: {method['kendall_tau']}. Agreement: {method['agreement']}. Intervals: {method['intervals']}.",
        "",
    ]
    for question in QUESTIONS:
        lines += [f"### {question.title}", "", *metrics_table(about, question.key)]
    return lines + picture(pictures, "scatter")


def raters(found: Found, pictures: Pictures) -> list[str]:
    """How united they were, and why the winner won."""
    if not found["claims"]:
        return []
    kappa = found["kappa"]
    return [
        "## Agreement of the raters, and reasons",
        "",
        f"The mean of Fleiss' kappa over the claims is {number(kappa['quality'])} for quality and "
        f"{number(kappa['faithfulness'])} for faithfulness. The paper's people had {kappa['paper']} once they had to give "
        "reasons. Ours follows from the noise that the simulated raters were given and says nothing of people; and where one arm "
        "wins nearly always, nearly all that raters agree in is expected by chance, so that kappa is small.",
        "",
        *picture(pictures, "agreement"),
        *picture(pictures, "reasons"),
    ]


def curves(found: Found, pictures: Pictures) -> list[str]:
    """Measures against amounts, and losses against steps."""
    lines = ["## Curves", "", *picture(pictures, "curves")]
    if "losses" in pictures:
        lines += [
            "### Performance against iterations",
            "",
            "Validation is measured once, at a stage's end (x), at timesteps that are spread evenly, which training draws "
            "otherwise: its level is another. The lines are the loss of training, each point the mean of a "
            f"{SMOOTH}th of the stage's steps up to it; shaded: the range of the seeds. Of a seed all arms have the same clips, "
            "noise and timesteps at a step. Only arms with the same schedule, prediction, given frame and clips are shown: the "
            "losses of others (`standard_snr`, `cosine`, `direct`, ...) are of other targets.",
            "",
            *picture(pictures, "losses"),
        ]
    return lines + [*map(_speed, found["losses"]["speed"]), ""]


def _speed(one: Found) -> str:
    """How many times the design's steps another arm needs."""
    seeds, half = one["seeds"], one["seeds"][0]["half"]
    after = [f"not within {one['steps']}" if of["reached"] is None else str(of["reached"]) for of in seeds]
    mean = "" if one["mean"] is None else f", {one['mean']:.2f} times as many in the mean"
    return (
        f"* {STAGES[one['stage']].capitalize()}, `{one['arm']}` against `{one['than']}`: at the same clips, noise and timesteps "
        f"its loss is higher by {figure(one['whole'], signed=True)} over all {one['steps']} steps and by "
        f"{figure(one['early'], signed=True)} over the first tenth of them (Student's t over the seeds). The smoothed loss that "
        f"`{one['than']}` has after {half} steps, it has after {', '.join(after)} (a seed each){mean}; the paper: about twice as "
        "many. The rate of learning falls over the last half of a stage, which helps whoever comes later."
    )


def probes(found: Found, pictures: Pictures) -> list[str]:
    """Experiments on trained arms."""
    lines = ["## Probes", ""] if found["probes"] else []
    for name, one in found["probes"].items():
        lines += [f"### {cell(name.replace('_', ' '))}", "", one["about"], ""]
        lines += [f"As published: {one['finding_of']}", ""] if one["finding_of"] else []
        rows = [
            [cell(row["label"]), *(figure(row["values"].get(key), _times(label)) for key, label in one["columns"].items())]
            for row in one["rows"]
        ]
        lines += table([one["x"] or " ", *one["columns"].values()], rows)
        for each in one["differences"]:
            lines.append(f"* {each['says']}: {figure(each, _times(each['says']), signed=True)}")
        lines += ["", *picture(pictures, f"probe_{name}")]
    return lines


def _times(label: str) -> int:
    return 100 if label.endswith("%") else 1


def arms(found: Found) -> list[str]:
    """All of them."""
    head = ["arm", *(measure.label for measure in MEASURES), "FVD by the lab's classifier", "IS by it", "seeds", "minutes a seed"]
    rows = [
        [f"`{name}`", *_measured(arm), figure(arm["fvd_lab"]), figure(arm["is_lab"]), arm["seeds"], _minutes(arm["seconds"])]
        for name, arm in found["arms"].items()
    ]
    about = [f"* `{name}`: {arm['about']}" for name, arm in found["arms"].items()]
    return ["## Arms", "", *table(head, rows), *about, ""]


def _measured(arm: Found) -> list[str]:
    return [figure(arm["measures"][measure.key], measure.times) for measure in MEASURES]


def _minutes(seconds: list[float]) -> str:
    return f"{sum(seconds) / len(seconds) / 60:.1f}"
