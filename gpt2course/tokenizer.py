"""Byte-level BPE: text to token ids and back, without loss. rustbpe learns the merges, tiktoken applies them.

Built by hand in lesson 01. Text is first split into pieces by one regular expression (`SPLIT_PATTERN`), then each piece, as UTF-8
bytes, is merged pair by pair: the pair that was learned earliest goes first. Nothing merges across pieces. A token's id is its rank,
that is the order in which it was learned; the 256 single bytes come first and the 9 special tokens last, so every text can be encoded.

A saved tokenizer is a folder of two readable files: `tokenizer.json` (pattern, special tokens, where it came from, checksums) and
`ranks.tiktoken` (one line a token: base64 of its bytes, a space, its rank; tiktoken's own text format).
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
from typing import Annotated

import numpy as np

from gpt2course import files
from gpt2course.files import UserError

# nanochat 348fbb3 (the Jan29 record): GPT-4's split with at most two digits a piece. Trainer and encoder both read this one constant.
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

# The split pattern backtracks once for each character of a run of white space, and the regex engine in tiktoken 0.14 gives up (it
# panics) at one million. A longer run than this is cut, which changes the tokens at the cut and nothing else.
MAX_SPACE_RUN = 16_384
_LONG_SPACE = re.compile(r"(?<!\s)\s{%d,}" % (MAX_SPACE_RUN + 1))


def _parts(text: str) -> list[str]:
    """`text` cut inside runs of white space longer than MAX_SPACE_RUN; the parts join to exactly `text`."""
    if len(text) <= MAX_SPACE_RUN:
        return [text]
    cuts = [c for run in _LONG_SPACE.finditer(text) for c in range(run.start() + MAX_SPACE_RUN, run.end(), MAX_SPACE_RUN)]
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


class Tokenizer:
    """A trained byte-level BPE. Make one with `Tokenizer.train` or `Tokenizer.load`.

    Attributes: vocab_size (with the special tokens), bos (id of "<|bos|>"), special (name -> id), ranks (bytes of each ordinary token, by
    id), pattern, sha256 (fingerprint of ranks, pattern and special tokens), provenance (a dict: what it was trained on).
    """

    def __init__(self, ranks: list[bytes], pattern: str = SPLIT_PATTERN, provenance: dict | None = None):
        import tiktoken

        self.ranks = list(ranks)
        self.pattern = pattern
        self.provenance = dict(provenance or {})
        self.special = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.vocab_size = len(ranks) + len(SPECIAL_TOKENS)
        self.bos = self.special["<|bos|>"]
        fingerprint = json.dumps({"pattern": pattern, "special_tokens": self.special}, sort_keys=True).encode()
        self.sha256 = hashlib.sha256(fingerprint + b"\n" + self._ranks_file()).hexdigest()
        self._bytes = self.ranks + [name.encode() for name in SPECIAL_TOKENS]
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
        """Learn `vocab_size - 256 - 9` merges from the first `doc_cap` characters of each text, `max_chars` characters in all.

        The same texts give the same tokenizer: the most frequent pair is merged first, among equals the pair with the smaller ids.
        Errors: UserError when vocab_size is below 265 or above what the text yields.
        """
        import rustbpe

        least = 256 + len(SPECIAL_TOKENS)
        if vocab_size < least:
            raise UserError(f"vocab_size {vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} special tokens need at least {least}")
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
                f"vocab_size {vocab_size} is too large for this text: its {seen['chars']:,} characters yield {len(ranks) - 256} merges, "
                f"so at most {found}; ask for {least} to {found}, or train on more text"
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
        """The bytes of the tokens, joined. Special tokens give their names. UserError for an id outside the vocabulary."""
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise UserError(f"token id {i} is outside the vocabulary: 0 to {self.vocab_size - 1} are allowed")
        return b"".join([self._bytes[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the tokens; bytes that are not valid UTF-8 (a cut character, say) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def token_bytes(self) -> np.ndarray:
        """(V,) int32: the number of raw bytes of each token, 0 for special tokens. Bits per byte divide by their sum over the targets.

        Counted on raw bytes: many tokens are parts of a character, and decoding those to text first would count U+FFFD's 3 bytes instead.
        """
        return np.array([len(token) for token in self.ranks] + [0] * len(SPECIAL_TOKENS), dtype=np.int32)

    def _ranks_file(self) -> bytes:
        return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(self.ranks))

    def save(self, folder) -> Path:
        """Write `tokenizer.json` and `ranks.tiktoken` into `folder`, all or nothing; returns the folder.

        An older tokenizer there is replaced; a folder that holds anything else is refused (UserError).
        """
        folder = Path(folder)
        if folder.exists():
            others = sorted(p.name for p in folder.iterdir() if p.name not in ("tokenizer.json", "ranks.tiktoken")) if folder.is_dir() else ["a file"]
            if others:
                raise UserError(f"tokenizer folder {folder} holds something else ({others[0]}); give a new or empty folder")
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
        """Read a saved folder and verify all of it. UserError, in one line, for anything missing, damaged or of another version."""
        folder = Path(folder)
        mend = "make it again with: python -m gpt2course.tokenizer train"
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"there is no tokenizer in {folder} (tokenizer.json is missing); {mend}")
        about = files.read_json(folder / "tokenizer.json", "tokenizer")

        def need(ok, problem):
            if not ok:
                raise UserError(f"tokenizer {folder}: {problem}; {mend}")

        need(isinstance(about, dict), "tokenizer.json does not hold an object")
        need(about.get("format") == FORMAT, f"format {about.get('format')!r} is not {FORMAT}, the one this version reads")
        for key, kind in [("vocab_size", int), ("pattern", str), ("special_tokens", dict), ("provenance", dict), ("ranks_sha256", str), ("sha256", str)]:
            need(isinstance(about.get(key), kind), f"tokenizer.json lacks {key!r} (a {kind.__name__})")
        try:
            data = (folder / "ranks.tiktoken").read_bytes()
        except FileNotFoundError:
            need(False, "ranks.tiktoken is missing")
        need(hashlib.sha256(data).hexdigest() == about["ranks_sha256"], "ranks.tiktoken does not match its checksum")
        ranks = []
        for number, line in enumerate(data.splitlines()):
            try:
                token, rank = line.split(b" ")
                ranks.append(base64.b64decode(token, validate=True))
                rank = int(rank)
            except (ValueError, binascii.Error):
                need(False, f"line {number + 1} of ranks.tiktoken is not a base64 token, a space and a rank")
            need(rank == number, f"line {number + 1} of ranks.tiktoken has rank {rank}, not {number}: ranks must run from 0 without gaps")
        need(len(set(ranks)) == len(ranks), "ranks.tiktoken holds a token twice")
        need({bytes([b]) for b in range(256)} <= set(ranks), "ranks.tiktoken lacks some of the 256 single bytes")
        special = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        need(about["special_tokens"] == special, f"special tokens must be {', '.join(SPECIAL_TOKENS)} from id {len(ranks)}")
        need(about["vocab_size"] == len(ranks) + len(special), f"vocab_size {about['vocab_size']} is not {len(ranks)} + {len(special)}")
        try:
            tokenizer = cls(ranks, about["pattern"], about["provenance"])
        except ValueError as e:
            need(False, f"the pattern does not compile ({e})")
        need(tokenizer.sha256 == about["sha256"], "the pattern or the special tokens do not match the fingerprint")
        return tokenizer


def default_folder(corpus_name: str, vocab_size: int) -> Path:
    """Where the tokenizer of a corpus is kept: `home()/tokenizers/<corpus>-<vocab_size>`.

    A corpus named by a path becomes a plain name followed by 8 digits of the path's hash, so that two paths never share a folder.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", corpus_name).strip("-.")
    if plain != corpus_name:
        plain = f"{plain[-40:]}-{hashlib.sha256(corpus_name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    return files.home() / "tokenizers" / f"{plain}-{vocab_size}"


def train_or_load(corpus, vocab_size: int, folder=None, max_chars: int = MAX_CHARS) -> Tokenizer:
    """The tokenizer of a corpus (data.Corpus): loaded if `folder` holds the one that would be trained, otherwise trained and saved.

    What makes it "the one": corpus name, number of training documents, hash of the validation data, vocab_size, max_chars, pattern.
    """
    folder = Path(folder) if folder else default_folder(corpus.name, vocab_size)
    wanted = {"corpus": corpus.name, "train_documents": len(corpus.train), "val_sha256": corpus.val_sha256}
    try:
        tokenizer = Tokenizer.load(folder)
        have = tokenizer.provenance
        if (
            tokenizer.vocab_size == vocab_size
            and tokenizer.pattern == SPLIT_PATTERN
            and have.get("max_chars") == max_chars
            and have.get("doc_cap") == DOC_CAP
            and all(have.get(key) == value for key, value in wanted.items())
        ):
            return tokenizer
    except UserError:
        pass  # none there, or damaged: make it
    tokenizer = Tokenizer.train(corpus.train, vocab_size, max_chars=max_chars, provenance=wanted)
    tokenizer.save(folder)
    return tokenizer
