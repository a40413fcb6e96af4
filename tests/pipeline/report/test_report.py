"""A report of a store, a run or a sweep: what a path is, what is said of it, and what is refused."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from kdpipe.pipeline.report import ReportConfig, report
from kdpipe.pipeline.report.run_page import run_page
from kdpipe.pipeline.report.run_report import RunReport
from kdpipe.pipeline.report.store_report import StoreReport
from kdpipe.pipeline.report.sweep_report import SweepReport
from kdpipe.pipeline.sweep.leaderboard import leaderboard
from kdpipe.pipeline.sweep.table import Row, write_table
from kdpipe.stores import KdpipeError, MismatchError, RefusedError, UsageError
from kdpipe.stores.manifest import Parent

from .conftest import page_of

# a store


def test_a_store_s_page_says_what_it_is(store: Path) -> None:
    page = page_of(store)
    for words in ("torchvision:resnet50", "folder:photos", "CC-BY-4.0", "float32 (logits, ranks)", "ECE"):
        assert words in page.text
    assert "not finished" not in page.text


def test_a_bias_that_long_tailed_samples_hide_is_said_first(tmp_path: Path, make_store: Callable[..., Any]) -> None:
    """Of 98 samples 2 are of the tail, which gets more than 2 % of the mass, and much less than a third of it."""
    logits = np.tile(np.array([[2.0, 1, 0]], np.float32), (100, 1))
    labels = np.array([0] * 90 + [1] * 8 + [2] * 2)
    make_store(tmp_path / "long.kd", logits, labels, groups=[0, 1, 2], names=["a", "b", "c"], chunk_rows=50)
    first, second, *_ = report(ReportConfig(path=tmp_path / "long.kd", temperatures=(1.0,))).conclusions
    mass = 1 / (1 + np.exp(1) + np.exp(2))
    told = f"the tail gets {100 * mass:.1f} % of the mass,"
    assert first.startswith(f"At T = 1 {told} {mass / 0.02:.2g} times its share of the samples")
    assert second.startswith(
        f"If every class were as frequent: at T = 1 {told} {3 * mass:.2g} times its share of the classes"
    )


@pytest.mark.parametrize(
    "settings",
    [{"codec": "topk:3"}, {"codec": "int8"}, {"arrays": ("ranks",)}, {"arrays": ("logits",)}, {"codec": "float16"}],
    ids=["topk", "int8", "ranks", "logits", "float16"],
)
def test_every_codec_has_a_page(
    settings: dict[str, Any], store: Path, tmp_path: Path, teacher_says: Callable[..., Any],
    make_store: Callable[..., Any],
) -> None:  # fmt: skip
    make_store(tmp_path / "b.kd", *teacher_says(60, 9), **settings)
    page = page_of(tmp_path / "b.kd", against=store)
    assert "Accuracy by class group" in page.text
    assert "Against a.kd" in page.text


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("float32", "Nothing: the codec float32 stores every logit as it came."),
        ("float16", "With float16 the best stored class is the teacher's for 100.00 %"),
        ("topk:3", "At T = 4 the kept classes have"),
    ],
)
def test_a_store_says_what_storing_changed(
    codec: str, words: str, tmp_path: Path, teacher_says: Callable[..., Any], make_store: Callable[..., Any]
) -> None:
    make_store(tmp_path / "b.kd", *teacher_says(60, 9), codec=codec)
    page = page_of(tmp_path / "b.kd")
    assert "What did storing change?" in page.text
    assert words in page.text
    assert "Another best class after storing" not in page.text  # no plot of nothing
    if codec == "float16":
        assert words in report(ReportConfig(path=tmp_path / "b.kd")).conclusions[-1]


def test_a_store_of_several_views_says_which_it_tells_of(
    tmp_path: Path, teacher_says: Callable[..., Any], make_store: Callable[..., Any]
) -> None:
    make_store(tmp_path / "v.kd", *teacher_says(60, 9), num_views=3)
    assert "This report tells of view 0, the first of 3 views of every sample." in page_of(tmp_path / "v.kd").text


def test_an_unfinished_store_is_told_as_far_as_it_goes(
    tmp_path: Path, store: Path, teacher_says: Callable[..., Any], make_store: Callable[..., Any]
) -> None:
    logits, labels = teacher_says(60, 9)
    make_store(tmp_path / "half.kd", logits, labels, chunks=2)
    make_store(tmp_path / "part.kd", logits[:32], labels[:32], ids=[f"{n:05d}" for n in range(32)])
    half, part = (report(ReportConfig(path=tmp_path / name)).numbers for name in ("half.kd", "part.kd"))
    assert isinstance(half, StoreReport)
    assert isinstance(part, StoreReport)
    assert half.rows == 32
    assert msgspec.json.encode(half.samples) == msgspec.json.encode(part.samples)  # JSON, in which NaN equals NaN
    assert msgspec.json.encode(half.payload) == msgspec.json.encode(part.payload)
    page = page_of(tmp_path / "half.kd", against=store)
    assert "first 32 of 60 samples" in page.text


@pytest.mark.parametrize(("rule", "noted"), [("thirds", True), ("counts:100,20", True), ("file:g.csv#0", False)])
def test_groups_by_frequency_say_little_where_classes_are_equally_frequent(
    rule: str, noted: bool, tmp_path: Path, make_store: Callable[..., Any]
) -> None:
    logits, labels = np.random.default_rng(0).normal(size=(90, 9)).astype(np.float32), np.arange(90) % 9
    make_store(tmp_path / "even.kd", logits, labels, group_rule=rule)
    page = page_of(tmp_path / "even.kd")
    assert ("about equally frequent" in page.text) is noted
    # a dot for each class beside the last, not all in one place; and means of groups for a correlation with nothing
    assert "classes, group by group" in page.text
    assert "rank correlation" not in page.text
    right = logits.argmax(1) == labels
    means = [
        100 * np.mean([right[labels == c].mean() for c in group]) for group in (range(3), range(3, 6), range(6, 9))
    ]
    head, medium, tail = (f"{mean:.1f} %" for mean in means)
    assert f"Accuracy is {head} in the head, {medium} in the medium and {tail} in the tail" in page.text


def test_a_store_of_which_nothing_is_written_is_refused(
    tmp_path: Path, teacher_says: Callable[..., Any], make_store: Callable[..., Any]
) -> None:
    make_store(tmp_path / "none.kd", *teacher_says(60, 9), chunks=0)
    with pytest.raises(RefusedError, match="no finished chunk"):
        report(ReportConfig(path=tmp_path / "none.kd"))


def test_a_store_of_two_classes_without_a_tail(tmp_path: Path, make_store: Callable[..., Any]) -> None:
    logits = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    make_store(tmp_path / "two.kd", logits, np.arange(9) % 2, groups=[0, 1])
    page = page_of(tmp_path / "two.kd", temperatures=(2.0,))
    assert "There are no tail classes." in page.text


def test_a_store_of_one_group(tmp_path: Path, make_store: Callable[..., Any], teacher_says: Callable[..., Any]) -> None:
    for name in ("a.kd", "b.kd"):
        make_store(tmp_path / name, *teacher_says(60, 9), groups=[0] * 9)
    page = page_of(tmp_path / "a.kd", against=tmp_path / "b.kd")
    assert "There are no tail classes." in page.text


@pytest.mark.parametrize(("labels", "absent"), [([0] * 6, "tail"), ([2] * 6, "head"), ([1] * 6, "head or tail")])
def test_a_group_without_samples_is_not_judged(
    labels: list[int], absent: str, tmp_path: Path, make_store: Callable[..., Any]
) -> None:
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    make_store(tmp_path / "a.kd", logits, np.array(labels))
    text = page_of(tmp_path / "a.kd").text
    assert f"There are no samples of {absent} classes here." in text
    assert "rank correlation 1.00" not in text
    found = report(ReportConfig(path=tmp_path / "a.kd")).conclusions
    assert len(set(found)) == len(found)
    if "tail" in absent:
        assert "There are no samples of tail classes here to hold their mass against." in found
        assert "There are no samples of tail classes here: whether the teacher knows them cannot be told." in found
        assert not [sentence for sentence in found if "the tail gets" in sentence or "the tail's" in sentence]


def test_mixed_inputs_have_no_calibration(
    tmp_path: Path, make_store: Callable[..., Any], teacher_says: Callable[..., Any]
) -> None:
    mixed = {"arrays": ("logits", "ranks", "mix_rows"), "augmentation": {"mixup": 0.4}}
    make_store(tmp_path / "a.kd", *teacher_says(60, 9), **mixed)
    page = page_of(tmp_path / "a.kd")
    assert "ECE is" not in page.text
    assert "calibration cannot be told" in page.text
    assert page.text.count("whose label does not count here") == 2  # at the head, and at the figure


def test_very_many_classes_make_no_very_large_page(tmp_path: Path, make_store: Callable[..., Any]) -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(3000, 2000)).astype(np.float32), generator.integers(0, 2000, 3000)
    make_store(tmp_path / "many.kd", logits, labels, chunk_rows=1024)
    page = page_of(tmp_path / "many.kd", temperatures=(1.0,))
    assert (tmp_path / "page.html").stat().st_size < 600_000
    assert re.search(r"Shown: \d+ of the [\d,]+ classes", page.text)


def test_a_derived_store_names_its_parents(
    tmp_path: Path, make_store: Callable[..., Any], teacher_says: Callable[..., Any]
) -> None:
    parent = Parent(store_id="0123456789abcdef", receipts=None, change="regrouped by counts:100,20")
    make_store(tmp_path / "child.kd", *teacher_says(60, 9), parents=(parent,))
    assert "0123456789abcdef: regrouped by counts:100,20" in page_of(tmp_path / "child.kd").text


# a run


def test_a_run_beside_a_baseline_and_a_teacher(
    tmp_path: Path, make_run: Callable[..., Path], make_store: Callable[..., Any], teacher_says: Callable[..., Any]
) -> None:
    names = [f"class {number}" for number in range(9)]
    run = make_run(tmp_path / "run", gain=0.1, names=names)
    base = make_run(tmp_path / "base", names=names, loss=["kd"])
    make_store(tmp_path / "val.kd", *teacher_says(60, 9))
    found = report(ReportConfig(path=run, baseline=base, store=tmp_path / "val.kd"))
    head, medium, tail = (f"{name} +10.0" for name in ("head", "medium", "tail"))
    assert found.conclusions[1].startswith(f"Against base: +10.0 points overall ({head}, {medium}, {tail}).")
    assert isinstance(found.numbers, RunReport)
    assert found.numbers.teacher is not None
    assert found.numbers.teacher.same_data
    assert found.conclusions[2].startswith("Against the teacher: ")
    page = page_of(run, baseline=base, store=tmp_path / "val.kd")
    assert "Change against base, class by class" in page.text
    figures = {figure.title: figure for section in run_page(found.numbers).sections for figure in section.figures}
    change = figures["Change against base, class by class"]
    assert "in points" in change.plot
    assert "%" not in change.plot
    assert change.table.rows[0][3] == "10"
    assert "Change against the teacher, class by class" in page.text


def test_a_teacher_on_other_samples_is_not_compared_in_silence(
    tmp_path: Path, make_run: Callable[..., Path], make_store: Callable[..., Any], teacher_says: Callable[..., Any]
) -> None:
    run = make_run(tmp_path / "run", names=[f"class {number}" for number in range(9)], val="folder:others")
    make_store(tmp_path / "train.kd", *teacher_says(60, 9))
    page = page_of(run, store=tmp_path / "train.kd")
    assert "they do not compare" in page.text
    assert "Change against the teacher" not in page.text


def test_secrets_of_a_run_are_not_shown(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "run", val="hf:team/photos,token=abc123", data="parquet:https://me:pw@host/x?sig=abc123")
    found = report(ReportConfig(path=run, out=tmp_path / "page.html"))
    shown = (tmp_path / "page.html").read_text(encoding="utf-8") + msgspec.json.encode(found.numbers).decode()
    assert "hf:team/photos" in shown
    assert "abc123" not in shown
    assert "pw" not in shown


def test_what_limits_a_report_leads_its_conclusions(
    tmp_path: Path, make_store: Callable[..., Any], make_run: Callable[..., Path], make_sweep: Callable[..., Path],
    teacher_says: Callable[..., Any],
) -> None:  # fmt: skip
    done, half = make_run(tmp_path / "done"), make_run(tmp_path / "half", epochs=2, finished=False, by_class=False)
    names = [f"class {number}" for number in range(9)]
    elsewhere = make_run(tmp_path / "elsewhere", names=names, val="folder:others")
    for name, options in (("half.kd", {"chunks": 2}), ("whole.kd", {})):
        make_store(tmp_path / name, *teacher_says(60, 9), **options)
    told: dict[str, dict[str, Any]] = {
        "This store is not finished: this report tells of its first 32 of 60": {"path": tmp_path / "half.kd"},
        "This run is not finished: this report tells of its first 2 of 6 epochs.": {"path": half},
        "The baseline half is not finished, it has 2 of 6 epochs: the": {"path": done, "baseline": half},
        "The teacher's figures are on folder:photos, the run's on": {"path": elsewhere, "store": tmp_path / "whole.kd"},
        "Not every trial is done: 18 done, 6 failed.": {"path": make_sweep(tmp_path / "sweep", state="failed")},
    }
    for sentence, options in told.items():
        assert report(ReportConfig(**options)).conclusions[0].startswith(sentence)
        assert page_of(**options).text.count(sentence) == 1
    assert not report(ReportConfig(path=done, baseline=done)).conclusions[0].startswith("The baseline")
    assert "keeps no results by class" in page_of(half).text


def test_a_run_without_an_epoch_is_refused(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "run", epochs=0)
    with pytest.raises(RefusedError, match="no finished epoch"):
        report(ReportConfig(path=run))


def test_a_baseline_that_is_no_run_is_refused(tmp_path: Path, make_run: Callable[..., Path], store: Path) -> None:
    run = make_run(tmp_path / "run")
    for other in (store, tmp_path / "nowhere"):
        with pytest.raises(RefusedError, match="is no run: it has no metrics"):
            report(ReportConfig(path=run, baseline=other))


def test_a_baseline_of_other_classes_is_refused(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other", names=tuple("uvwxyz"))
    with pytest.raises(MismatchError, match="classes"):
        report(ReportConfig(path=run, baseline=other))


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "classes.parquet"])
def test_a_damaged_run_is_an_error_that_names_the_file(
    name: str, tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_bytes(b"{not this")
    with pytest.raises(KdpipeError, match=name):
        report(ReportConfig(path=run))


# a sweep


def test_a_sweep_names_its_best(tmp_path: Path, make_sweep: Callable[..., Path]) -> None:
    found = report(ReportConfig(path=make_sweep(tmp_path / "sweep")))
    assert isinstance(found.numbers, SweepReport)
    assert found.numbers.varied == ("student", "loss", "seed", "lr")
    best = found.numbers.finished[0]
    assert best.loss == "ltkd,alpha=2"
    assert best.overall == max(row.overall or 0 for row in found.numbers.trials)
    assert found.numbers.store_ids == ("0" * 16,)
    first = found.numbers.standings[0]
    same = [row.overall for row in found.numbers.trials if row.point == best.point]
    assert first.mean["overall"] == pytest.approx(sum(value or 0 for value in same) / len(same))
    assert "loss ltkd,alpha=2" in found.conclusions[0]
    page = page_of(tmp_path / "sweep")
    links = [each["href"] for each in page.all("a") if (each.get("href") or "").startswith("#trial-")]
    anchors = {each["id"] for each in page.all("tr") if "id" in each}
    assert len(links) == 24
    assert "Store id" in page.text
    assert "0" * 16 in page.text
    assert {str(link)[1:] for link in links} <= anchors


def test_of_equal_settings_the_earlier_wins_as_in_the_sweep(tmp_path: Path) -> None:
    """Both have a mean of 0.5; the later one has the best trial."""
    rows = [
        Row(id=f"{place:04d}", state="done", student="s", loss=loss, seed=place % 2, overall=overall, path="runs/x")
        for place, (loss, overall) in enumerate([("kd", 0.5), ("kd", 0.5), ("ltkd", 0.25), ("ltkd", 0.75)])
    ]
    (tmp_path / "config.json").write_text('{"metric": "overall"}')
    write_table(tmp_path, rows, [])
    found = report(ReportConfig(path=tmp_path))
    assert isinstance(found.numbers, SweepReport)
    assert list(found.numbers.standings) == leaderboard(rows, "overall")
    assert found.conclusions[0].startswith("The best setting is loss kd:")


def test_a_sweep_of_one_trial_is_not_compared(tmp_path: Path, make_sweep: Callable[..., Path]) -> None:
    found = report(ReportConfig(path=make_sweep(tmp_path / "sweep", trials=1)))
    assert len(found.conclusions) == 1
    assert "80.6 % overall accuracy" in found.conclusions[0]
    assert "Which settings matter?" not in page_of(tmp_path / "sweep").text


def test_a_sweep_in_progress_counts_its_states(tmp_path: Path, make_sweep: Callable[..., Path]) -> None:
    page = page_of(make_sweep(tmp_path / "sweep", state="failed"))
    assert "18 done, 6 failed" in page.text
    assert "out of memory" in page.text


# what a path is, and options


def test_what_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no store, run or sweep"):
        report(ReportConfig(path=tmp_path))


@pytest.mark.parametrize(
    ("kind", "option", "words"),
    [
        ("store", "baseline", "--against, --temperature"),
        ("store", "store", "--against, --temperature"),
        ("run", "against", "--baseline, --store"),
        ("sweep", "baseline", "no such option"),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    kind: str, option: str, words: str, store: Path, tmp_path: Path, make_run: Callable[..., Path],
    make_sweep: Callable[..., Path],
) -> None:  # fmt: skip
    path = {
        "store": lambda: store,
        "run": lambda: make_run(tmp_path / "r"),
        "sweep": lambda: make_sweep(tmp_path / "s"),
    }
    with pytest.raises(UsageError, match=words):
        report(replace(ReportConfig(path=path[kind]()), **{option: tmp_path}))  # pyright: ignore


@pytest.mark.parametrize(
    "config",
    [{"out": Path("page.pdf")}, *({"temperatures": (value,)} for value in (0.0, 0.009, 1001.0, float("nan")))],
)
def test_bad_settings_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ReportConfig(path=tmp_path, **config)
