"""Documents in blocks: what a corpus is read from. Lesson 02 builds on it; data.py knows corpora by name.

A split is a sequence of documents in fixed order, read a block at a time, so that a shard of any size costs the memory
of one block. Files of parquet, jsonl and txt become splits here, and everything that can be wrong with them is found
here.
"""

import bisect
import collections
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gpt2course.files import UserError

BLOCK = 128  # documents of a block, where the file format has no blocks of its own
BLOCK_BYTES = 4_000_000  # a block of lines is closed at this size too, so that long documents do not fill the memory
PIECE = 800  # characters of a piece at most, about: addresses and txt files are cut at paragraph ends (see embedded)
# Characters of a document that are read. A row holds T+1 tokens of a document at most, so training loses nothing; and a
# document of 100 MB would cost the tokenizer minutes and gigabytes (10 million equal letters: 10 s and 0.5 GB, one
# million: 0.5 s).
MAX_DOCUMENT = 1_000_000
LARGE = 1_000_000_000  # bytes of a row group that are worth a remark: it is read at once, and several are kept

# What can be found wrong with one document: what happens to it.
SKIPPED = {"empty": "empty or white space", "null": "null", "bad": "not UTF-8"}
MENDED = {"cut": f"cut to {MAX_DOCUMENT:,} characters", "surrogates": "with lone surrogates replaced by U+FFFD"}


def _end(text: str, start: int, limit: int) -> int:
    """Where a piece of at most `limit` characters from `start` best ends: after a paragraph, else a line, else a word,
    if one of them ends in its second half; else at the limit."""
    for end in ("\n\n", "\n", " "):
        at = text.rfind(end, start + limit // 2, start + limit)
        if at >= 0:
            return at + len(end)
    return start + limit


def _clean(text: str | bytes | None, found: collections.Counter) -> str:
    """A document as everything after this sees it: valid Unicode of bounded length, "" if it is to be skipped. `found`
    counts its bytes and what was wrong.

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

    blocks: list of (index of the first document, number of documents). found: block -> its bytes and what was wrong
    with documents of it, for the blocks read so far; such documents read as "" or mended. remarks: what to say about
    the files. Threads may share it.
    """

    def __init__(
        self, counts: list[int], read, *, cached: int = 16, about: int | None = None, remarks: tuple[str, ...] = ()
    ):
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
        return (
            sum(found["bytes"] for found in list(self.found.values())) if len(self.found) == len(self.blocks) else None
        )

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
        some = (
            f" (in the {len(read):,} of {len(self.blocks):,} blocks read so far)"
            if len(read) < len(self.blocks)
            else ""
        )
        skipped = [f"{found[key]:,} {what}" for key, what in SKIPPED.items() if found[key]]
        lines = (
            [f"{sum(found[key] for key in SKIPPED):,} of {len(self):,} documents skipped: {', '.join(skipped)}{some}"]
            if skipped
            else []
        )
        return [*self.remarks, *lines] + [
            f"{found[key]:,} of {len(self):,} documents {what}{some}" for key, what in MENDED.items() if found[key]
        ]

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < self._length:
            raise IndexError(f"document {i} of {self._length}")
        b = bisect.bisect_right(self._starts, i) - 1
        return self.read_block(b)[i - self._starts[b]]

    def __iter__(self):
        for b in range(len(self.blocks)):
            yield from self.read_block(b)


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


def pieces(text: str, limit: int = PIECE) -> list[str]:
    """A long text as consecutive pieces, cut only at paragraph ends, each at most `limit` characters unless one
    paragraph is longer."""
    out = []
    for paragraph in text.split("\n\n"):
        if out and len(out[-1]) + len(paragraph) + 2 <= limit:
            out[-1] += "\n\n" + paragraph
        else:
            out.append(paragraph)
    return out


def slice_split(split: Split, start: int, stop: int) -> Split:
    """Documents start to stop of a split, as a split, in the same blocks."""
    spans = [(b, max(start, first), min(stop, first + n)) for b, (first, n) in enumerate(split.blocks)]
    spans = [(b, low - split.blocks[b][0], high - split.blocks[b][0]) for b, low, high in spans if low < high]
    counts = [high - low for _, low, high in spans]
    return Split(
        counts,
        lambda i: split._read(spans[i][0])[
            spans[i][1] : spans[i][2]
        ],  # as stored, so that what is found is counted here
        cached=split._cached,
        about=round(split.about * sum(counts) / max(1, len(split))) if split.about is not None else None,
    )


# ---- files

PACKED = {
    "gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
    "zip": b"PK\x03\x04",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ",
}  # how such files begin


@contextlib.contextmanager
def _open(path: Path, seen: tuple[int, int] | None = None):
    """Open a file for reading; UserError if it cannot be read, or is not the one `seen` (its `_stamp`) when the corpus
    was opened."""
    try:
        with open(path, "rb") as f:
            if seen and (now := _stamp(f)) != seen:
                what = f"had {seen[0]:,} bytes, now {now[0]:,}" if now[0] != seen[0] else "same size, written again"
                raise UserError(
                    f"{path} has changed since the corpus was opened ({what}); "
                    f"put the old file back and give the same command again, or begin a new run"
                )
            if packed := next((name for name, begin in PACKED.items() if f.peek(8).startswith(begin)), None):
                raise UserError(f"{path} is compressed with {packed}; unpack it, and give the result its name")
            yield f
    except FileNotFoundError:
        if seen:
            raise UserError(
                f"{path} has disappeared since the corpus was opened; put it back and give the same command again"
            ) from None
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
        raise UserError(
            f"{path} has {'no' if 'text' not in names else 'more than one'} column 'text'; "
            f"its columns are {', '.join(names)}; write it again with one string column 'text'"
        )
    kind = file.schema_arrow.field("text").type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
        raise UserError(
            f"{path}: column 'text' is of type {kind}; it must be string: write the file again with that type"
        )
    return [file.schema.column(i).path for i in range(len(file.schema))].index("text")


def footer(path: Path, f, size: int) -> list[tuple[int, int]]:
    """(documents, bytes of text before compression) of each row group of a parquet file of `size` bytes, from `f`,
    which holds the file or its end.

    UserError for anything but a whole parquet file with a string column `text`.
    """
    try:
        file = pq.ParquetFile(f)
        column, groups = _string_column(path, file), []
        f.seek(-8, os.SEEK_END)
        end = size - 8 - int.from_bytes(f.read(4), "little")  # where the footer begins
        for g in range(file.num_row_groups):
            row_group = file.metadata.row_group(g)
            chunk = row_group.column(column)
            start = min(at for at in (chunk.data_page_offset, chunk.dictionary_page_offset) if at)
            if start + chunk.total_compressed_size > end:
                raise pa.ArrowInvalid(f"bytes are missing in row group {g}")
            groups.append((row_group.num_rows, chunk.total_uncompressed_size))
        return groups
    except (pa.ArrowException, OSError, ValueError) as e:
        if isinstance(e, OSError) and e.errno:  # of the system, not of parquet
            raise
        raise UserError(f"{path} is not a whole parquet file ({_damaged(e)}); fetch it again or delete it") from None


def file_footer(path: Path) -> list[tuple[int, int]]:
    """`footer` of a file on disk."""
    with _open(path) as f:
        return footer(path, f, _stamp(f)[0])


@dataclass(frozen=True)
class Late:
    """A parquet file that is on its way: what its footer says, known before it, and a function that returns when it has
    come."""

    groups: list[tuple[int, int]]
    wait: Callable[[], None]


def _parquet(paths: list[Path], late: dict[Path, Late] | None = None) -> Split:
    """Row groups of parquet files with a string column `text`; only the footers are read now, and no file stays open (a
    data set has thousands of shards, a process about a thousand open files). Page checksums are verified where a file
    has them. The files of `late` may still be missing; whoever reads from one waits for it. The order of the documents
    does not change."""
    groups, about, large = [], 0, 0  # groups: (path, stamp, number of the row group, documents)
    late, stamps = late or {}, {}  # stamps: of the late ones, once they have come
    for path in paths:
        seen = None
        if path in late:
            found = late[path].groups
        else:
            with _open(path) as f:
                seen = _stamp(f)
                found = footer(path, f, seen[0])
        groups += [(path, seen, g, documents) for g, (documents, _) in enumerate(found) if documents]
        about += sum(size for _, size in found)
        large += sum(size > LARGE for _, size in found)

    def read(b):
        path, seen, g, documents = groups[b]
        if path in late:
            if path not in stamps:
                late[path].wait()
            seen = stamps.get(path)
        with _open(path, seen) as f:
            stamps.setdefault(path, _stamp(f))
            try:
                column = (
                    pq.ParquetFile(f, page_checksum_verification=True)
                    .read_row_group(g, columns=["text"], use_threads=False)
                    .column("text")
                )
                if len(column) != documents:
                    raise pa.ArrowInvalid(f"{len(column)} documents instead of {documents}")
                try:
                    return column.to_pylist()
                except UnicodeDecodeError:
                    return [_decoded(raw) for raw in column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()]
            except (pa.ArrowException, OSError, ValueError) as e:
                if isinstance(e, OSError) and e.errno:
                    raise
                raise UserError(
                    f"{path}, row group {g}, cannot be read ({_damaged(e)}); "
                    f"fetch the file again and give the same command again"
                ) from None

    remarks = _bare(paths, {path for path, *_ in groups})
    if large:
        remarks += (
            f"{large} row groups hold more than {LARGE / 1e9:g} GB of text, each of them read at once; "
            f"write the files again with row groups of about 1,000 documents",
        )
    return Split([n for *_, n in groups], read, cached=4, about=about, remarks=remarks)


def _bare(paths: list[Path], used: set[Path]) -> tuple[str, ...]:
    """A remark on the files without documents, if there are any."""
    names = [p.name for p in paths if p not in used]
    return (f"{len(names)} of {len(paths)} files hold no documents: {listed(names)}",) if names else ()


def listed(names: list[str]) -> str:
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
        raise UserError(
            f"{path}, line {number}, is not JSON ({e}); "
            f"there must be one object a line, in UTF-8: mend or delete the line"
        ) from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        keys = isinstance(value, dict) and "text" not in value
        what = (
            f"has no 'text' but {', '.join(map(repr, value))[:100] or 'nothing'}"
            if keys
            else "is not an object with a string 'text'"
        )
        raise UserError(f'{path}, line {number}, {what}; write {{"text": "..."}}, or delete the line')
    return value["text"]


def _jsonl(paths: list[Path]) -> Split:
    """One JSON object with the key "text" a line. The files are read through once, so a bad line is said now; blank
    lines are passed over."""
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
            return [
                _json_text(path, number, f.read(length)) for offset, length, number in lines if f.seek(offset) == offset
            ]

    return Split([len(lines) for *_, lines in blocks], read, remarks=_bare(paths, {path for path, *_ in blocks}))


def _txt(paths: list[Path]) -> Split:
    """Text in UTF-8, cut into documents by `pieces`: packing keeps only the head of a document longer than a row, which
    of a book would be next to nothing. A paragraph of more than ten pieces is cut at ends of lines or words. Line ends
    are read as "\\n", a byte order mark is passed over. Everything is read through once now."""

    def read_file(path, seen=None) -> tuple[list[str], tuple[int, int]]:
        with _open(path, seen) as f:
            raw, now = f.read(), _stamp(f)
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as e:
            kind = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
            raise UserError(
                f"{path} is not UTF-8: byte {raw[e.start]:#04x} at offset {e.start}; "
                f"convert it, for example with: iconv -f {kind} -t utf-8"
            ) from None
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


def read_files(paths: list[Path], **late) -> Split:
    """The split of files of one kind; `late` as `_parquet`, of parquet files alone."""
    return READERS[paths[0].suffix.lower()](paths, **late) if paths else from_list([])
