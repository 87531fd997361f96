"""Bits per byte (bpb): how many bits the model needs for each byte of text it has not seen. Lesson 04 builds it.

bpb does not depend on the tokenizer, so it compares models and compressors alike. Here it is a true code length: every
token of every validation document is predicted exactly once, so bpb * bytes / 8 is the size in bytes to which an
arithmetic coder with this model would compress the text. (nanochat's val_bpb is taken on packed and cropped rows:
close, not the same.)
"""

import lzma
import math
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from gpt2course.files import UserError, command


def first_bytes(split, limit: int | None) -> list[str]:
    """The first documents of a split up to `limit` bytes of UTF-8 (at least one document), or all of them: a choice
    that does not depend on the tokenizer, so that every model is measured on the same text."""
    documents, total = [], 0
    for text in split:
        if limit is not None and documents and total >= limit:
            break
        documents.append(text)
        total += len(text.encode("utf-8", "replace"))
    return documents


def validation_rows(documents: list[list[int]], T: int, bos: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay documents out in rows: inputs (R, T) and targets (R, T) int64, target -1 where nothing is scored.

    A document longer than T is cut into pieces; each begins with BOS and, after the first, T // 2 tokens already
    scored, kept as context. Short pieces share a row, the fullest row that still has room first, and attend to each
    other as in training.
    """
    context = T // 2
    pieces = []  # (tokens with BOS, number of leading targets that are context only)
    for tokens in documents:
        start = 0
        while start < len(tokens):
            back = min(context, start)
            pieces.append(([bos, *tokens[start - back : start - back + T]], back))
            start += T - back
    pieces.sort(key=lambda piece: -len(piece[0]))  # stable: equal lengths keep their order
    rows, by_room = [], [[] for _ in range(T + 2)]  # by_room[n]: rows with room for n more tokens
    for piece in pieces:
        length = len(piece[0])
        room = next((n for n in range(length, T + 2) if by_room[n]), None)
        row = by_room[room].pop() if room is not None else len(rows)
        if room is None:
            rows.append([])
            room = T + 1
        rows[row].append(piece)
        by_room[room - length].append(row)
    inputs, targets = np.full((len(rows), T), bos, dtype=np.int64), np.full((len(rows), T), -1, dtype=np.int64)
    for r, row in enumerate(rows):
        at = 0
        for tokens, back in row:
            n = len(tokens)
            inputs[r, at : min(at + n, T)] = tokens[: T - at]
            targets[r, at + back : at + n - 1] = tokens[1 + back :]
            at += n
    return inputs, targets


@torch.no_grad()
def bits_per_byte(
    model, documents: list[str], tokenizer, T: int, batch: int = 16, progress=None, team=None
) -> tuple[float, int]:
    """(bpb, bytes scored) of a model on documents. model(idx, targets, reduction="none") gives nats, (B, T).

    team: ranks.Ranks that share the work; each gets the whole result.
    """
    encoded = [ids for ids in tokenizer.encode_batch(documents) if len(ids)]
    if not encoded:
        raise UserError("there is no text to evaluate on: every validation document is empty")
    sizes = tokenizer.token_bytes()
    total_bytes = int(sum(sizes[np.asarray(ids)].sum() for ids in encoded))
    inputs, targets = validation_rows(encoded, T, tokenizer.bos)
    if team:
        inputs, targets = inputs[team.rank :: team.world], targets[team.rank :: team.world]
    device = next(model.parameters()).device
    training, nats = model.training, 0.0
    model.eval()
    for i in range(0, len(inputs), batch):
        x, y = (torch.from_numpy(a[i : i + batch]).to(device) for a in (inputs, targets))
        nats += model(x, y, reduction="none").double().sum().item()  # ignored targets count 0
        if progress:
            progress(min(i + batch, len(inputs)), len(inputs))
    model.train(training)
    if team:
        (nats,) = team.reduce(nats)
    return nats / math.log(2) / total_bytes, total_bytes


def xz_bits_per_byte(documents: list[str]) -> float:
    """What `xz -9e` makes of the same text, all documents in one stream: a yardstick without any learning."""
    text = "".join(documents).encode("utf-8", "replace")
    return 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)


@dataclass
class Evaluate:
    """Measure bits per byte of a run's newest checkpoint on validation text, beside `xz -9e` on the same text.

    Example: python -m gpt2course.evaluate laptop
    """

    run: tyro.conf.Positional[str]  # name of a run, or path of a run or checkpoint folder
    corpus: str | None = None  # corpus whose validation split is read; default: the run's own
    max_bytes: int | None = None  # read the first documents up to this many bytes; default: all
    batch: int = 16  # rows of T tokens at a time
    device: str = "auto"  # auto, cpu, cuda or mps


def main(args: Evaluate) -> None:
    from gpt2course.load import load_model, run_config
    from gpt2course.data import load_corpus

    for name in ("max_bytes", "batch"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"{name} = {value} is not allowed; it must be a whole number from 1")
    config = run_config(args.run)
    model, tokenizer, plan = load_model(args.run, args.device)
    corpus = load_corpus(args.corpus or config["corpus"])
    documents = first_bytes(corpus.val, args.max_bytes)
    bpb, n = bits_per_byte(model, documents, tokenizer, plan.model.sequence_len, args.batch)
    xz = xz_bits_per_byte(documents)
    print(f"{corpus.val_name} (sha256 {corpus.val_sha256[:12]}): {len(documents):,} documents, {n:,} bytes")
    print(f"model {bpb:.4f} bits per byte, xz -9e {xz:.4f}: the model needs {1 - bpb / xz:.1%} less")


if __name__ == "__main__":
    command(main)
