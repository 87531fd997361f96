"""Byte-level BPE: text to token ids and back, without loss. rustbpe learns the merges, tiktoken applies them.

Built by hand in lesson 01. One regular expression (`SPLIT_PATTERN`) splits the text into pieces; each piece, as UTF-8
bytes, is merged pair by pair, and the pair that was learned earliest goes first. Nothing merges across pieces. The id
of a token is its rank, the order in which it was learned: the 256 single bytes, the merges, then the 9 special tokens.
Every text can be encoded.

A saved tokenizer is a folder of two readable files: `tokenizer.json` (pattern, special tokens, where it came from,
checksums) and `ranks.tiktoken` (one line a token: base64 of its bytes, a space, its rank; tiktoken's own text format).
"""

import base64
import binascii
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from gpt2course import files
from gpt2course.files import UserError

# GPT-4's split with at most two digits a piece (nanochat 348fbb3, the Jan29 record). Trainer and encoder both read it.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = (
    "<|bos|>",  # starts every document
    "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",  # chat turns; unused in pre-training
    "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",  # tool calls and their results
)  # fmt: skip
DOC_CAP = 10_000  # characters of a document that training reads (nanochat 348fbb3)
MAX_CHARS = 2_000_000_000  # characters that training reads in all (nanochat 348fbb3)
FORMAT = 1

# The split pattern backtracks once for each character of a run of white space, and the regex engine of tiktoken 0.14
# and rustbpe 0.1 panics at one million. So a run longer than this is cut into runs of this length: other tokens there,
# the same text.
MAX_SPACE_RUN = 16_384
_LONG_SPACE = re.compile(r"(?<!\s)\s{%d,}" % (MAX_SPACE_RUN + 1))


def _parts(text: str) -> list[str]:
    """`text` cut inside runs of white space longer than MAX_SPACE_RUN; the parts join to exactly `text`."""
    if len(text) <= MAX_SPACE_RUN:
        return [text]
    runs = _LONG_SPACE.finditer(text)
    cuts = [at for run in runs for at in range(run.start() + MAX_SPACE_RUN, run.end(), MAX_SPACE_RUN)]
    return [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]


def _valid(text: str) -> str:
    """`text` as valid Unicode: surrogate pairs are joined, lone surrogates (which UTF-8 cannot hold) become U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _fingerprint(ranks_file: bytes, pattern: str, special: dict[str, int]) -> str:
    """sha256 over everything that decides an encoding: the pattern, the special tokens and the ranks."""
    rules = json.dumps({"pattern": pattern, "special_tokens": special}, sort_keys=True).encode()
    return hashlib.sha256(rules + b"\n" + ranks_file).hexdigest()


class Tokenizer:
    """A trained byte-level BPE. Make one with `Tokenizer.train` or `Tokenizer.load`.

    Attributes: vocab_size (with the special tokens), bos (id of "<|bos|>", the first of them), special (name -> id),
    ranks (bytes of each ordinary token, by id), pattern, sha256 (fingerprint of ranks, pattern and special tokens),
    provenance (dict: what it learned from).
    """

    def __init__(
        self, ranks: list[bytes], pattern: str = SPLIT_PATTERN, provenance: dict | None = None, special=SPECIAL_TOKENS
    ):
        import tiktoken

        self.ranks = list(ranks)
        self.pattern = pattern
        self.provenance = dict(provenance or {})
        self.special = {name: len(ranks) + i for i, name in enumerate(special)}
        self.vocab_size = len(ranks) + len(special)
        self.bos = self.special[special[0]]
        self.sha256 = _fingerprint(self._ranks_file(), pattern, self.special)
        self._bytes = self.ranks + [name.encode() for name in special]
        mergeable = {token: rank for rank, token in enumerate(self.ranks)}
        self._encoding = tiktoken.Encoding("gpt2course", pat_str=pattern, mergeable_ranks=mergeable, special_tokens={})

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, sha256={self.sha256[:12]})"

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        max_chars: int = MAX_CHARS,
        doc_cap: int = DOC_CAP,
        pattern: str = SPLIT_PATTERN,
        provenance: dict | None = None,
    ) -> "Tokenizer":
        """Learn `vocab_size - 256 - 9` merges from the first `doc_cap` characters of each text, `max_chars` in all.

        The most frequent pair of neighbours is merged first; among equally frequent pairs the one with the smallest
        (left id, right id), which is rustbpe 0.1.0's rule. So the same texts give the same tokenizer, whatever their
        order and the threads.
        Args: texts are read once, and no further than needed; provenance is kept with the tokenizer.
        Errors: UserError when vocab_size is below 265 or above what the text yields.
        """
        import rustbpe

        for name, value in [("max_chars", max_chars), ("doc_cap", doc_cap)]:
            if value < 1:
                raise UserError(f"{name} {value} is too small: at least 1 character")
        least = 256 + len(SPECIAL_TOKENS)
        if vocab_size < least:
            raise UserError(
                f"vocab_size {vocab_size} is too small: 256 bytes and {least - 256} special tokens need {least}"
            )
        seen = {"documents": 0, "chars": 0}

        def capped() -> Iterator[str]:
            for text in texts:
                text = text[: min(doc_cap, max_chars - seen["chars"])]
                seen["documents"] += 1
                seen["chars"] += len(text)
                yield from _parts(_valid(text))
                if seen["chars"] >= max_chars:
                    return

        bpe = rustbpe.Tokenizer()
        bpe.train_from_iterator(capped(), vocab_size=vocab_size - len(SPECIAL_TOKENS), pattern=pattern)
        ranks = [bytes(token) for token, _ in sorted(bpe.get_mergeable_ranks(), key=lambda pair: pair[1])]
        found = len(ranks) + len(SPECIAL_TOKENS)
        if found < vocab_size:
            raise UserError(
                f"vocab_size {vocab_size} is too large for this text: its {seen['chars']:,} characters yield "
                f"{len(ranks) - 256:,} merges; ask for {least} to {found}, or train on more text"
            )
        about = {"trained_by": f"rustbpe {version('rustbpe')}", **seen, "max_chars": max_chars, "doc_cap": doc_cap}
        return cls(ranks, pattern, {**(provenance or {}), **about})

    def encode(self, text: str, bos: bool = False) -> list[int]:
        """Token ids of `text`, after "<|bos|>" if `bos`. The names of special tokens inside `text` are ordinary text.

        Lone surrogates, which a Python str can hold and UTF-8 cannot, are encoded as U+FFFD.
        """
        ids = [self.bos] if bos else []
        for part in _parts(_valid(text)):
            ids += self._encoding.encode_ordinary(part)
        return ids

    def encode_batch(self, texts: list[str], bos: bool = False, threads: int | None = None) -> list[list[int]]:
        """`encode` of every text, in order, by `threads` threads (default: one for each core, at most 8)."""
        threads = threads or min(8, os.cpu_count() or 1)
        if threads == 1 or len(texts) < 2:
            return [self.encode(text, bos) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda text: self.encode(text, bos), texts))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the tokens, joined; special tokens give their names. UserError for an unknown id."""
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise UserError(f"token id {i} is outside the vocabulary: 0 to {self.vocab_size - 1} are allowed")
        return b"".join([self._bytes[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the tokens; bytes that are not valid UTF-8 (a cut character, say) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def token_bytes(self) -> np.ndarray:
        """(V,) int32: the number of raw bytes of each token, 0 for special tokens.

        Bits per byte divide by their sum over the targets. Counted on raw bytes: many tokens are parts of a character,
        and decoded to text they would count as U+FFFD, 3 bytes.
        """
        return np.array([len(token) for token in self.ranks] + [0] * len(self.special), dtype=np.int32)

    def _ranks_file(self) -> bytes:
        return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(self.ranks))

    def save(self, folder) -> Path:
        """Write `tokenizer.json` and `ranks.tiktoken` into `folder`, all or nothing; returns the folder.

        An older tokenizer there is replaced; a folder that holds anything else is refused (UserError).
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"tokenizer folder {folder} is a file; give another name")
        names = {p.name for p in folder.iterdir()} if folder.exists() else set()
        others = sorted(names - {"tokenizer.json", "ranks.tiktoken"})
        if others:
            raise UserError(f"tokenizer folder {folder} holds something else ({others[0]}); give a new or an empty one")
        ranks = self._ranks_file()
        about = {
            "format": FORMAT,
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "special_tokens": self.special,
            "provenance": self.provenance,
            "ranks_sha256": hashlib.sha256(ranks).hexdigest(),
            "sha256": self.sha256,
        }
        with files.atomic_dir(folder) as tmp:
            (tmp / "ranks.tiktoken").write_bytes(ranks)
            files.write_json(tmp / "tokenizer.json", about)
        return folder

    @classmethod
    def load(cls, folder) -> "Tokenizer":
        """Read a saved folder and verify all of it. UserError for anything missing, damaged or of another version."""
        folder = Path(folder)
        mend = "make it again with: python -m gpt2course.tokenizer train"
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"there is no tokenizer in {folder} (tokenizer.json is missing); {mend}")
        about = files.read_json(folder / "tokenizer.json", "tokenizer")

        def need(ok, problem):
            if not ok:
                raise UserError(f"tokenizer {folder}: {problem}; {mend}")

        need(isinstance(about, dict), "tokenizer.json does not hold an object")
        found = about.get("format")
        need(found == FORMAT, f"format {found!r} is not {FORMAT}, the one this version reads")
        kinds = dict(vocab_size=int, pattern=str, special_tokens=dict, provenance=dict, ranks_sha256=str, sha256=str)
        for key, kind in kinds.items():
            need(isinstance(about.get(key), kind), f"tokenizer.json lacks {key!r} (a {kind.__name__})")
        try:
            data = (folder / "ranks.tiktoken").read_bytes()
        except FileNotFoundError:
            need(False, "ranks.tiktoken is missing")
        need(hashlib.sha256(data).hexdigest() == about["ranks_sha256"], "ranks.tiktoken does not match its checksum")
        ranks = []
        for number, line in enumerate(data.splitlines()):
            where = f"line {number + 1} of ranks.tiktoken"
            try:
                token, rank = line.split(b" ")
                ranks.append(base64.b64decode(token, validate=True))
                rank = int(rank)
            except (ValueError, binascii.Error):
                need(False, f"{where} is not a base64 token, a space and a rank")
            need(rank == number, f"{where} has rank {rank}, not {number}: there must be no gaps")
        need(len(set(ranks)) == len(ranks), "ranks.tiktoken holds a token twice")
        need({bytes([b]) for b in range(256)} <= set(ranks), "ranks.tiktoken lacks some of the 256 single bytes")
        special = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        allowed = f"{', '.join(SPECIAL_TOKENS)} from id {len(ranks)}"
        need(about["special_tokens"] == special, f"special tokens must be {allowed}")
        found, size = about["vocab_size"], len(ranks) + len(special)
        need(found == size, f"vocab_size {found} is not {size}, what ranks and special tokens make")
        fingerprint = _fingerprint(data, about["pattern"], special)
        need(fingerprint == about["sha256"], "the pattern does not match the fingerprint")
        return cls(ranks, about["pattern"], about["provenance"])


def default_folder(corpus_name: str, vocab_size: int) -> Path:
    """Where the tokenizer of a corpus is kept: `home()/tokenizers/<corpus>-<vocab_size>`.

    A corpus named by a path becomes a plain name followed by 8 digits of the path's hash, so that two paths never share
    a folder.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", corpus_name).strip("-.")
    if plain != corpus_name:
        digest = hashlib.sha256(corpus_name.encode("utf-8", "surrogateescape")).hexdigest()
        plain = f"{plain[-40:]}-{digest[:8]}"
    return files.home() / "tokenizers" / f"{plain}-{vocab_size}"


def _train_on(corpus, vocab_size: int, max_chars: int, doc_cap: int = DOC_CAP) -> Tokenizer:
    """Train on `corpus.train`, with a progress bar in a terminal, and note the corpus in the provenance."""
    from tqdm import tqdm

    texts = tqdm(corpus.train, total=len(corpus.train), unit="doc", desc="reading", disable=None, leave=False)
    return Tokenizer.train(texts, vocab_size, max_chars=max_chars, doc_cap=doc_cap, provenance=_source(corpus))


def _source(corpus) -> dict:
    """What a tokenizer's provenance says of the corpus."""
    return {"corpus": corpus.name, "train_documents": len(corpus.train), "val_sha256": corpus.val_sha256}


def train_or_load(corpus, vocab_size: int, folder=None, max_chars: int = MAX_CHARS) -> Tokenizer:
    """The tokenizer of a corpus (a data.Corpus): loaded if `folder` holds just that one, else trained and saved there.

    "Just that one" compares what stands in its provenance: corpus name, number of training documents (if all were
    read), hash of the validation data, vocab_size, max_chars, doc_cap and pattern. A tokenizer of another corpus or
    size in `folder` is replaced.
    """
    folder = Path(folder) if folder else default_folder(corpus.name, vocab_size)
    wanted = {**_source(corpus), "max_chars": max_chars, "doc_cap": DOC_CAP}
    documents = wanted.pop("train_documents")
    if (folder / "tokenizer.json").exists():
        try:
            tokenizer = Tokenizer.load(folder)
        except UserError as e:
            print(f"{e}: making it again")
        else:
            about = tokenizer.provenance
            same_texts = about.get("train_documents") == documents
            if about.get("chars", 0) >= max_chars and about.get("documents", documents + 1) <= documents:
                same_texts = True  # it stopped at max_chars within these documents, so it would not read any later ones
            same = same_texts and all(about.get(key) == value for key, value in wanted.items())
            if same and tokenizer.vocab_size == vocab_size and tokenizer.pattern == SPLIT_PATTERN:
                return tokenizer
    tokenizer = _train_on(corpus, vocab_size, max_chars)
    tokenizer.save(folder)
    return tokenizer


def bytes_per_token(tokenizer: Tokenizer, texts: Iterable[str], max_bytes: int = 10_000_000) -> float:
    """Compression: UTF-8 bytes of `texts` a token, over whole texts until `max_bytes` are reached; without BOS."""
    sizes, size, tokens = tokenizer.token_bytes(), 0, 0
    for text in texts:
        ids = tokenizer.encode(text)
        tokens += len(ids)
        size += int(sizes[ids].sum()) if ids else 0
        if size >= max_bytes:
            break
    return size / tokens if tokens else float("nan")


@dataclass
class Train:
    """Train a tokenizer on a corpus and save it; an older one in the same folder is replaced."""

    corpus: str = "embedded"
    """Name of a corpus ("embedded"), or a file or folder of parquet, jsonl or txt."""
    vocab_size: int = 4096
    """Tokens in all: 256 bytes, the merges, 9 special tokens. The laptop profile uses 4096, the records use 32768."""
    out: Path | None = None
    """Folder to save to.
    Default: tokenizers/<corpus>-<vocab_size> under $GPT2COURSE_HOME (default ~/.cache/gpt2course)."""
    max_chars: int = MAX_CHARS
    """Characters of training text to read in all."""
    doc_cap: int = DOC_CAP
    """Characters to read of each document, so that a few long documents do not decide the vocabulary."""


@dataclass
class Show:
    """Encode a text and print its tokens with their ids; a token that is no whole number of characters is shown as
    b'...'."""

    text: str
    """The text. Names of special tokens in it are ordinary text, as in documents."""
    tokenizer: Path | None = None
    """Folder of the tokenizer. Default: the embedded corpus's of 4096 tokens (make it with: train)."""


def shown(token: bytes) -> str:
    """A token as Python would write it: text between quotes, or b'...' where its bytes are no whole characters."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def main(action: Train | Show) -> None:
    """Train a byte-level BPE tokenizer, or look at how one cuts a text."""
    if isinstance(action, Show):
        tokenizer = Tokenizer.load(action.tokenizer or default_folder("embedded", Train.vocab_size))
        ids = tokenizer.encode(action.text)
        for i in ids:
            print(f"{i:6d}  {shown(tokenizer.ranks[i])}")
        size = int(tokenizer.token_bytes()[ids].sum()) if ids else 0
        ratio = f", {size / len(ids):.2f} bytes per token" if ids else ""
        print(f"{len(ids)} tokens, {size} bytes{ratio}")
        return

    from gpt2course import data

    corpus = data.load_corpus(action.corpus)
    for line in corpus.licences:
        print(line)
    start = time.perf_counter()
    tokenizer = _train_on(corpus, action.vocab_size, action.max_chars, action.doc_cap)
    seconds = time.perf_counter() - start
    folder = tokenizer.save(action.out or default_folder(corpus.name, action.vocab_size))
    about = tokenizer.provenance
    merges = len(tokenizer.ranks) - 256
    read = f"read {about['chars']:,} characters of {about['documents']:,} documents"
    print(f"{read}, learned {merges:,} merges in {seconds:.1f} s")
    print(f"validation text ({corpus.val_name}): {bytes_per_token(tokenizer, corpus.val):.3f} bytes per token")
    print(f"saved {folder} (vocabulary {tokenizer.vocab_size:,}, sha256 {tokenizer.sha256[:12]})")


if __name__ == "__main__":
    files.command(main)
