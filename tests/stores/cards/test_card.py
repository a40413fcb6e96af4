"""The card says what the manifest says, and nothing that is written into a store acts as markup."""

import json
from pathlib import Path

import pytest
from kdpipe.stores import RefusedError, open_store
from kdpipe.stores import manifest as manifests
from kdpipe.stores.cards.card import card, store_of_card
from kdpipe.stores.cards.croissant import croissant
from kdpipe.stores.cards.write import write_card

HOSTILE = "a|b\n---\n# [x](http://x) <script>alert(1)</script> `y`"


@pytest.fixture
def path(tmp_path: Path, content) -> Path:
    content().write(tmp_path / "a.kd").finish()
    return tmp_path / "a.kd"


def test_front_matter_and_facts(path):
    store = open_store(path)
    text = card(store)
    _, front, body = text.split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert json.loads(fields["license"]) == (store.manifest.licence or "unknown")
    assert json.loads(fields["size_categories"]) == ["n<1K"]
    assert store.manifest.store_id in body
    assert f"{store.manifest.num_classes:,} classes" in body
    for array in store.manifest.arrays:
        assert f"| {array.name} | {array.dtype} |" in body
    assert "unfinished" not in body


def test_what_people_wrote_is_not_markup(path):
    store = open_store(path)
    store.manifest = manifests.replace(store.manifest, note=HOSTILE, owner=HOSTILE, licence=HOSTILE)
    text = card(store)
    assert "<script>" not in text.replace("\\<script\\>", "").split("---\n", 2)[2]
    assert len([line for line in text.splitlines() if line == "---"]) == 2
    assert not [line for line in text.splitlines() if line.startswith("# ") and "script" in line]


def test_an_unfinished_store_says_so(tmp_path, content):
    content().write(tmp_path / "b.kd")
    manifest = (tmp_path / "b.kd" / "manifest.json").read_text()
    assert '"writing"' in manifest
    assert "unfinished" in card(open_store(tmp_path / "b.kd", allow_unfinished=True))


def test_the_reference_validator_reads_the_tables(path):
    mlcroissant = pytest.importorskip("mlcroissant")
    store = open_store(path)
    (path / "croissant.json").write_text(json.dumps(croissant(store)))
    dataset = mlcroissant.Dataset(path / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    names = [record["classes/name"].decode() for record in dataset.records("classes")]
    assert names == store.classes["name"].to_pylist()
    rows = {record["samples/row"]: record["samples/label"] for record in dataset.records("samples")}
    samples = store.samples()
    assert rows == dict(zip(samples["row"].to_pylist(), samples["label"].to_pylist(), strict=True))


def test_a_class_table_that_was_changed_is_refused_by_others(path):
    mlcroissant = pytest.importorskip("mlcroissant")
    (path / "croissant.json").write_text(json.dumps(croissant(open_store(path))))
    table = path / "classes.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(Exception, match=r"classes\.parquet") as caught:
        list(mlcroissant.Dataset(path / "croissant.json").records("classes"))
    assert "hash" in repr(caught.value.__cause__).lower()


def test_a_card_is_known_again(path):
    store = open_store(path)
    text = card(store)
    assert store_of_card(text) == store.manifest.store_id
    assert store_of_card(text + "\nwhat people add\n") == store.manifest.store_id
    for other in (
        "",
        "# A page",
        text.removeprefix("---\n"),
        f'# A\n---\nkdpipe_store: "{store.manifest.store_id}"\n---\n',
    ):
        assert store_of_card(other) is None


def test_only_a_card_is_written_over(path, tmp_path):
    store = open_store(path)
    for _ in range(2):
        write_card(store, path)
    assert (path / "README.md").read_text() == card(store)
    for name, text in (("README.md", "# My project"), ("croissant.json", "{}"), ("croissant.json", "[")):
        folder = tmp_path / f"of {name} {text[:1]}"
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(RefusedError, match=name):
            write_card(store, folder)
        assert [file.name for file in folder.iterdir()] == [name]
        assert (folder / name).read_text() == text
