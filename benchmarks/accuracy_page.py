"""The page docs/results.md, from what benchmarks/accuracy.py measured."""

import math
from typing import Any

import numpy as np

METRICS = ("overall", "head", "medium", "tail")
# two-sided 95 % quantiles of Student's t, by degrees of freedom
_T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def page(document: dict[str, Any]) -> str:
    """The Markdown of all settings."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    parts = [
        "# Which loss, when\n",
        "Written by `make results` (benchmarks/accuracy.py); do not edit. Accuracies in percent on a balanced test set: "
        f"mean and standard deviation over {len(document['seeds'])} seeds. Each loss was tuned on a validation set over "
        "the settings listed in benchmarks/results/accuracy.json, the same number for every loss that has options, with "
        "another seed; the test set chose nothing. All students of a seed begin with the same weights and see the same "
        "batches, so differences are taken in pairs, with 95 % confidence intervals.\n",
        f"{document['epochs']} epochs, batches of {document['batch size']}, SGD with a cosine from "
        f"{document['learning rate']}. {document['date']}, {document['machine']}; {versions}.\n",
        "glyph100 is rendered type, not photographs, and easier than CIFAR-100 (see benchmarks/glyph100.py).\n",
    ]
    return "\n".join(parts) + "".join(_setting(record) for record in document["settings"])


def _setting(record: dict[str, Any]) -> str:
    kind = "an oracle teacher, trained on all data" if record["oracle"] else "a teacher of the same long-tailed data"
    teacher = record["teacher accuracy"]
    lines = [
        f"\n## {record['data']}, imbalance {record['imbalance']}, {record['teacher']} -> {record['student']}, {kind}\n",
        f"{record['samples']:,} training samples. The teacher: "
        + ", ".join(f"{metric} {100 * teacher[metric]:.1f}" for metric in METRICS)
        + f". {record['minutes']} minutes.\n",
        "| loss | overall | head | medium | tail | overall - KD's | tail - KD's | chosen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    kd = _accuracies(record["losses"]["KD"])
    for name, result in record["losses"].items():
        found = _accuracies(result)
        cells = [f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for values in found.values()]
        cells += ["" if name == "KD" else interval(found[metric] - kd[metric]) for metric in ("overall", "tail")]
        lines.append(f"| {name} | {' | '.join(cells)} | `{result['chosen']}` |")
    return "\n".join(lines) + "\n" + _at_the_edge(record)


def _at_the_edge(record: dict[str, Any]) -> str:
    """Which losses chose the last of their settings: more of the same was not tried."""
    tuned = {name: result for name, result in record["losses"].items() if len(result["validated"]) > 1}
    last = [name for name, result in tuned.items() if result["chosen"] == list(result["validated"])[-1]]
    largest = [name for name, result in tuned.items() if _weight(result["chosen"]) == _largest_weight(result)]
    return (
        f"\n{len(largest)} of {len(tuned)} tuned losses chose the larger weight ({', '.join(largest)}), and "
        f"{len(last)} the largest values of both options: beyond, nothing was tried.\n"
    )


def _weight(spec: str) -> float | None:
    options = dict(part.split("=") for part in spec.split(",") if "=" in part)
    return float(options["weight"]) if "weight" in options else None


def _largest_weight(result: dict[str, Any]) -> float:
    return max((_weight(spec) or 0.0) for spec in result["validated"])


def _accuracies(result: dict[str, Any]) -> dict[str, np.ndarray]:
    """Percentages by metric, one a seed; a student that diverged counts as 0."""
    return {metric: np.array([100 * (one[metric] or 0.0) for one in result["tested"]]) for metric in METRICS}


def interval(differences: np.ndarray) -> str:
    """The mean of paired differences and its 95 % confidence interval."""
    half = _T95[len(differences) - 1] * differences.std(ddof=1) / math.sqrt(len(differences))
    return f"{differences.mean():+.1f} ± {half:.1f}"
