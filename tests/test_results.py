"""docs/results.md is what its script writes of benchmarks/results/accuracy.json, and what it says is so."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[1]
DOCUMENT = json.loads((ROOT / "benchmarks" / "results" / "accuracy.json").read_text())
PAGE = (ROOT / "docs" / "results.md").read_text()


def test_the_page_is_that_of_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert importlib.import_module("accuracy_page").page(DOCUMENT) == PAGE


def test_every_loss_was_tuned_and_tested_alike() -> None:
    protocol = DOCUMENT["protocol"]
    for record in DOCUMENT["settings"]:
        assert record["losses"].keys() == protocol["losses"].keys()
        for result in record["losses"].values():
            assert len(result["validated"]) == len(protocol["learning rates"])
            assert result["validated"][result["chosen"]] == max(result["validated"].values())
            assert len(result["tested"]) == len(protocol["seeds"])


def of(record: dict[str, Any], loss: str, metric: str) -> np.ndarray:
    return np.array([100 * run[metric] for run in record["losses"][loss]["tested"]])


@pytest.mark.parametrize("rival", ["KD", "DKD"])
def test_intervals_are_those_of_a_paired_t_test(rival: str) -> None:
    for record in DOCUMENT["settings"]:
        pairs = of(record, "LTKD", "tail"), of(record, rival, "tail")
        low, high = stats.ttest_rel(*pairs).confidence_interval(0.95)
        assert f"{(low + high) / 2:+.1f} ± {(high - low) / 2:.1f} over {rival}" in PAGE


def test_what_is_above_a_rival_everywhere_is_named() -> None:
    [line] = [line for line in PAGE.split("- **tail**")[1].splitlines() if "Against KD" in line]
    named = line.split("beyond chance: ")[1].split(". Below")[0].split("; ")
    found = [
        loss
        for loss in DOCUMENT["protocol"]["losses"]
        if loss != "KD"
        and all(
            stats.ttest_rel(of(record, loss, "tail"), of(record, "KD", "tail")).confidence_interval(0.95).low > 0
            for record in DOCUMENT["settings"]
        )
    ]
    assert named == (found or ["none"])
