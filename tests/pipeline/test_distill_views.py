"""Students on augmented views: what they are given is exactly what the teacher saw, view by view, or they are refused."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, distill, extract
from kdpipe.pipeline.augment import Augmentation, AugmentedView
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.losses import Objective
from kdpipe.pipeline.training.training_data import TrainingData, lay_out
from kdpipe.pipeline.views import Preprocessing, input_digest
from kdpipe.stores import MismatchError, RefusedError, UsageError, open_store
from kdpipe.stores.manifest import Receipt, replace
from kdpipe.stores.probe import LibraryProbe
from ranked import run_ranks
from safetensors.torch import load_file
from viewed import CODE, CPU, DATA, MIXED, SPECS, config, data_of, digests, teacher_of, write_digests


@pytest.mark.parametrize("name", SPECS)
def test_replay_depends_on_nothing_but_sample_and_view(view_stores: dict[str, Path], name: str) -> None:
    expected = {}
    samples = load_data(DATA)
    view = AugmentedView(
        augmentation=Augmentation.parse(SPECS[name]),
        preprocessing=Preprocessing.parse("image,mean=0.5,std=0.25"),
        view=1,
    )
    ids = samples.sample_ids.to_pylist()
    inputs = view.batch(torch.stack([samples.raw(i) for i in range(120)]), ids)
    if view.augmentation.mixes:
        mixing = view.mixing(ids, 120)
        inputs = view.mixed(inputs, inputs[mixing.rows], mixing)
    expected = {name: input_digest(row) for name, row in zip(ids, inputs, strict=True)}
    shuffled = samples.select(np.random.default_rng(3).permutation(120))
    longer = load_data("digits,split=train")
    cases: list[dict[str, Any]] = [
        {"batch_size": 1}, {"batch_size": 256}, {"workers": 1}, {"workers": 4, "batch_size": 7}, {"order": "chunks"},
        {"samples": shuffled}, {"samples": longer, "seed": 5},
    ]  # fmt: skip
    for changes in cases:
        found = digests(data_of(view_stores[name], **changes), epoch=1)
        assert found.items() <= expected.items()
        assert len(found) >= 120 - 31  # the last batch is left out


@pytest.mark.parametrize("name", SPECS)
def test_two_processes_are_given_the_same_as_one(view_stores: dict[str, Path], tmp_path: Path, name: str) -> None:
    assert run_ranks(2, write_digests, view_stores[name], tmp_path) == [0, 0]
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (len(one), len(other)) == (60, 60)
    assert {**one, **other} == digests(data_of(view_stores[name], batch_size=40), epoch=2)


@pytest.mark.parametrize("placement", ["mmap", "ram"])
def test_each_epoch_reads_what_the_teacher_said_of_its_inputs(view_stores: dict[str, Path], placement: str) -> None:
    data = data_of(view_stores["mixed"], placement=placement)
    assert data.num_views == 3
    for epoch in (0, 1, 2, 4):
        for batch in data.epoch(epoch, 0, pin_memory=False):
            assert batch.view == epoch % 3
            targets = data.targets(batch)
            torch.testing.assert_close(targets["logits"], teacher_of(batch.inputs), rtol=1e-5, atol=1e-5)
            assert batch.partner_labels is not None
            assert torch.equal(targets["mixed_labels"], torch.stack([batch.labels, batch.partner_labels], dim=1))


def test_no_more_than_one_view_is_kept_open(view_stores: dict[str, Path]) -> None:
    data = data_of(view_stores["rrc"])
    targets: Any = data.targets
    for epoch in range(4):
        for batch in data.epoch(epoch, 0, pin_memory=False):
            targets(batch)
            assert {view for _, view in targets._store._mapped} == {epoch % 3}


@pytest.mark.parametrize("name", SPECS)
def test_as_many_views_as_epochs_train_as_the_live_teacher_does(
    view_stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    distill(config(view_stores[name], tmp_path / "stored"))
    from kdpipe.pipeline.training.training_data import TrainingData as Data

    def live(self: Data, *arguments: Any, **options: Any) -> Any:
        for batch in epoch(self, *arguments, **options):
            yield dataclasses.replace(batch, drawn={"live": teacher_of(batch.inputs).numpy()})

    def from_teacher(*arguments: Any) -> TrainingData:
        data = lay_out(*arguments)
        stored = data.targets
        return dataclasses.replace(
            data, targets=lambda batch: {**stored(batch), "logits": torch.from_numpy(batch.drawn["live"])}
        )

    epoch = Data.epoch
    monkeypatch.setattr(Data, "epoch", live)
    monkeypatch.setattr(sys.modules[distill.__module__], "lay_out", from_teacher)
    distill(config(view_stores[name], tmp_path / "live"))
    one, other = (load_file(tmp_path / run / "student.safetensors") for run in ("stored", "live"))
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-5)


def test_a_run_that_is_gone_on_with_in_another_view_ends_the_same(view_stores: dict[str, Path], tmp_path: Path) -> None:
    from kdpipe.pipeline.distill import distill_cohort

    distill(config(view_stores["mixed"], tmp_path / "once"))
    for until in (1, 2, None):
        distill_cohort([config(view_stores["mixed"], tmp_path / "parts")], until=until)
    weights = [(tmp_path / run / "student.safetensors").read_bytes() for run in ("once", "parts")]
    assert weights[0] == weights[1]


def test_fewer_views_come_round_again(view_stores: dict[str, Path]) -> None:
    data = data_of(view_stores["rrc"], views=2, epochs=9)
    views = [next(iter(data.epoch(epoch, 0, pin_memory=False))).view for epoch in range(5)]
    assert views == [0, 1, 0, 1, 0]


def test_another_size_keeps_the_crops(view_stores: dict[str, Path]) -> None:
    data = data_of(view_stores["rrc"], size=20)
    assert data.dataset.preprocessing.crop == 20
    batch = next(iter(data.epoch(1, 0, pin_memory=False)))
    assert batch.inputs.shape == (32, 1, 20, 20)
    store = open_store(view_stores["rrc"])
    rows = np.searchsorted(store.samples(["row"])["row"].to_numpy(), batch.positions)
    read = store.read(rows, arrays=("boxes", "flips"), view=1)
    np.testing.assert_array_equal(read["boxes"], batch.drawn["boxes"])
    np.testing.assert_array_equal(read["flips"], batch.drawn["flips"])


def test_a_student_of_another_size_is_validated_and_recorded_at_it(
    view_stores: dict[str, Path], tmp_path: Path
) -> None:
    from kdpipe.pipeline.model_card import ModelCard

    result = distill(config(view_stores["rrc"], tmp_path / "run", size=12, epochs=1, val="digits,split=test"))
    assert result.summary["val"]["overall"] >= 0
    card = ModelCard.of_weights(str(tmp_path / "run" / "student.safetensors"))
    assert card is not None
    assert (card.preprocessing.resize, card.preprocessing.crop) == (12, 12)


@pytest.mark.parametrize(
    ("resize", "crop", "wanted"), [(256, 224, (183, 160)), (None, None, (160, 160)), (None, 224, (160, 160))]
)
def test_preprocessing_at_another_size(resize: int | None, crop: int | None, wanted: tuple[int, int]) -> None:
    scaled = Preprocessing(resize=resize, crop=crop, mean=(0.5,)).at_size(160)
    assert (scaled.resize, scaled.crop, scaled.mean) == (*wanted, (0.5,))


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("rrc", {"views": 4}, r"--views is 4, and .* has 3"),
        ("plain", {"views": 1}, "--views is about augmented views"),
        ("plain", {"size": 9}, "--size is about augmented views"),
    ],
)
def test_views_that_are_not_there_are_refused(
    view_stores: dict[str, Path], name: str, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        data_of(view_stores[name], **changes)


@pytest.mark.parametrize("name", ["views", "size"])
def test_numbers_below_one_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--{name} is 0"):
        config(tmp_path, tmp_path, **{name: 0})


def test_libraries_that_draw_otherwise_are_refused_and_named(
    view_stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = LibraryProbe(digest="other", libraries={"torch": "99.0"})
    monkeypatch.setattr("kdpipe.pipeline.alignment.take_probe", lambda _: other)
    with pytest.raises(MismatchError, match=r"torch .* then, 99\.0 now.*--allow-mismatch"):
        data_of(view_stores["rrc"])
    data_of(view_stores["rrc"], allow_mismatch="we know")
    assert "we know" in caplog.text


@pytest.mark.parametrize("view", [0, 1, 2])
def test_inputs_that_differ_in_any_view_are_refused(view_stores: dict[str, Path], tmp_path: Path, view: int) -> None:
    from shutil import copytree

    from kdpipe.stores.writer import receipts_checksum

    root = copytree(view_stores["rrc"], tmp_path / "changed.kd")
    manifest = open_store(root).manifest
    chunk = view * manifest.grid.chunks_per_view
    receipt = Receipt.read(root, manifest.grid, chunk)
    inputs = tuple(dataclasses.replace(one, digest="blake2b-128:00") for one in receipt.inputs)
    dataclasses.replace(receipt, inputs=inputs).write(root)
    replace(manifest, receipts=receipts_checksum(root, manifest)).write(root)
    with pytest.raises(MismatchError, match=f"inputs are not what the teacher saw .rows 0 in view {view}"):
        data_of(root)


def test_a_remote_store_trains_the_same_student(view_stores: dict[str, Path], tmp_path: Path, bucket: str) -> None:
    from kdpipe.stores.remote.pull import pull
    from kdpipe.stores.remote.push import push

    push(view_stores["mixed"], f"{bucket}/mixed.kd")
    for number, store in enumerate((view_stores["mixed"], f"{bucket}/mixed.kd")):
        distill(config(store, tmp_path / str(number), order="chunks", cache=tmp_path / "cache"))  # pyright: ignore[reportArgumentType]
    assert (tmp_path / "0" / "student.safetensors").read_bytes() == (
        tmp_path / "1" / "student.safetensors"
    ).read_bytes()
    pull(f"{bucket}/mixed.kd", tmp_path / "back.kd")
    assert open_store(tmp_path / "back.kd").manifest == open_store(view_stores["mixed"]).manifest


def test_views_added_since_need_another_address(tmp_path: Path, view_stores: dict[str, Path], bucket: str) -> None:
    from shutil import copytree

    from kdpipe.stores.remote.push import push

    root = copytree(view_stores["rrc"], tmp_path / "d.kd")
    push(root, f"{bucket}/d.kd")
    (tmp_path / "replayed_views.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(tmp_path)
        settings: dict[str, Any] = {"data": DATA, "teacher": "python:replayed_views:teacher", "codec": "float32"}
        extract(ExtractConfig(**settings, out=root, augment=SPECS["rrc"], views=4, chunk_rows=16))
    with pytest.raises(RefusedError, match="or one of other content"):
        push(root, f"{bucket}/d.kd")
    push(root, f"{bucket}/four.kd")
    remote = open_store(f"{bucket}/four.kd", cache=tmp_path / "cache")
    assert remote.read([0], view=3)["logits"].shape == (1, 10)


@pytest.mark.parametrize("name", SPECS)
def test_without_a_store_each_epoch_draws_its_own_view(name: str) -> None:
    samples, preprocessing = load_data(DATA), Preprocessing()
    settings = DistillConfig(
        student="kdpipe:convnet_tiny", data=DATA, out=Path("unused"), augment=SPECS[name], seed=1, data_seed=7,
        batch_size=120, workers=0,
    )  # fmt: skip
    data = lay_out(settings, None, samples, preprocessing, [Objective.parse(("ce",))], CPU)
    augmentation = dataclasses.replace(Augmentation.parse(SPECS[name]), seed=7)
    for epoch in (0, 5):
        view = AugmentedView(augmentation=augmentation, preprocessing=preprocessing, view=epoch)
        (batch,) = data.epoch(epoch, 0, pin_memory=False)
        ids = [samples.sample_ids[int(position)].as_py() for position in batch.positions]
        inputs = view.batch(torch.stack([samples.raw(int(position)) for position in batch.positions]), ids)
        if augmentation.mixes:
            rows = view.mixing(ids, 120).rows
            both = np.stack([batch.labels, samples.labels[rows]], axis=1)
            assert data.targets(batch)["mixed_labels"].tolist() == both.tolist()
        else:
            assert torch.equal(batch.inputs, inputs)


def test_a_teacher_is_trained_on_live_views(tmp_path: Path) -> None:
    runs = [
        DistillConfig(
            student="kdpipe:convnet_tiny", data=DATA, val="digits,split=test", augment=MIXED, epochs=2, seed=seed,
            out=tmp_path / f"{number}", workers=0,
        )
        for number, seed in enumerate((0, 0, 1))
    ]  # fmt: skip
    for run in runs:
        distill(run)
    one, again, other = ((run.out / "student.safetensors").read_bytes() for run in runs)
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"store": Path("a.kd"), "augment": MIXED}, "what its teacher saw"),
        ({"augment": f"{MIXED},seed=3"}, "follow --seed"),
        ({"augment": "crop-flop"}, "Did you mean 'crop-flip'"),
        ({"views": 2}, "about a store's augmented views"),
    ],
    ids=str,
)
def test_live_views_and_stored_ones_are_not_mixed_up(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        DistillConfig(**{"student": "kdpipe:convnet_tiny", "data": DATA, "out": Path("unused"), **changes})
