"""Lesson 01. Byte-level BPE: text to token ids and back, without loss. rustbpe learns merges, tiktoken applies them.

A regular expression (`SPLIT_PATTERN`) splits the text into pieces. Each piece, as UTF-8 bytes, is merged pair by pair,
and the pair that was learned earliest goes first. Nothing merges across pieces. The id of a token is its rank, the
order in which it was learned: the 256 single bytes, the merges, then the 9 special tokens. Every text can be encoded.

A saved tokenizer is a folder of two readable files: `tokenizer.json` (pattern, special tokens, where it came from,
checksum) and `ranks.tiktoken` (one line a token: base64 of its bytes, a space, its rank; tiktoken's own text format).
"""

import base64
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rustbpe
import tiktoken
from tqdm import tqdm

from gpt2course.data import Corpus, load_corpus, valid
from gpt2course.files import UserError, atomic_dir, command, home, locked, read_json, write_json

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
SENTENCE = "In 1969, Apollo 11 landed on the Moon: 384,400 kilometres away, unbelievably far."


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

    def __init__(self, ranks: list[bytes], pattern: str = SPLIT_PATTERN, provenance: dict | None = None):
        self.ranks = list(ranks)
        self.pattern = pattern
        self.provenance = dict(provenance or {})
        self.special = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.vocab_size = len(ranks) + len(SPECIAL_TOKENS)
        self.bos = self.special["<|bos|>"]
        self.sha256 = _fingerprint(self._ranks_file(), pattern, self.special)
        self._bytes = self.ranks + [name.encode() for name in SPECIAL_TOKENS]
        mergeable = {token: rank for rank, token in enumerate(self.ranks)}
        self._encoding = tiktoken.Encoding("gpt2course", pat_str=pattern, mergeable_ranks=mergeable, special_tokens={})

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, sha256={self.sha256[:12]})"

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, max_chars: int = MAX_CHARS, doc_cap: int = DOC_CAP,
        pattern: str = SPLIT_PATTERN, provenance: dict | None = None,
    ) -> "Tokenizer":  # fmt: skip
        """Learn `vocab_size - 256 - 9` merges from the first `doc_cap` characters of each text, `max_chars` in all.

        The most frequent pair of neighbours is merged first; among equally frequent pairs the one with the smallest
        (left id, right id), which is rustbpe 0.1.0's rule. So the same texts give the same tokenizer, whatever their
        order and the threads. UserError when vocab_size is below 265 or above what the text yields.
        """
        least = 256 + len(SPECIAL_TOKENS)
        if vocab_size < least:
            what = f"256 bytes and {least - 256} special tokens need {least}"
            raise UserError(f"vocab_size {vocab_size} is too small: {what}")
        seen = {"documents": 0, "chars": 0}

        def capped() -> Iterator[str]:
            for text in texts:
                text = text[: min(doc_cap, max_chars - seen["chars"])]
                seen["documents"] += 1
                seen["chars"] += len(text)
                yield valid(text)
                if seen["chars"] >= max_chars:
                    return

        bpe = rustbpe.Tokenizer()
        bpe.train_from_iterator(capped(), vocab_size=vocab_size - len(SPECIAL_TOKENS), pattern=pattern)
        ranks = [bytes(token) for token, _ in sorted(bpe.get_mergeable_ranks(), key=lambda pair: pair[1])]
        found = len(ranks) + len(SPECIAL_TOKENS)
        if found < vocab_size:
            what = f"its {seen['chars']:,} characters yield {len(ranks) - 256:,} merges; ask for {least} to {found}"
            raise UserError(f"vocab_size {vocab_size} is too large for this text: {what}, or train on more text")
        about = {"trained_by": f"rustbpe {version('rustbpe')}", **seen, "max_chars": max_chars, "doc_cap": doc_cap}
        return cls(ranks, pattern, {**(provenance or {}), **about})

    def encode(self, text: str, bos: bool = False) -> list[int]:
        """Token ids of `text`, after "<|bos|>" if `bos`. The names of special tokens inside `text` are ordinary text.

        Lone surrogates, which a Python str can hold and UTF-8 cannot, are encoded as U+FFFD.
        """
        ids = self._encoding.encode_ordinary(valid(text))
        return [self.bos, *ids] if bos else ids

    def encode_batch(self, texts: list[str], bos: bool = False) -> list[list[int]]:
        """`encode` of every text, in order, by one thread for each core, at most 8."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(lambda text: self.encode(text, bos), texts))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the tokens, joined; special tokens give their names. UserError for an unknown id."""
        ids = [int(i) for i in ids]
        if wrong := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise UserError(f"token id {wrong[0]} is outside the vocabulary: 0 to {self.vocab_size - 1} are allowed")
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

        An older tokenizer in the folder is replaced. UserError for a folder that holds anything else.
        """
        folder = Path(folder)
        names = sorted(os.listdir(folder)) if folder.is_dir() else [folder.name] * folder.exists()
        if others := [name for name in names if name not in ("tokenizer.json", "ranks.tiktoken")]:
            raise UserError(f"tokenizer folder {folder} holds something else ({others[0]}); give an empty folder")
        about = {
            "format": FORMAT,
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "special_tokens": self.special,
            "provenance": self.provenance,
            "sha256": self.sha256,
        }
        with atomic_dir(folder) as tmp:
            (tmp / "ranks.tiktoken").write_bytes(self._ranks_file())
            write_json(tmp / "tokenizer.json", about)
        return folder

    @classmethod
    def load(cls, folder) -> "Tokenizer":
        """Read a saved folder and check it against its fingerprint. UserError if it is missing or damaged."""
        folder, again = Path(folder), "make it again with: python -m gpt2course.tokenizer"
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"there is no tokenizer in {folder} (tokenizer.json is missing); {again}")
        about, file = read_json(folder / "tokenizer.json", "tokenizer"), folder / "ranks.tiktoken"
        about = about if isinstance(about, dict) else {}
        ranks = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
        special = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        found = FORMAT, _fingerprint(b"".join(ranks), about.get("pattern"), special), len(ranks) + len(special)
        if found != (about.get("format"), about.get("sha256"), about.get("vocab_size")):
            raise UserError(f"tokenizer {folder} is damaged: it does not match its checksum; {again}")
        return cls([base64.b64decode(line.split()[0]) for line in ranks], about["pattern"], about.get("provenance"))


def default_folder(corpus_name: str, vocab_size: int) -> Path:
    """Where the tokenizer of a corpus is kept: `home()/tokenizers/<corpus>-<vocab_size>`.

    A corpus named by a path becomes a plain name and 8 digits of the path's hash, so that no two paths share a folder.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", corpus_name).strip("-.")
    if plain != corpus_name:
        digest = hashlib.sha256(corpus_name.encode("utf-8", "surrogateescape")).hexdigest()
        plain = f"{plain[-40:]}-{digest[:8]}"
    return home() / "tokenizers" / f"{plain}-{vocab_size}"


def _load_fitting(folder: Path, vocab_size: int, wanted: dict) -> Tokenizer | None:
    """The tokenizer in a folder, if training with the provenance `wanted` would give the same one."""
    if not (folder / "tokenizer.json").exists():
        return None
    try:
        tokenizer = Tokenizer.load(folder)
    except UserError as e:
        print(f"note: {e}")
        return None
    about, documents = tokenizer.provenance, wanted["train_documents"]
    # one that stopped at max_chars, within the documents there are now, does not depend on how many come after
    stopped = about.get("chars", 0) >= wanted["max_chars"] and about.get("documents", math.inf) <= documents
    same = all(about.get(k) == v for k, v in wanted.items() if not (stopped and k == "train_documents"))
    return tokenizer if same and (tokenizer.vocab_size, tokenizer.pattern) == (vocab_size, SPLIT_PATTERN) else None


def train_or_load(corpus: Corpus, vocab_size: int, folder=None, max_chars: int = MAX_CHARS) -> Tokenizer:
    """The tokenizer of a corpus: loaded if `folder` has it, else trained and saved there, in place of another one.

    If several processes ask at once, one trains and the others wait.
    """
    folder = Path(folder) if folder else default_folder(corpus.name, vocab_size)
    source = {"corpus": corpus.name, "train_documents": len(corpus.train), "val_sha256": corpus.val_sha256}
    wanted = source | {"max_chars": max_chars, "doc_cap": DOC_CAP}
    with locked(folder.with_name(f".{folder.name}.lock"), wait=True):
        if tokenizer := _load_fitting(folder, vocab_size, wanted):
            return tokenizer
        texts = tqdm(corpus.train, total=len(corpus.train), unit="doc", desc="reading", disable=None, leave=False)
        tokenizer = Tokenizer.train(texts, vocab_size, max_chars=max_chars, provenance=source)
        tokenizer.save(folder)
    return tokenizer


def bytes_per_token(tokenizer: Tokenizer, texts: Iterable[str], max_bytes: int = 10_000_000) -> float:
    """Compression: UTF-8 bytes of `texts` a token, over whole texts until `max_bytes` are reached; without BOS."""
    size, tokens = 0, 0
    for text in texts:
        tokens += len(tokenizer.encode(text))
        size += len(text.encode())
        if size >= max_bytes:
            break
    return size / tokens if tokens else float("nan")


@dataclass
class Train:
    """Train a byte-level BPE tokenizer on a corpus and save it, unless the same one is there already."""

    corpus: str = "embedded"  # a corpus by name, or a file or folder of parquet, jsonl or txt
    vocab_size: int = 4096  # tokens in all; the laptop profile uses 4096, the records use 32768
    folder: Path | None = None  # where to save it; default: tokenizers/<corpus>-<vocab_size> in $GPT2COURSE_HOME
    max_chars: int = MAX_CHARS  # characters of training text to read in all
    out: Path | None = None  # also write the result to this file, as JSON


def main(args: Train) -> None:
    corpus, start = load_corpus(args.corpus, partial=True), time.time()
    print(*corpus.licences, sep="\n", flush=True)
    folder = args.folder or default_folder(corpus.name, args.vocab_size)
    tokenizer = train_or_load(corpus, args.vocab_size, folder, args.max_chars)
    seconds, about, ids = time.time() - start, tokenizer.provenance, tokenizer.encode(SENTENCE)
    result = {
        "vocab_size": tokenizer.vocab_size,
        "sha256": tokenizer.sha256,
        "folder": str(folder),
        "bytes_per_token": bytes_per_token(tokenizer, corpus.val),
        "ids": ids,
        "pieces": [tokenizer.decode([i]) for i in ids],
    }
    print(f"vocabulary of {tokenizer.vocab_size:,} tokens in {seconds:.1f} s; sha256 {tokenizer.sha256[:12]}; {folder}")
    print(f"learned from {about['chars']:,} characters of {about['documents']:,} documents")
    print(f"{result['bytes_per_token']:.3f} bytes per token on the validation text ({corpus.val_name})")
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    command(main)
