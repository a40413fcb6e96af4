"""The page docs/results.md, from what benchmarks/accuracy.py measured."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

METRICS = ("overall", "head", "medium", "tail")
# ours, and what they are made of or compete with
PAIRS = (
    ("LTKD, store's masses", "LTKD"),
    ("GRKD, rebalanced", "GRKD"),
    *(("class-calibrated KD", rival) for rival in ("balanced softmax", "BKD", "LTKD")),
)
# two-sided 95 % quantiles of Student's t, by degrees of freedom
_T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def page(document: dict[str, Any]) -> str:
    """The Markdown of all settings."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    protocol, records = document["protocol"], document["settings"]
    tried = len(protocol["learning rates"])
    parts = [
        "# Which loss, when\n",
        "Written by `make results` (benchmarks/accuracy.py); do not edit. Accuracies in percent on a balanced test set: "
        f"mean and standard deviation over {len(protocol['seeds'])} seeds. Each loss was tuned on a validation set over "
        f"{tried} settings, with another seed; the test set chose nothing. Losses without a teacher were tried at {tried} "
        f"learning rates; the others, with {tried} settings of their options (benchmarks/results/accuracy.json lists "
        "them), at the one that was best for CE. All students of a seed begin with the same weights and see the same "
        "batches, so differences are taken in pairs, with 95 % confidence intervals. These are of the students' seeds "
        "alone: a setting has one teacher and one choice of options. There are many of them, and one in twenty misses "
        "by chance.\n",
        f"{protocol['epochs']} epochs, batches of {protocol['batch size']}, AdamW with a cosine: its steps do not depend "
        "on a loss's size, so that a weight only says how much the teacher counts beside the labels. With SGD a larger "
        "weight is a larger learning rate too, and a loss without one is easily tuned less than its rivals. Weights are "
        "constant but for DKD's, which grows over the first 2 epochs as its authors' does over 20 of 240. "
        f"{document['date']}, {document['machine']}; {versions}.\n",
        "glyph100 is rendered type, not photographs, and easier than CIFAR-100 (see benchmarks/glyph100.py).\n",
    ]
    return "\n".join([*parts, *_summary(records)]) + "".join(map(_setting, records))


def _summary(records: list[dict[str, Any]]) -> list[str]:
    """All settings side by side: what every loss gains over KD, and which do so everywhere."""
    over_kd = {name: (name, "KD") for name in records[0]["losses"] if name != "KD"}
    lines = [
        "## In short\n",
        "Points above KD, overall / tail, the mean over the seeds; bold where the 95 % interval does not hold 0.\n",
        *_differences("loss", over_kd, records),
        "\nThe same of the losses that only a store makes possible, over what they are made of and their rivals.\n",
        *_differences("loss, over its rival", {f"{one}, over {other}": (one, other) for one, other in PAIRS}, records),
        "",
    ]
    for metric in ("overall", "tail"):
        highest = Counter(_best(record, metric) for record in records)
        lines += [f"- **{metric}**: the highest mean is that of {_listed(highest, len(records))}."]
        not_below = Counter(name for record in records for name in _not_below_the_best(record, metric))
        lines += [f"  - Best, or not told apart from the best: {_listed(not_below, len(records))}."]
        for rival in ("CE", "balanced softmax", "KD"):
            above, below = (_always(records, metric, rival, sign) for sign in (1, -1))
            lines += [f"  - Against {rival}, above it in every setting beyond chance: {above}. Below it: {below}."]
    compared = "; ".join(f"{_short(record)}: {_tail_of_ltkd(record)}" for record in records)
    paper = "[its paper](https://arxiv.org/abs/2506.18496)"
    lines += [f"- **LTKD's tail**, which {paper} has well above that of KD and DKD: {compared}."]
    return [*lines, ""]


def _differences(title: str, pairs: dict[str, tuple[str, str]], records: list[dict[str, Any]]) -> Iterator[str]:
    """A table of losses over others, by name, setting by setting."""
    yield f"| {title} | {' | '.join(map(_short, records))} |"
    yield "|---|" + "---|" * len(records)
    for name, pair in pairs.items():
        cells = (" / ".join(map(_bold, _gains(record, *pair).values())) for record in records)
        yield f"| {name} | {' | '.join(cells)} |"


def _tail_of_ltkd(record: dict[str, Any]) -> str:
    return ", ".join(f"{interval(_gains(record, 'LTKD', rival)['tail'])} over {rival}" for rival in ("KD", "DKD"))


def _short(record: dict[str, Any]) -> str:
    kind = "oracle" if record["oracle"] else "biased"
    return f"{record['data']}, {record['imbalance']}, {kind}, {record['student']}"


def _best(record: dict[str, Any], metric: str) -> str:
    means = {name: _accuracies(result)[metric].mean() for name, result in record["losses"].items()}
    return max(means, key=means.__getitem__)


def _not_below_the_best(record: dict[str, Any], metric: str) -> list[str]:
    """The best loss, and those whose difference from it may be chance."""
    best = _best(record, metric)
    return [name for name in record["losses"] if name == best or not _sign(_gains(record, name, best)[metric])]


def _listed(counts: Counter[str], settings: int) -> str:
    """``A in 3 of 4 settings; B in 1``."""
    (first, count), *others = counts.most_common()
    return "; ".join([f"{first} in {count} of {settings} settings", *(f"{name} in {n}" for name, n in others)])


def _always(records: list[dict[str, Any]], metric: str, rival: str, sign: int) -> str:
    """The losses whose difference from a rival has this sign in all settings, beyond chance."""
    names = [name for name in records[0]["losses"] if name != rival]
    found = [name for name in names if all(_sign(_gains(r, name, rival)[metric]) == sign for r in records)]
    return "; ".join(found) or "none"


def _gains(record: dict[str, Any], name: str, rival: str) -> dict[str, np.ndarray]:
    """Points above another loss, one a seed."""
    found, other = _accuracies(record["losses"][name]), _accuracies(record["losses"][rival])
    return {metric: found[metric] - other[metric] for metric in ("overall", "tail")}


def _sign(differences: np.ndarray) -> int:
    """Of the mean; 0 where the confidence interval holds 0."""
    mean = float(differences.mean())
    return 0 if abs(mean) <= _half_width(differences) else int(math.copysign(1, mean))


def _bold(differences: np.ndarray) -> str:
    text = f"{differences.mean():+.1f}"
    return f"**{text}**" if _sign(differences) else text


def _setting(record: dict[str, Any]) -> str:
    kind = "an oracle teacher, trained on all data" if record["oracle"] else "a teacher of the same long-tailed data"
    teacher = record["teacher accuracy"]
    students = "; students in bf16" if record["precision"] == "bf16" else ""
    lines = [
        f"\n## {record['data']}, imbalance {record['imbalance']}, {record['teacher']} -> {record['student']}, {kind}"
        f"{students}\n",
        f"{record['samples']:,} training samples. The teacher: "
        + ", ".join(f"{metric} {100 * teacher[metric]:.1f}" for metric in METRICS)
        + ".\n",
        "| loss | overall | head | medium | tail | overall - KD's | tail - KD's | chosen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in record["losses"].items():
        cells = [f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for values in _accuracies(result).values()]
        cells += ["" if name == "KD" else interval(gain) for gain in _gains(record, name, "KD").values()]
        lines.append(f"| {name} | {' | '.join(cells)} | `{result['chosen']}` |")
    return "\n".join(lines) + "\n" + _at_the_edge(record)


def _at_the_edge(record: dict[str, Any]) -> str:
    """Which losses chose the end of a range, and what the step to it brought: what lies beyond was not tried."""
    losses = record["losses"]
    steps = {name: step for name, result in losses.items() if (step := _step_to_the_edge(result)) is not None}
    said = f"\n{len(steps)} of {len(losses)} losses chose an end of their range of temperatures or learning rates"
    if steps:
        brought = "; ".join(f"{name} {100 * step:+.1f}" for name, step in steps.items())
        said += f". What the step to it brought on validation data, in points: {brought}"
    return f"{said}.\n"


def _step_to_the_edge(result: dict[str, Any]) -> float | None:
    """What the chosen setting gains over the one beside it; None where it has one on both sides."""
    options = {text: tuple(re.findall(r"[=\s]([\d.]+)", text)) for text in result["validated"]}
    varied = [place for place, values in enumerate(zip(*options.values(), strict=True)) if len(set(values)) > 1]
    own = options[result["chosen"]]
    line = [text for text, values in options.items() if all(values[i] == own[i] for i in varied[1:])]
    position = line.index(result["chosen"])
    if 0 < position < len(line) - 1:
        return None
    beside = line[1] if position == 0 else line[-2]
    return result["validated"][result["chosen"]] - result["validated"][beside]


def _accuracies(result: dict[str, Any]) -> dict[str, np.ndarray]:
    """Percentages by metric, one a seed."""
    return {metric: np.array([100 * one[metric] for one in result["tested"]]) for metric in METRICS}


def interval(differences: np.ndarray) -> str:
    """The mean of paired differences and its 95 % confidence interval."""
    return f"{differences.mean():+.1f} ± {_half_width(differences):.1f}"


def _half_width(differences: np.ndarray) -> float:
    return _T95[len(differences) - 1] * differences.std(ddof=1) / math.sqrt(len(differences))
