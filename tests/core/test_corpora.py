"""Corpora that are wrong, odd or not all there: one clear error, or a stated skip with its count; never a spin, never silence.

`BAD_CORPORA` is a table of (id, maker, message): maker(folder) makes a corpus in an empty folder and returns its path, message is a
regular expression for the one line that opening it, reading it or packing it must give. `ODD_CORPORA` has the same for corpora
that work, with the note that must be given.
"""

import gzip
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import data, documents
from gpt2course.batches import Batches
from gpt2course.files import UserError
from gpt2course.tokenizer import Tokenizer

GOOD = [f"document {i} says something" for i in range(40)]


def parquet(path, texts=GOOD, group=10, kind=None, name="text", **options) -> Path:
    column = texts if isinstance(texts, pa.Array) else pa.array(texts, kind or pa.string())
    pq.write_table(pa.table({name: column}), path, row_group_size=group, **options)
    return path


def jsonl(path, texts=GOOD) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return path


def raw(path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(path, start, stop=None) -> Path:
    """Take bytes start to stop out of a file."""
    content = path.read_bytes()
    return raw(path, content[:start] + (content[stop:] if stop else b""))


def bad_utf8(texts: list[bytes]) -> pa.Array:
    """A column that says it is text and is not UTF-8."""
    return pa.array(texts, pa.binary()).view(pa.string())


def flipped(folder) -> Path:
    """A bit flipped inside a page of the last row group; the pages have checksums."""
    path = parquet(folder / "a.parquet", write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[content.index(b"document 35")] ^= 1
    return raw(path, bytes(content))


def beside(folder, make) -> Path:
    """A good shard, and a bad one that `make(path)` writes, which is not the last."""
    parquet(folder / "z.parquet")
    make(folder / "b.parquet")
    return folder


def shards(folder, *numbers, name="climbmix", **others) -> str:
    """Shards of a published data set in the course's home, here `folder`; others: further file names."""
    where = folder / "data" / name
    where.mkdir(parents=True)
    for n in numbers:
        parquet(where / f"shard_{n:05d}.parquet", [f"shard {n} document {i}" for i in range(20)])
    for other in others.values():
        raw(where / other, b"?")
    return name


def link(path, target) -> Path:
    path.symlink_to(target)
    return path


def in_turn(*steps):
    """The last of some values: lets a lambda do several things."""
    return steps[-1]


BAD_CORPORA = [
    # what is there
    ("nowhere", lambda d: d / "none", r"corpus '.*none' does not exist; give `embedded`, `climbmix`, `fineweb-edu`, or the path"),
    ("no name", lambda d: "", "corpus '' is no name; give `embedded`, `climbmix`"),
    ("name with a null byte", lambda d: "a\0b", r"corpus 'a\\x00b' cannot be looked up \(.*null byte.*\); give `embedded`"),
    ("name too long", lambda d: "x" * 5000, "cannot be looked up .File name too long.; give `embedded`"),
    ("home of nobody", lambda d: "~no-such-user-here/x", "cannot be looked up .*; give `embedded`"),
    ("name not UTF-8", lambda d: str(d / "\udcff"), r"corpus '.*\\udcff' is no name"),
    ("empty folder", lambda d: d, "holds no text this course reads; it must be a file or folder of parquet, jsonl or txt"),
    ("other files", lambda d: raw(d / "a.csv", b"x").parent, r"holds no text this course reads \(there is a.csv\)"),
    ("only hidden files", lambda d: jsonl(d / ".a.jsonl").parent, "holds no text this course reads"),
    ("only a packed file", lambda d: raw(d / "a.jsonl.gz", b"x").parent, r"holds no text .*\(there is a.jsonl.gz\).* not compressed"),
    ("mixed kinds", lambda d: in_turn(jsonl(d / "b.jsonl"), parquet(d / "a.parquet")).parent, "mixes .jsonl and .parquet files; give each kind its own folder"),
    ("link to nothing", lambda d: link(d / "corpus", d / "gone"), r"corpus '.*corpus' is a link to .*gone, which is not there; mend the link"),
    ("shard that links to nothing", lambda d: beside(d, lambda p: link(p, d / "gone")), r"b.parquet does not exist: it is a link to .*gone, which is not there"),
    ("file name not UTF-8", lambda d: raw(d / "\udcff.txt", b"x").parent, r"\\udcff.txt': the name is not UTF-8; rename the file"),
    ("a pipe", lambda d: in_turn(os.mkfifo(d / "a.jsonl"), d), r"holds no text .*\(there is a.jsonl\)"),
    # too little
    ("one document", lambda d: jsonl(d / "a.jsonl", ["alone"]), r"a.jsonl holds 1 document\(s\); at least two are needed"),
    ("no document in one file", lambda d: raw(d / "a.jsonl", b"\n\n"), r"a.jsonl holds 0 document\(s\); at least two"),
    ("empty txt", lambda d: raw(d / "a.txt", b""), r"a.txt holds 1 document\(s\); at least two"),
    ("no validation documents", lambda d: in_turn(parquet(d / "a.parquet"), parquet(d / "b.parquet", []), d), r"the validation split is empty, there are no documents in it \(b.parquet is validation\)"),
    ("nothing but validation", lambda d: parquet(d / "val.parquet").parent, r"the training split is empty, there are no documents in it \(val.parquet is validation\)"),
    ("all documents empty", lambda d: jsonl(d / "a.jsonl", [""] * 40), "the training split is empty, its 38 documents are all empty"),
    ("all documents white space", lambda d: parquet(d / "a.parquet", [" \n\t\u00a0"] * 40), "the training split is empty, its 38 documents are all empty"),
    ("all validation null", lambda d: in_turn(parquet(d / "a.parquet"), parquet(d / "b.parquet", [None] * 3), d), "the validation split is empty, its 3 documents are all empty"),
    ("fewer documents than streams", lambda d: jsonl(d / "a.jsonl", GOOD[:5]), "streams 8 is too many for 4 documents"),
    ("a stream without text", lambda d: jsonl(d / "a.jsonl", [t if i % 8 else "" for i, t in enumerate(GOOD)]), r"all 5 documents of stream 0 \(of 8\) are empty; use fewer streams"),
    # parquet
    ("no column", lambda d: beside(d, lambda p: parquet(p, name="content")), "b.parquet has no column 'text'; its columns are content; write it again"),
    ("column twice", lambda d: beside(d, lambda p: pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text"] * 2), p)), "b.parquet has more than one column 'text'"),
    ("column of numbers", lambda d: beside(d, lambda p: parquet(p, [1, 2], kind=pa.int64())), "b.parquet: column 'text' is of type int64; it must be string"),
    ("column of lists", lambda d: beside(d, lambda p: parquet(p, [["a"]], kind=pa.list_(pa.string()))), "column 'text' is of type list<.*>; it must be string"),
    ("column of bytes", lambda d: beside(d, lambda p: parquet(p, [b"a"], kind=pa.binary())), "column 'text' is of type binary; it must be string"),
    ("column of nulls", lambda d: beside(d, lambda p: parquet(p, [None], kind=pa.null())), "column 'text' is of type null; it must be string"),
    ("parquet of zero bytes", lambda d: beside(d, lambda p: raw(p, b"")), r"b.parquet is not a whole parquet file \(.*\); fetch it again or delete it"),
    ("parquet cut in the footer", lambda d: beside(d, lambda p: cut(parquet(p), -5)), "b.parquet is not a whole parquet file"),
    ("parquet cut in the middle", lambda d: beside(d, lambda p: cut(parquet(p), 100)), "b.parquet is not a whole parquet file"),
    ("parquet with a hole", lambda d: beside(d, lambda p: cut(parquet(p, compression="none"), 300, 301)), r"b.parquet is not a whole parquet file \(bytes are missing in row group 3\)"),
    ("not parquet at all", lambda d: beside(d, lambda p: raw(p, b"<html>404</html>" * 9)), "b.parquet is not a whole parquet file"),
    ("packed parquet", lambda d: beside(d, lambda p: raw(p, gzip.compress(parquet(d / "z.parquet").read_bytes()))), "b.parquet is compressed with gzip; unpack it"),
    ("bit flipped in a page", flipped, "a.parquet, row group 3, cannot be read .*checksum.*; fetch the file again and give the same command again"),
    # jsonl
    ("line that is not JSON", lambda d: raw(d / "a.jsonl", b'{"text": "fine"}\n\n{oops\n'), "a.jsonl, line 3, is not JSON .*: mend or delete the line"),
    ("half a line", lambda d: cut(jsonl(d / "a.jsonl"), -9), "a.jsonl, line 40, is not JSON"),
    ("line that is no object", lambda d: raw(d / "a.jsonl", b'{"text": "fine"}\n["x"]\n'), "a.jsonl, line 2, is not an object with a string 'text'"),
    ("a pretty array", lambda d: raw(d / "a.jsonl", b'[\n{"text": "fine"}\n]'), "a.jsonl, line 1, is not JSON .*one object a line"),
    ("no text", lambda d: raw(d / "a.jsonl", b'{"text": "fine"}\n{"content": "x", "id": 1}\n'), r"a.jsonl, line 2, has no 'text' but 'content', 'id'; write \{\"text\": \"...\"\}"),
    ("text that is a number", lambda d: raw(d / "a.jsonl", b'{"text": "fine"}\n{"text": 7}\n'), "a.jsonl, line 2, is not an object with a string 'text'"),
    ("text that is null", lambda d: raw(d / "a.jsonl", b'{"text": null}\n'), "a.jsonl, line 1, is not an object with a string 'text'"),
    ("line not UTF-8", lambda d: raw(d / "a.jsonl", b'{"text": "fine"}\n{"text": "\xff"}\n'), "a.jsonl, line 2, is not JSON .'utf-8' codec can't decode byte 0xff"),
    ("jsonl in UTF-16", lambda d: raw(d / "a.jsonl", '{"text": "x"}\n'.encode("utf-16")), "a.jsonl, line 1, is not JSON .*in UTF-8"),
    ("an array on one line", lambda d: raw(d / "a.jsonl", b'[{"text": "a"}, {"text": "b"}]'), "a.jsonl, line 1, is not an object with a string 'text'"),
    ("nested without end", lambda d: raw(d / "a.jsonl", b"[" * 200_000), "a.jsonl, line 1, is not JSON .*recursion"),
    ("packed jsonl", lambda d: raw(d / "a.jsonl", gzip.compress(jsonl(d / "b.jsonl").read_bytes())), "a.jsonl is compressed with gzip; unpack it"),
    ("bad line in validation", lambda d: in_turn(jsonl(d / "a.jsonl"), raw(d / "b.jsonl", b'{"text": "x"}\n3\n')).parent, "b.jsonl, line 2, is not an object"),
    # txt
    ("txt not UTF-8", lambda d: raw(d / "a.txt", b"abc \xff def"), "a.txt is not UTF-8: byte 0xff at offset 4; convert it, for example with: iconv -f latin1"),
    ("txt in UTF-16", lambda d: raw(d / "a.txt", "abc".encode("utf-16")), "a.txt is not UTF-8: byte 0xff at offset 0; .*iconv -f utf-16"),
    ("packed txt", lambda d: raw(d / "a.txt", gzip.compress(b"abc")), "a.txt is compressed with gzip; unpack it"),
    # published shards
    ("climbmix without a folder", lambda d: "climbmix", r"'climbmix' needs its validation shard shard_06542.parquet and at least one of shard_00000 to shard_06541, .*/data/climbmix, which does not exist; fetch them from https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle .*main/shard_06542.parquet"),
    ("climbmix empty", lambda d: shards(d), "/data/climbmix, which holds no shards; fetch"),
    ("climbmix that is a file", lambda d: in_turn((d / "data").mkdir(), raw(d / "data" / "climbmix", b"x"), "climbmix"), "/data/climbmix, which is no folder that can be read"),
    ("no validation shard", lambda d: shards(d, 0, 1, 2, 5), r"needs its validation shard shard_06542.parquet .* which holds only 0-2, 5; fetch .*main/shard_06542.parquet"),
    ("only the validation shard", lambda d: shards(d, 6542), r"which holds only 6542; fetch .*main/shard_00000.parquet"),
    ("the other data set's validation", lambda d: shards(d, 0, 1822), "needs its validation shard shard_06542"),
    ("fineweb-edu, one too few", lambda d: shards(d, 0, 1821, name="fineweb-edu"), "'fineweb-edu' needs its validation shard shard_01822.parquet and at least one of shard_00000 to shard_01821, .*karpathy/fineweb-edu-100b-shuffle"),
    ("validation shard is a folder", lambda d: in_turn(shards(d, 0), (d / "data/climbmix/shard_06542.parquet").mkdir(), "climbmix"), "which holds only 0; fetch"),
    ("validation shard cut", lambda d: in_turn(shards(d, 0, 6542), cut(d / "data/climbmix/shard_06542.parquet", -5), "climbmix"), "shard_06542.parquet is not a whole parquet file"),
    ("training shard links to nothing", lambda d: in_turn(shards(d, 0, 6542), link(d / "data/climbmix/shard_00001.parquet", d / "gone"), "climbmix"), "shard_00001.parquet does not exist: it is a link to"),
]  # fmt: skip

ODD_CORPORA = [
    ("null documents", lambda d: parquet(d / "a.parquet", [None, *GOOD]), "1 of 39 documents skipped: 1 null$"),
    ("empty and blank documents", lambda d: parquet(d / "a.parquet", ["", " \n", None, *GOOD]), "3 of 41 documents skipped: 2 empty or white space, 1 null$"),
    ("not UTF-8 in a string column", lambda d: parquet(d / "a.parquet", bad_utf8([b"ab\xff", b"\xed\xa0\x80", *map(str.encode, GOOD)])), "2 of 40 documents skipped: 2 not UTF-8$"),
    ("not UTF-8 in a large string column", lambda d: parquet(d / "a.parquet", pa.array([b"ab\xff", *map(str.encode, GOOD)], pa.large_binary()).view(pa.large_string())), "1 of 39 documents skipped: 1 not UTF-8$"),
    ("lone surrogate in jsonl", lambda d: raw(d / "a.jsonl", b'{"text": "x\\ud800y"}\n' + jsonl(d / "b.jsonl").read_bytes()), "1 of 39 documents with lone surrogates replaced"),
    ("other files beside", lambda d: in_turn(jsonl(d / "a.jsonl"), raw(d / "README.md", b"x"), raw(d / "b.jsonl.gz", b"x"), d), "2 other files are not read: README.md, b.jsonl.gz"),
    ("a linked folder", lambda d: in_turn((d / "sub").mkdir(), jsonl(d / "sub" / "a.jsonl"), link(d / "more", d / "sub"), d), "1 other file is not read: more"),
    ("an empty folder named as a shard", lambda d: in_turn(jsonl(d / "a.jsonl"), (d / "b.jsonl").mkdir(), d), "1 other file is not read: b.jsonl"),
    ("a pipe beside", lambda d: in_turn(jsonl(d / "a.jsonl"), os.mkfifo(d / "b.jsonl"), d), "1 other file is not read: b.jsonl"),
    ("parquet without row groups", lambda d: beside(d, lambda p: pq.ParquetWriter(p, pa.schema({"text": pa.string()})).close() or parquet(d / "a.parquet")), "1 of 2 files hold no documents: b.parquet"),
    ("jsonl without lines", lambda d: in_turn(raw(d / "a.jsonl", b"\r\n"), jsonl(d / "b.jsonl"), jsonl(d / "c.jsonl"), d), "1 of 2 files hold no documents: a.jsonl"),
    ("gaps between shards", lambda d: shards(d, 0, 1, 4, 9, 6542), "6 shards are missing in between: 2-3, 5-8"),
    ("how many shards", lambda d: shards(d, 0, 1, 6542, name="climbmix"), "training on 2 of 6,542 shards: 0-1"),
    ("names that are no shards", lambda d: shards(d, 0, 1822, name="fineweb-edu", a="shard_00001.parquet.tmp", b="shard_1.parquet", c="shard_01823.parquet"), "3 other files are not read: shard_00001.parquet.tmp, shard_01823.parquet, shard_1.parquet"),
]  # fmt: skip

FINE_CORPORA = [
    ("dictionary-encoded strings", lambda d: parquet(d / "a.parquet", pa.array(GOOD).dictionary_encode())),
    ("large strings", lambda d: parquet(d / "a.parquet", kind=pa.large_string())),
    ("string views", lambda d: parquet(d / "a.parquet", kind=pa.string_view())),
    ("byte order mark, CRLF and blank lines", lambda d: raw(d / "a.jsonl", b"\xef\xbb\xbf" + b"\r\n \r\n".join(json.dumps({"text": t}).encode() for t in GOOD))),
    ("blank first line with a mark", lambda d: raw(d / "a.jsonl", b"\xef\xbb\xbf\r\n" + b"\n".join(json.dumps({"text": t}).encode() for t in GOOD))),
    ("surrogate pairs", lambda d: raw(d / "a.jsonl", b"\n".join(json.dumps({"text": t}).encode() for t in GOOD))),
    ("capitals in the suffix", lambda d: jsonl(d / "A.JSONL")),
    ("hidden files and folders", lambda d: in_turn(jsonl(d / "a.jsonl"), raw(d / ".a.jsonl.tmp", b"x"), (d / ".cache").mkdir(), raw(d / ".cache" / "b.parquet", b"x"), d)),
    ("a folder named as a shard", lambda d: in_turn((d / "x.parquet").mkdir(), parquet(d / "x.parquet" / "part-0.parquet"), d / "x.parquet")),
    ("one parquet shard", lambda d: parquet(d / "shard_00000.parquet").parent),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(GOOD, 300)


@pytest.fixture(autouse=True)
def in_this_home(tmp_path, monkeypatch):
    """The folder of each test is the course's home, and what a maker of the tables gets."""
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))


def opened(maker, tmp_path, tokenizer) -> tuple[data.Corpus, object]:
    """A corpus, opened, packed into a few rows, then read to the end."""
    corpus = data.load_corpus(str(maker(tmp_path)))
    rows = Batches(corpus.train, tokenizer, 16).next_rows(20)
    corpus.train.scan(), corpus.val.scan()
    return corpus, rows


@pytest.mark.parametrize("maker,message", [pytest.param(maker, message, id=name) for name, maker, message in BAD_CORPORA])
def test_what_is_wrong_is_said(tmp_path, tokenizer, maker, message):
    with pytest.raises(UserError) as e:
        opened(maker, tmp_path, tokenizer)
    assert re.search(message, str(e.value)), str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("maker,note", [pytest.param(maker, note, id=name) for name, maker, note in ODD_CORPORA])
def test_what_is_left_out_is_said(tmp_path, tokenizer, maker, note):
    corpus, rows = opened(maker, tmp_path, tokenizer)
    notes = [line for line in data.describe(corpus) if line.startswith("note: ")]
    assert any(re.search(note, line) for line in notes), notes
    assert rows.shape == (20, 17) and (rows[:, 0] == tokenizer.bos).all()


@pytest.mark.parametrize("maker", [pytest.param(maker, id=name) for name, maker in FINE_CORPORA])
def test_what_is_unusual_but_right_reads_whole_and_without_a_note(tmp_path, tokenizer, maker):
    corpus, rows = opened(maker, tmp_path, tokenizer)
    assert list(corpus.train) + list(corpus.val) == GOOD and len(corpus.val) == 2
    assert not [line for line in data.describe(corpus) if line.startswith("note: ")]
    assert rows.shape == (20, 17)  # one shard is enough: nothing waits for a second


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_bad_line_is_said_before_anything_is_trained(tmp_path, kind, folder):
    """Mending it in the middle of a run would give other documents other numbers, and the run could not go on."""
    if kind == "jsonl":
        path = raw(tmp_path / "a.jsonl", jsonl(tmp_path / "b.jsonl", GOOD * 20).read_bytes() + b"{oops\n")
    else:
        raw(tmp_path / "b.txt", b"fine")
        path = raw(tmp_path / "a.txt", b"fine\n\n" * 5000 + b"\xff")
    with pytest.raises(UserError, match="a.jsonl, line 801, is not JSON|a.txt is not UTF-8: byte 0xff at offset 30000"):
        data.load_corpus(str(tmp_path if folder else path))


# ---- published shards


def test_the_validation_shard_is_pinned_by_name(tmp_path):
    """Neither more shards nor fewer change it, and it is never trained on."""
    for n, numbers in enumerate([(0, 6542), (3, 7, 6541, 6542)]):
        os.environ["GPT2COURSE_HOME"] = str(tmp_path / str(n))  # set back by the fixture
        corpus = data.load_corpus(shards(tmp_path / str(n), *numbers))
        assert list(corpus.val) == [f"shard 6542 document {i}" for i in range(20)]
        assert list(corpus.train) == [f"shard {s} document {i}" for s in numbers[:-1] for i in range(20)]
        assert (corpus.name, corpus.val_name) == ("climbmix", "climbmix/shard_06542")
        assert corpus.val_sha256 == data.texts_digest(f"shard 6542 document {i}" for i in range(20))
        assert "CC BY-NC 4.0" in corpus.licences[0] and "climbmix-400b-shuffle" in corpus.licences[0]


def test_shards_elsewhere_are_reached_by_a_link(tmp_path):
    shards(tmp_path / "disk", 0, 1822, name="fineweb-edu")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fineweb-edu").symlink_to(tmp_path / "disk" / "data" / "fineweb-edu")
    corpus = data.load_corpus("fineweb-edu")
    assert len(corpus.train) == len(corpus.val) == 20 and "ODC-By" in corpus.licences[0]


def test_a_folder_does_not_hide_a_published_name(tmp_path, monkeypatch):
    (tmp_path / "climbmix").mkdir()
    jsonl(tmp_path / "climbmix" / "a.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="needs its validation shard"):
        data.load_corpus("climbmix")
    assert len(data.load_corpus("./climbmix").train) == 38
    assert data.corpus_path("climbmix") == tmp_path / "data" / "climbmix" and data.corpus_path("embedded") is None


def test_the_shards_of_the_references():
    """Counts of nanochat's dataset.py: at 030de3a shard_01822 is the last of FineWeb-Edu, at 324e69c shard_06542 of ClimbMix."""
    assert {name: s.val for name, s in data.SHARD_CORPORA.items()} == {"climbmix": "shard_06542", "fineweb-edu": "shard_01822"}


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(0, 60)))
def test_ranges_name_every_number(numbers):
    text = data._ranges(sorted(numbers))
    parts = [part.split("-") for part in text.removesuffix(", ...").split(", ")] if text else []
    named = {n for part in parts for n in range(int(part[0]), int(part[-1]) + 1)}
    assert named <= numbers and (named == numbers or len(parts) == 8 and text.endswith(", ..."))


def test_real_documents_as_published_shards(tmp_path, dev_data, tokenizer):
    """Real text under the names of the data set: the last of the five becomes the pinned one."""
    where = tmp_path / "data" / "climbmix"
    where.mkdir(parents=True)
    for n, name in enumerate([0, 1, 2, 3, 6542]):
        (where / f"shard_{name:05d}.parquet").symlink_to(dev_data / "corpus-small" / f"shard_{n:05d}.parquet")
    corpus = data.load_corpus("climbmix")
    assert (len(corpus.train), len(corpus.val)) == (4096, 1024)
    assert corpus.val_sha256 == data.load_corpus(str(dev_data / "corpus-small")).val_sha256
    estimate = corpus.train.about
    lines = data.describe(corpus)
    assert abs(estimate / corpus.train.scan().bytes - 1) < 0.01  # the footers know the size well
    assert lines[1].startswith("training: 4,096 documents, about 14,") and lines[2] == "validation: 1,024 documents, 3,503,919 bytes"
    assert Batches(corpus.train, tokenizer, 64).next_rows(4).shape == (4, 65)


# ---- what changes under a run


@pytest.mark.parametrize("write,suffix", [(parquet, "parquet"), (jsonl, "jsonl")])
@pytest.mark.parametrize("change,message", [
    (lambda p: p.unlink(), r"a.\w+ has disappeared since the corpus was opened; put it back and give the same command again"),
    (lambda p: cut(p, 50), r"a.\w+ has changed since the corpus was opened \(had [\d,]+ bytes, now 50\); put the old file back"),
    (lambda p: os.utime(p, ns=(0, time.time_ns() + 10**9)), r"a.\w+ has changed since the corpus was opened \(same size, written again\)"),
    (lambda p: (p.unlink(), p.mkdir()), r"a.\w+ cannot be read \(Is a directory\)"),
], ids=["gone", "cut", "written again", "a folder"])  # fmt: skip
def test_a_file_that_changes_in_a_run_is_noticed(tmp_path, write, suffix, change, message):
    texts = [f"document {i}" for i in range(4000)]  # more blocks than are kept in memory
    write(tmp_path / f"a.{suffix}", texts)
    write(tmp_path / f"b.{suffix}", texts)
    train = data.load_corpus(str(tmp_path)).train
    assert train[0] == "document 0"
    change(tmp_path / f"a.{suffix}")
    with pytest.raises(UserError, match=message):
        list(train)


def test_txt_files_are_watched_too(tmp_path):
    for i in range(3000):
        (tmp_path / f"{i:04d}.txt").write_text(f"document {i}")
    train = data.load_corpus(str(tmp_path)).train
    (tmp_path / "0200.txt").write_text("else")
    with pytest.raises(UserError, match="0200.txt has changed since the corpus was opened"):
        list(train)


def test_many_shards_do_not_keep_their_files_open(tmp_path):
    import resource

    for i in range(60):
        parquet(tmp_path / f"{i:02d}.parquet", GOOD[:2])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        assert len(list(data.load_corpus(str(tmp_path)).train)) == 118
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(os.name != "posix", reason="POSIX rights")
def test_what_may_not_be_read_is_named():
    folder = Path(tempfile.mkdtemp())  # tmp_path lies below a folder that only its owner may enter
    try:
        parquet(folder / "a.parquet"), parquet(folder / "b.parquet").chmod(0)
        (folder / "sub").mkdir(mode=0)
        folder.chmod(0o755)
        root = os.geteuid() == 0
        if root:  # to root nothing is forbidden
            os.seteuid(65534)
        try:
            with pytest.raises(UserError, match="sub cannot be listed .Permission denied.; allow it with: chmod u.rx"):
                data.load_corpus(str(folder))
            with pytest.raises(UserError, match="b.parquet cannot be read: permission denied; allow it with: chmod u.r"):
                data.load_corpus(str(folder / "b.parquet"))
        finally:
            if root:
                os.seteuid(0)
    finally:
        (folder / "sub").chmod(0o700)
        shutil.rmtree(folder)


# ---- long documents


@pytest.mark.parametrize("write", [parquet, jsonl])
@pytest.mark.parametrize("unit", ["a", "some words, ", " "])
def test_a_document_of_100_mb_costs_little(tmp_path, tokenizer, write, unit):
    import resource

    n = 100_000_000 // len(unit)
    path = write(tmp_path / ("a.parquet" if write is parquet else "a.jsonl"), [*GOOD[:20], unit * n, *GOOD[20:]])
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    corpus = data.load_corpus(str(path))
    rows = Batches(corpus.train, tokenizer, 64).next_rows(40)
    assert time.perf_counter() - began < 30 and rows.shape == (40, 65)
    scale = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * scale < 1e9
    kept = corpus.train[20]
    assert (unit * n).startswith(kept) and (unit == " " or 999_980 <= len(kept) <= 1_000_000)
    assert kept == "" if unit == " " else unit == "a" or kept.endswith(" ")
    assert "note: training: 1 of 39 documents cut to 1,000,000 characters" in data.describe(corpus)


@settings(max_examples=100, deadline=None)
@given(st.text("ab \n", min_size=1, max_size=200), st.integers(0, 50), st.integers(1, 60))
def test_a_cut_is_at_the_best_place(text, start, limit):
    end = documents._end(text, start, limit)
    assert start < end <= start + limit
    second_half = text[start + limit // 2 : start + limit]
    best = next((e for e in ("\n\n", "\n", " ") if e in second_half), None)
    assert text[:end].endswith(best) and best not in text[end : start + limit] if best else end == start + limit


def test_a_document_of_exactly_the_limit_is_whole(tmp_path):
    texts = ["x" * documents.MAX_DOCUMENT, "x" * (documents.MAX_DOCUMENT + 1), "y"]
    train = data.load_corpus(str(jsonl(tmp_path / "a.jsonl", texts))).train
    assert [len(t) for t in train] == [documents.MAX_DOCUMENT] * 2 and train.found[0]["cut"] == 1


def test_long_lines_make_small_blocks(tmp_path):
    """So that a few documents of 100 MB are not in memory together."""
    corpus = data.load_corpus(str(jsonl(tmp_path / "a.jsonl", ["word " * 400_000] * 12)))
    assert max(n for _, n in corpus.train.blocks) <= documents.BLOCK_BYTES // 2_000_000 + 1 and len(corpus.train) == 11


def test_huge_row_groups_are_remarked(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGE", 100)
    lines = data.describe(data.load_corpus(str(parquet(tmp_path / "a.parquet", group=10))))
    assert not any("row groups hold" in line for line in lines)  # of slices nothing is said twice
    parquet(tmp_path / "b.parquet", group=10)
    lines = data.describe(data.load_corpus(str(tmp_path)))
    assert any("note: training: 4 row groups hold more than" in line for line in lines), lines


# ---- readers agree with the list they read


ANY_TEXT = st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["", " ", "\n\t ", "\ud800", "a\udfff", "\U0001f600", "é" * 5, "x" * 40]))


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_TEXT, min_size=2, max_size=60), st.integers(1, 7), st.sampled_from(["parquet", "jsonl", "txt"]), st.integers(1, 30))
def test_blocks_iteration_and_index_agree_and_every_oddity_is_counted(tmp_path_factory, texts, group, kind, limit):
    """Against a plain reading of the list: what each document must read as, and how many are skipped, cut or mended."""
    folder = tmp_path_factory.mktemp("odd")
    if kind != "jsonl":
        texts = [t and t.encode("utf-8", "replace").decode() for t in texts]  # only JSON can hold a lone surrogate
    if kind != "parquet":
        texts = [t or "" for t in texts]
    if kind == "txt":
        texts = [t.replace("\r\n", "\n").replace("\r", "\n") for t in texts]
    old, documents.MAX_DOCUMENT = documents.MAX_DOCUMENT, limit
    try:
        if kind == "parquet":
            split = documents._parquet([parquet(folder / "a.parquet", texts, group)])
        elif kind == "jsonl":
            split = documents._jsonl([jsonl(folder / "a.jsonl", texts)])
        else:
            split = documents._txt([raw(folder / f"{i:02d}.txt", t.encode()) for i, t in enumerate(texts)])
            texts = [piece for t in texts for piece in data.pieces(t)]
        want, skipped, cut_, mended = [], 0, 0, 0
        for t in texts:
            kept = (t or "")[: documents._end(t, 0, limit)] if t and len(t) > limit else t or ""
            cut_ += t is not None and len(t) > limit
            valid = re.sub("[\ud800-\udfff]", "\ufffd", kept)
            skipped += not kept.strip()
            mended += valid != kept and bool(kept.strip())
            want.append(valid if kept.strip() else "")
        assert list(split) == want == [split[i] for i in range(len(split))]
        assert [t for b in range(len(split.blocks)) for t in split.read_block(b)] == want
        assert [first for first, _ in split.blocks] == [sum(n for _, n in split.blocks[:b]) for b in range(len(split.blocks))]
        found = split.found.values()
        assert sum(f[key] for f in found for key in documents.SKIPPED) == skipped
        assert (sum(f["cut"] for f in found), sum(f["surrogates"] for f in found)) == (cut_, mended)
        assert split.bytes == len("".join(want).encode())
        assert any(f"{skipped:,} of {len(want):,} documents skipped" in line for line in split.notes()) == bool(skipped)
        a, b = sorted((group * 3 % (len(want) + 1), limit % (len(want) + 1)))
        part = data.slice_split(split, a, b)
        assert list(part) == want[a:b] and sum(f[key] for f in part.found.values() for key in documents.SKIPPED) == want[a:b].count("")
    finally:
        documents.MAX_DOCUMENT = old


def test_counts_say_how_far_reading_has_come(tmp_path):
    split = documents._parquet([parquet(tmp_path / "a.parquet", [None, "a", None, "b"], group=2)])
    assert split.notes() == [] and split.bytes is None and split.about > 0
    split.read_block(1), split.read_block(1)
    assert split.notes() == ["1 of 4 documents skipped: 1 null (in the 1 of 2 blocks read so far)"]
    assert split.scan().notes() == ["2 of 4 documents skipped: 2 null"] and split.bytes == split.about == 2


def test_row_groups_of_no_rows_are_no_blocks(tmp_path):
    table = pa.table({"text": pa.array(GOOD)})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for rows in (0, 40, 0):
            writer.write_table(table[:rows])
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3
    split = documents._parquet([tmp_path / "a.parquet"])
    assert split.blocks == [(0, 40)] and list(split) == GOOD


def test_threads_share_a_split():
    """A thread reads ahead in training while another asks for the documents of a bad loss. One block is kept, so they meet."""
    from concurrent.futures import ThreadPoolExecutor

    split = data.Split([2] * 20, lambda b: [f"{b} first", f"{b} second"], cached=1)
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads change places between any two steps
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: split[i * 7 % 40], range(8000)))
    finally:
        sys.setswitchinterval(often)
    assert found == [f"{i * 7 % 40 // 2} {['first', 'second'][i * 7 % 2]}" for i in range(8000)]


# ---- txt


def test_a_book_among_txt_files_is_cut_and_validation_is_whole_files(tmp_path):
    """Packing keeps one row of a document: of a book as one document it would keep a page."""
    book = "\n\n".join(f"paragraph {i} " + "word " * 60 for i in range(200))
    for i in range(3):
        (tmp_path / f"book{i}.txt").write_text(book.replace("paragraph", f"book {i} paragraph"), newline="\r\n")
    corpus = data.load_corpus(str(tmp_path))
    assert corpus.val_name == "book2.txt" and all("book 2" in t for t in corpus.val) and not any("book 2" in t for t in corpus.train)
    assert "\n\n".join(corpus.val) == book.replace("paragraph", "book 2 paragraph")
    assert max(map(len, corpus.train)) <= documents.PIECE and len(corpus.train) == 200


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["word ", "line\n", "x" * 500, "é" * 300]), min_size=30, max_size=80).map("".join))
def test_a_text_without_paragraphs_loses_nothing(tmp_path_factory, text):
    path = raw(tmp_path_factory.mktemp("txt") / "a.txt", text.encode())
    found = list(documents._txt([path]))
    assert "".join(found) == text if text.strip() and "" not in found else True
    assert all(len(t) <= (documents.PIECE if len(text) > 10 * documents.PIECE else 10 * documents.PIECE) for t in found)


@pytest.mark.parametrize("name,validation", [
    ("val.jsonl", True), ("val_00.jsonl", True), ("validation-1.jsonl", True), ("VALID.jsonl", True), ("val1.jsonl", True),
    ("valentine.jsonl", False), ("values.jsonl", False), ("validity.jsonl", False), ("eval.jsonl", False)])  # fmt: skip
def test_which_names_are_validation(tmp_path, name, validation):
    jsonl(tmp_path / name, ["v"] * 3), jsonl(tmp_path / "zzz.jsonl")
    assert data.load_corpus(str(tmp_path)).val_name == (name if validation else "zzz.jsonl")


# ---- the command


def test_the_command_describes_a_corpus(tmp_path, capsys):
    shards(tmp_path, 0, 2, 6542, a="note.txt")
    data.main(data.Data("climbmix"))
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "corpus climbmix" and out[1].startswith("training: 40 documents, about ") and out[2].startswith("validation: 20 documents, 4")
    assert re.fullmatch("validation is climbmix/shard_06542, sha256 [0-9a-f]{64}", out[3])
    assert out[4:7] == ["note: training on 2 of 6,542 shards: 0, 2", "note: 1 shard is missing in between: 1", "note: 1 other file is not read: note.txt"]
    assert out[7].startswith("licence: ClimbMix: NVIDIA, CC BY-NC 4.0")
    assert [line for line in out if line.startswith("[")] == ["[0] 'shard 0 document 0'", "[14] 'shard 0 document 14'", "[28] 'shard 2 document 8'"]
    flipped(tmp_path), shutil.move(tmp_path / "a.parquet", tmp_path / "data" / "climbmix" / "shard_00002.parquet")
    data.main(data.Data("climbmix"))  # the damage lies further on
    with pytest.raises(UserError, match="shard_00002.parquet, row group 3, cannot be read"):
        data.main(data.Data("climbmix", scan=True))
