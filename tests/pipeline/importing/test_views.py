"""TinyViT's and FKD's stores are converted exactly, or refused; what is written here is what these programs write."""

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from kdpipe.pipeline import DistillConfig, distill
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.importing import ImportConfig, import_store
from kdpipe.pipeline.inputs import InputDataset, store_inputs
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import BadLogitsError, CorruptStoreError, KdpipeError, MismatchError, UsageError, open_store
from kdpipe.stores.checks.verify import verify
from PIL import Image

N, C, K, V = 30, 20, 4, 3
IDS = [f"n0{number % 3}/img_{number}.x.JPEG" for number in range(N)]


def chances(view: int) -> np.ndarray:
    """The whole distributions that a teacher gave in one view: (N, C)."""
    logits = np.random.default_rng(view).normal(0, 3, (N, C))
    values = np.exp(logits)
    return values / values.sum(1, keepdims=True)


def best(view: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-chances(view), 1)[:, :K]
    return order, np.take_along_axis(chances(view), order, 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("\n".join(IDS))
    np.save("labels.npy", np.arange(N) % C)
    Path("classes.txt").write_text("\n".join(f"c{number}" for number in range(C)))
    return tmp_path


def config(source: str, **settings: object) -> ImportConfig:
    base = {
        "source": Path(source), "out": Path("out.kd"), "classes": "classes.txt", "labels": "labels.npy",
        "ids": "ids.txt", "chunk_rows": 8,
    }  # fmt: skip
    return ImportConfig(**{**base, **settings})  # pyright: ignore[reportArgumentType]


def write_tinyvit(root: str = "tinyvit", ranks: int = 3) -> str:
    """Records as TinyViT's save_logits.py writes them: shuffled over ranks, one key in two of them."""
    for view in range(V):
        classes, probabilities = best(view)
        order = np.random.default_rng(100 + view).permutation(N)
        place = Path(root) / f"logits_top{K}_epoch{view + 9}"  # epoch 10 comes after 9, not before
        place.mkdir(parents=True)
        for rank, rows in enumerate(np.array_split(order, ranks)):
            own = [*rows, order[0]] if rank == ranks - 1 else rows
            (place / f"rank{rank}-keys.txt").write_text("".join(f"{IDS[row]}\n" for row in own))
            with (place / f"rank{rank}-values.bin").open("wb") as file:
                for row in own:
                    file.write(np.int32(row).tobytes() + classes[row].astype(np.int16).tobytes())
                    file.write(probabilities[row].astype(np.float16).tobytes())
    return root


def crops(row: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every view: top, left, height, width as fractions, and whether it is flipped."""
    corner, size = np.random.default_rng(row).random((2, V, 2)).astype(np.float32) * 0.4 + np.float32(0.1)
    return np.concatenate([corner, size], 1), np.random.default_rng(row + 50).random(V) > 0.5


def write_fkd(root: str = "fkd") -> str:
    """Files as FKD's generate_soft_label.py writes them."""
    for row, name in enumerate(IDS):
        path = Path(root) / name.replace(f"img_{row}.x.JPEG", f"img_{row}.tar")
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = np.stack([np.stack([part[row] for part in best(view)]) for view in range(V)]).astype(np.float32)
        torch.save([*crops(row), labels], path)
    return root


@pytest.mark.parametrize("kind", ["tinyvit", "fkd"])
def test_the_store_says_what_the_source_says(folder: Path, kind: str) -> None:
    manifest = import_store(config(write_tinyvit() if kind == "tinyvit" else write_fkd()))
    assert verify(folder / "out.kd", deep=True).findings == ()
    assert manifest.codec == f"topk:{K},temperatures=1"
    assert (manifest.num_views, manifest.group_rule) == (V, "single")
    assert manifest.teacher.spec == ("imported-views:tinyvit" if kind == "tinyvit" else "imported:fkd")
    store, rounded = open_store("out.kd"), np.float16 if kind == "tinyvit" else np.float32
    for view in range(V):
        classes, probabilities = best(view)
        names = ("top_classes", "top_logits", "logsumexp", "group_logsumexp", "ranks")
        read = store.read(np.arange(N), arrays=names, view=view)
        np.testing.assert_array_equal(read["top_classes"], classes)
        np.testing.assert_array_equal(read["ranks"], classes)
        said = probabilities.astype(rounded).astype(np.float64)
        np.testing.assert_allclose(np.exp(read["top_logits"].astype(np.float64)), said, rtol=2e-6)
        np.testing.assert_allclose(read["logsumexp"][:, 0], np.log(np.maximum(said.sum(1), 1)), atol=1e-7)
        rest = 1 - np.exp(read["top_logits"].astype(np.float64) - read["logsumexp"]).sum(1)
        np.testing.assert_allclose(rest, 1 - chances(view)[np.arange(N)[:, None], classes].sum(1), atol=2e-3)
        np.testing.assert_array_equal(read["group_logsumexp"][:, 0], read["logsumexp"][:, 0])
        if kind == "fkd":
            drawn = store.read(np.arange(N), arrays=("boxes", "flips"), view=view)
            top, left, height, width = np.stack([crops(row)[0][view] for row in range(N)]).T
            np.testing.assert_allclose(drawn["boxes"], np.stack([left, top, left + width, top + height], 1), atol=1e-6)
            assert drawn["flips"][:, 0].tolist() == [crops(row)[1][view] for row in range(N)]
        assert np.isneginf(read["group_logsumexp"][:, 1:]).all()
    samples = store.samples()
    assert samples["sample_id"].to_pylist() == IDS
    truth = -(chances(0) * np.log(chances(0))).sum(1)
    assert (samples["teacher_entropy"].to_numpy() <= truth + 1e-2).all()  # the rest counts as one event
    assert manifest.accuracy is not None
    assert manifest.accuracy.overall == pytest.approx((best(0)[0][:, 0] == np.arange(N) % C).mean())


def test_one_epoch_alone_and_fewer_classes(folder: Path) -> None:
    source = write_tinyvit()
    manifest = import_store(config(f"{source}/logits_top{K}_epoch10", codec="topk:2,temperatures=1"))
    assert manifest.num_views == 1
    read = open_store(folder / "out.kd").read(np.arange(N), arrays=("top_classes", "logsumexp"))
    np.testing.assert_array_equal(read["top_classes"], best(1)[0][:, :2])
    assert (read["logsumexp"] == 0).all()


@pytest.mark.parametrize("codec", ["float16", "topk:4", "topk:4,temperatures=4", "topk:5,temperatures=1"])
def test_what_does_not_follow_is_refused(folder: Path, codec: str) -> None:
    with pytest.raises(UsageError, match="does not follow"):
        import_store(config(write_tinyvit(), codec=codec))
    assert not (folder / "out.kd").exists()


@pytest.mark.parametrize("flags", [{"groups": "thirds"}, {"logits": "z"}, {"rank_depth": 2}])
def test_flags_that_make_no_sense(folder: Path, flags: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="make no sense"):
        import_store(config(write_tinyvit(), **flags))
    assert not (folder / "out.kd").exists()


def test_probabilities_rounded_to_nothing_are_refused_with_a_way_out(folder: Path) -> None:
    source = Path(write_tinyvit(ranks=1)) / f"logits_top{K}_epoch9" / "rank0-values.bin"
    records = np.memmap(source, np.dtype([("seed", "<i4"), ("c", "<i2", (K,)), ("p", "<f2", (K,))]), "r+")
    records["p"][5, 3] = 0
    records.flush()
    with pytest.raises(BadLogitsError, match=r"rounded to 0.*topk:3,temperatures=1"):
        import_store(config("tinyvit"))
    import_store(config("tinyvit", codec="topk:3,temperatures=1", out=folder / "less.kd"))
    assert verify(folder / "less.kd", deep=True).findings == ()


def spoil(field: str, value: object) -> None:
    source = Path("tinyvit") / f"logits_top{K}_epoch9" / "rank1-values.bin"
    records = np.memmap(source, np.dtype([("seed", "<i4"), ("c", "<i2", (K,)), ("p", "<f2", (K,))]), "r+")
    records[field][2] = value
    records.flush()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("c", [1, 2, 3, 20], "outside 0 to 19"),
        ("c", [1, 2, 3, -1], "outside 0 to 19"),
        ("c", [1, 2, 2, 3], "twice"),
        ("p", [0.9, 0.8, 0.1, 0.1], "no probabilities"),
        ("p", [np.nan, 0.1, 0.1, 0.1], "no probabilities"),
        ("p", [0.1, 0.5, 0.1, 0.1], "do not fall"),
    ],
)
def test_records_that_cannot_be(folder: Path, field: str, value: object, message: str) -> None:
    write_tinyvit()
    spoil(field, value)
    with pytest.raises(BadLogitsError, match=message):
        import_store(config("tinyvit"))


def test_broken_folders(folder: Path) -> None:
    source = Path(write_tinyvit())
    Path("ids.txt").write_text("\n".join([*IDS[:-1], "nobody"]))
    with pytest.raises(MismatchError, match=r"1 of 30 sample ids.*'nobody'"):
        import_store(config("tinyvit"))
    Path("ids.txt").write_text("\n".join(IDS))
    values = source / f"logits_top{K}_epoch10" / "rank2-values.bin"
    values.write_bytes(values.read_bytes()[:-1])
    with pytest.raises(CorruptStoreError, match="cut"):
        import_store(config("tinyvit"))
    (source / "logits_top5_epoch20").mkdir()
    (source / "logits_top5_epoch20" / "rank0-keys.txt").write_text("")
    with pytest.raises(UsageError, match="different numbers"):
        import_store(config("tinyvit"))
    (folder / "empty").mkdir()
    with pytest.raises(MismatchError, match="no file of labels"):
        import_store(config("empty"))


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch sprung",)


def test_files_of_fkd_are_data(folder: Path) -> None:
    write_fkd()
    victim = Path("fkd") / "n00" / "img_0.tar"
    for write in (
        lambda: torch.save([1, 2, Trap()], victim),
        lambda: torch.save([1, 2, np.array([Trap()], object)], victim),
        lambda: victim.write_bytes(pickle.dumps(Trap())),
        lambda: victim.write_bytes(b""),
    ):
        write()
        with pytest.raises(KdpipeError):
            import_store(config("fkd"))
        assert not (folder / "sprung").exists()
    labels = np.zeros((V, 2, K), np.float32)
    for content, message in (
        ([*crops(0), np.zeros(V, np.int64)], "hard labels"),
        ([*crops(0), np.zeros((V, C), np.float32)], "hard labels"),
        ({"a": 1}, "no list of crops"),
        ([0, 0, labels], "no list of crops"),
        ([*crops(0), np.zeros((V, 2, K + 1), np.float32)], "with the best"),
        ([crops(0)[0][:2], crops(0)[1], labels], "no crop"),
        ([crops(0)[0], crops(0)[1] + 1, labels], "no crop"),
        ([crops(0)[0] + 0.6, crops(0)[1], labels], "no part of the image"),
        ([crops(0)[0] * np.nan, crops(0)[1], labels], "no part of the image"),
    ):
        torch.save(content, victim)
        with pytest.raises(KdpipeError, match=message):
            import_store(config("fkd"))
    Path("ids.txt").write_text("\n".join(["../../etc/passwd", *IDS[1:]]))
    with pytest.raises(MismatchError, match="no path under"):
        import_store(config("fkd"))


def test_training_from_crops_that_cannot_be_drawn_again_is_refused(folder: Path) -> None:
    samples = load_data("digits,split=train,max_per_class=10")
    ids = samples.sample_ids.to_pylist()
    Path("ids.txt").write_text("\n".join(ids))
    Path("classes.txt").write_text("\n".join(samples.class_names))
    np.save("labels.npy", samples.labels)
    place = folder / "logits_top2_epoch0"
    place.mkdir()
    (place / "rank0-keys.txt").write_text("".join(f"{name}\n" for name in ids))
    record = np.int32(1).tobytes() + np.array([3, 4], np.int16).tobytes() + np.array([0.7, 0.2], np.float16).tobytes()
    (place / "rank0-values.bin").write_bytes(record * len(ids))
    import_store(config(str(place)))
    training = {
        "store": Path("out.kd"), "student": "kdpipe:convnet_tiny", "data": samples.spec, "epochs": 1,
        "loss": ("kd,temperature=1",), "out": Path("run"),
    }  # fmt: skip
    with pytest.raises(MismatchError, match="another program drew"):
        distill(DistillConfig(**training))  # pyright: ignore[reportArgumentType]
    distill(DistillConfig(**training, allow_mismatch="a test"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="temperature 4"):
        distill(DistillConfig(**{**training, "loss": ("kd",), "out": Path("run4")}, allow_mismatch="a test"))  # pyright: ignore


def test_students_see_the_crops_of_fkd(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    for row, name in enumerate(IDS):
        photo, label = (folder / kind / name for kind in ("photos", "labels"))
        for path in (photo, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (60, 90, 3), np.uint8)).save(photo.with_suffix(".png"))
        classes = np.stack([generator.permutation(3)[:2] for _ in range(V)])
        torch.save([*crops(row), np.stack([classes, [[0.7, 0.2]] * V], 1)], label.with_name(f"img_{row}.tar"))
    samples = load_data(f"folder:{folder / 'photos'}")
    Path("ids.txt").write_text("\n".join(samples.sample_ids.to_pylist()))
    Path("classes.txt").write_text("\n".join(samples.class_names))
    np.save("labels.npy", samples.labels)
    import_store(config("labels", preprocess="image,channels=3", size=24))
    store, preprocessing = open_store("out.kd"), Preprocessing(channels=3)
    inputs = store_inputs(store, samples, store.join(InputDataset(samples, preprocessing)), preprocessing)
    for view in range(V):
        for position in (0, 7, 29):
            row = int(samples.sample_ids[position].as_py().partition("_")[2].partition(".")[0])
            # as FKD's students do it
            top, left, height, width = (float(part) for part in crops(row)[0][view] * np.array([60, 90, 60, 90]))
            box = (left, top, left + width, top + height)
            image = samples.raw(position).crop(box).resize((24, 24), Image.Resampling.BILINEAR)
            expected = np.asarray(image).transpose(2, 0, 1) / 255
            expected = expected[:, :, ::-1] if crops(row)[1][view] else expected
            assert np.abs(inputs.at_view(view)[position][0].numpy() - expected).max() < 2.5 / 255
    training = {
        "store": Path("out.kd"), "student": "kdpipe:convnet_tiny", "data": samples.spec, "epochs": 2, "batch_size": 8,
        "loss": ("kd,temperature=1", "grkd"), "out": Path("run"), "workers": 2, "size": 16,
    }  # fmt: skip
    with caplog.at_level(logging.WARNING):
        distill(DistillConfig(**training))  # pyright: ignore[reportArgumentType]
    assert "was imported" in caplog.text
