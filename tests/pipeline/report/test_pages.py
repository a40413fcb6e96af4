"""Every page, whatever it is of: safe, alone in one file, told in words and numbers, the same each time."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kdpipe.pipeline.report import ReportConfig, report

from .conftest import page_of

HOSTILE = "<script>alert('x')</script>&\"'"


@pytest.fixture(params=["store", "run", "sweep"])
def hostile(
    request: pytest.FixtureRequest, tmp_path: Path, make_store: Callable[..., Any], make_run: Callable[..., Path],
    make_sweep: Callable[..., Path], teacher_says: Callable[..., Any],
) -> Path:  # fmt: skip
    """A store, a run and a sweep in which everything that others can write is markup."""
    if request.param == "store":
        names = [f"{number}{HOSTILE}" for number in range(9)]
        store = make_store(tmp_path / "x.kd", *teacher_says(60, 9), names=names, note=HOSTILE, owner=HOSTILE)
        return store.path
    if request.param == "run":
        return make_run(tmp_path / "x", names=[f"{number}{HOSTILE}" for number in range(6)], student=HOSTILE)
    return make_sweep(tmp_path / "x", loss=HOSTILE)


def test_nothing_of_others_becomes_markup(hostile: Path) -> None:
    page = page_of(hostile)
    assert page.all("script") == []
    assert "alert('x')" in page.text
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_a_page_needs_nothing_from_elsewhere(hostile: Path) -> None:
    page = page_of(hostile)
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "object", "script", "image", "use")]
    links = [attributes.get("href") for _, attributes in page.tags if "href" in attributes]
    assert all((link or "").startswith("#") for link in links)
    assert "url(" not in page.text
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_plot_has_words_and_numbers(hostile: Path) -> None:
    page = page_of(hostile)
    plots = [each for each in page.all("svg") if "role" in each]
    assert len(plots) == len(page.all("figure")) == len(page.all("details")) > 2
    assert all(len(each["aria-label"] or "") > 20 for each in plots)
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(str(link["href"])[1:] in ids for link in page.all("a"))


def test_the_same_report_is_the_same_bytes(hostile: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("1.html", "2.html"):
        report(ReportConfig(path=hostile, out=tmp_path / "new" / name))
        pages.append((tmp_path / "new" / name).read_bytes())
    assert pages[0] == pages[1]
    assert not re.search(rb"\bnan\b", pages[0], re.IGNORECASE)


def test_the_numbers_are_json(hostile: Path) -> None:
    numbers = report(ReportConfig(path=hostile)).numbers
    body = json.loads(msgspec.json.encode(numbers, enc_hook=str))
    assert body.keys() == {field.name for field in dataclasses.fields(numbers)}


def test_nothing_is_written_beside_the_page(store: Path, tmp_path: Path) -> None:
    before = sorted(store.rglob("*"))
    page_of(store)
    shutil.copy(tmp_path / "page.html", tmp_path / "first.html")
    page_of(store)  # again, over the page that is there
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "page.html").read_bytes()
    assert sorted(store.rglob("*")) == before
