"""Folders of images: what counts as an image, in which order, with which class, and how pixels are read."""

from pathlib import Path

import numpy as np
import pytest
from kdpipe.pipeline.data import load_data
from kdpipe.stores.errors import BadSampleError, UsageError
from PIL import Image


def save(path: Path, image: Image.Image | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (4, 3), (9, 8, 7))).save(path)
    return path


def ids_of(spec: str) -> list[str]:
    return load_data(spec).sample_ids.to_pylist()


def test_images_at_any_depth_are_found_in_order_and_other_files_left(tmp_path: Path) -> None:
    for name in ("dog/b.png", "dog/a.jpg", "dog/deep/er/c.PNG", "cat/z.bmp"):
        save(tmp_path / name)
    save(tmp_path / "stray.png")
    (tmp_path / "dog" / "notes.txt").write_text("x")
    (tmp_path / "dog" / "folder.png").mkdir()
    samples = load_data(f"folder:{tmp_path}")
    assert samples.sample_ids.to_pylist() == ["cat/z.bmp", "dog/a.jpg", "dog/b.png", "dog/deep/er/c.PNG"]
    assert samples.labels.tolist() == [0, 1, 1, 1]
    assert samples.class_names == ("cat", "dog")
    assert samples.class_counts.tolist() == [1, 3]
    assert np.asarray(samples.raw(2)).tolist() == [[[9, 8, 7]] * 4] * 3


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat/a.png", "cat/b.png", "cat/c/a.png"):
        save(tmp_path / name)
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: sorted(listed(self, pattern), reverse=True))
    assert ids_of(f"folder:{tmp_path}") == ["cat/a.png", "cat/b.png", "cat/c/a.png"]


def test_ids_do_not_depend_on_where_the_folder_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("one", "two"):
        save(tmp_path / root / "cat" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert ids_of("folder:one") == ids_of("folder:two") == ids_of(f"folder:{tmp_path / 'one'}/") == ["cat/a.png"]


def test_a_folder_that_gives_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        load_data(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(UsageError, match="is not a folder"):
        load_data("folder:")
    with pytest.raises(UsageError, match="no sub-folders"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "cat").mkdir()
    with pytest.raises(UsageError, match="no images in them"):
        load_data(f"folder:{tmp_path}")


def test_a_class_without_images_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "ant" / "0.png")
    assert load_data(f"folder:{tmp_path}").class_names == ("ant",)
    assert not caplog.text
    (tmp_path / "cache").mkdir()
    assert load_data(f"folder:{tmp_path}").class_names == ("ant", "cache")
    assert "no images in cache, which are classes all the same" in caplog.text


def test_a_class_list_sets_numbers_and_may_name_more(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("ant/0.png", "dog/0.png"):
        save(data / name)
    classes = tmp_path / "classes.txt"
    classes.write_text("dog\n\n emu \nant\ncat")
    samples = load_data(f"folder:{data},classes={classes}")
    assert samples.class_names == ("dog", "emu", "ant", "cat")
    assert dict(zip(samples.sample_ids.to_pylist(), samples.labels.tolist(), strict=True)) == {
        "ant/0.png": 2,
        "dog/0.png": 0,
    }
    classes.write_text("dog\r\nemu\r\nant\r\n", encoding="utf-8-sig")  # as Windows writes it
    assert load_data(f"folder:{data},classes={classes}").class_names == ("dog", "emu", "ant")
    classes.write_text("dog\naunt\n")
    with pytest.raises(UsageError, match=r"'ant'. Did you mean 'aunt'"):
        load_data(f"folder:{data},classes={classes}")
    classes.write_text("dog\nant\ndog\n")
    with pytest.raises(UsageError, match="names a class twice"):
        load_data(f"folder:{data},classes={classes}")
    with pytest.raises(UsageError, match=r"no\.txt cannot be read"):
        load_data(f"folder:{data},classes={tmp_path / 'no.txt'}")


def test_a_path_with_commas_and_equals_signs_can_be_named(tmp_path: Path) -> None:
    save(tmp_path / "a,b=c" / "cat" / "x.png")
    assert ids_of(f"folder:{tmp_path}/a\\,b=c") == ["cat/x.png"]


# --- pixels

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def read(tmp_path: Path, image: Image.Image, suffix: str = ".png") -> Image.Image:
    save(tmp_path / "c" / f"x{suffix}", image)
    return load_data(f"folder:{tmp_path}").raw(0)


def test_grey_and_colour_pixels_are_read_as_they_are(tmp_path: Path) -> None:
    grey = read(tmp_path, Image.fromarray(RAMP))
    assert grey.mode == "L"
    np.testing.assert_array_equal(np.asarray(grey), RAMP)
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    colour = read(tmp_path, Image.fromarray(colours))
    assert colour.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(colour), colours)
    assert np.asarray(read(tmp_path, Image.fromarray(RAMP > 99))).max() == 255


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    wide = read(tmp_path, Image.fromarray(RAMP.astype(np.uint16) * 257), suffix)
    assert wide.mode == "L"
    np.testing.assert_array_equal(np.asarray(wide), RAMP)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_range_are_refused(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(BadSampleError, match="no fixed range"):
        read(tmp_path, Image.fromarray(RAMP.astype(dtype)), ".tif")


def test_palettes_transparency_and_print_colours_become_rgb(tmp_path: Path) -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:4] = (200, 30, 60)
    image = Image.fromarray(colours)
    for suffix, other in (
        (".png", image.quantize(4)),
        (".png", image.convert("RGBA")),
        (".tif", image.convert("CMYK")),
    ):
        got = read(tmp_path, other, suffix)
        assert got.mode == "RGB"
        assert np.abs(np.asarray(got).astype(int) - colours).max() <= 4
        (tmp_path / "c" / f"x{suffix}").unlink()
    assert read(tmp_path, Image.fromarray(np.stack([RAMP, RAMP], -1), "LA")).mode == "RGB"


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path = save(tmp_path / "cat" / "bad.png", noise)
    whole = path.read_bytes()
    for content in (b"", b"not an image", whole[: len(whole) // 2], whole[:30]):
        path.write_bytes(content)
        samples = load_data(f"folder:{tmp_path}")
        with pytest.raises(BadSampleError, match=r"cat/bad\.png cannot be read as an image"):
            samples.raw(0)
    path.unlink()
    with pytest.raises(BadSampleError, match=r"cat/bad\.png"):
        samples.raw(0)
