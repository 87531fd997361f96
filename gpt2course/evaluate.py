"""Bits per byte (bpb): how many bits the model needs for each byte of text it has not seen. Lesson 04 builds it.

bpb does not depend on the tokenizer, so models with different tokenizers, and compressors, can be compared. Here it is
a true code length: every token of every validation document is predicted exactly once, so an arithmetic coder with this
model would compress the text to bpb * bytes / 8 bytes. (nanochat's val_bpb is measured on packed and cropped rows:
close, but not the same number.)
"""

import functools
import lzma
import math
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from gpt2course import ranks
from gpt2course.data import Corpus, load_corpus
from gpt2course.files import Progress, UserError, coerce, command, write_json
from gpt2course.load import load_model, run_config


def first_bytes(split, limit: int) -> list[str]:
    """The first documents of a split up to `limit` bytes of UTF-8 (at least one document).

    The choice does not depend on the tokenizer, so every model is measured on the same text.
    """
    documents, total = [], 0
    for text in split:
        if documents and total >= limit:
            break
        documents.append(text)
        total += len(text.encode("utf-8", "replace"))
    return documents


def validation_rows(documents: list, T: int, bos: int, share=slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Lay documents out in rows: inputs (R, T) and targets (R, T) int64, target -1 where nothing is scored.

    documents: for each the token ids, without BOS. share: which of the rows to return.
    A document longer than T is cut into pieces. Each piece begins with BOS; each but the first then repeats T // 2
    tokens that the piece before has scored, as context. Short pieces share a row, the fullest row with room first, and
    attend to each other as in training.
    """
    context = T // 2
    pieces = []  # (tokens after BOS, number of leading targets that are context only)
    for tokens in documents:
        start = 0
        while start < len(tokens):
            back = min(context, start)
            pieces.append((tokens[start - back : start - back + T], back))
            start += T - back
    pieces.sort(key=lambda piece: -len(piece[0]))  # stable: equal lengths keep their order
    rows, by_room = [], [[] for _ in range(T + 2)]  # by_room[n]: rows with room for n more tokens
    for piece in pieces:
        length = 1 + len(piece[0])
        room = next((n for n in range(length, T + 2) if by_room[n]), None)
        row = by_room[room].pop() if room is not None else len(rows)
        if room is None:
            rows.append([])
            room = T + 1
        rows[row].append(piece)
        by_room[room - length].append(row)
    rows = rows[share]
    inputs, targets = np.full((len(rows), T), bos, dtype=np.int64), np.full((len(rows), T), -1, dtype=np.int64)
    for r, row in enumerate(rows):
        at = 0  # where the piece's BOS stands
        for tokens, back in row:
            end = at + len(tokens)
            inputs[r, at + 1 : end + 1] = tokens[: T - 1 - at]  # a row's last token is a target only
            targets[r, at + back : end] = tokens[back:]
            at = end + 1
    return inputs, targets


@functools.lru_cache(maxsize=1)  # the next evaluation reads the same documents
def rows_of(documents: tuple, tokenizer, T: int, team: ranks.Ranks) -> tuple[np.ndarray, np.ndarray, int]:
    """This rank's share of the documents' rows, and the bytes of all documents.

    Each rank tokenizes a share of the documents and receives the other tokens, so all ranks lay out the same rows.
    """
    mine = [np.array(ids, np.int32) for ids in tokenizer.encode_batch(documents[team.rank :: team.world])]
    shares, sizes = team.all(mine), tokenizer.token_bytes()
    tokens = [shares[i % team.world][i // team.world] for i in range(len(documents))]
    rows = validation_rows(tokens, T, tokenizer.bos, slice(team.rank, None, team.world))
    return *rows, int(sum(sizes[ids].sum() for ids in tokens))


@torch.no_grad()
def bits_per_byte(
    model, documents: list[str], tokenizer, T: int, batch: int = 16, progress=None, team=None
) -> tuple[float, int]:
    """(bpb, bytes scored) of a model on documents. model(idx, targets, reduction="none") gives nats, (B, T).

    team: the ranks.Ranks that share the work; each gets the result of all.
    """
    team = team or ranks.Ranks()
    inputs, targets, total_bytes = rows_of(tuple(documents), tokenizer, T, team)
    if not total_bytes:
        raise UserError("there is no text to evaluate on: every validation document is empty")
    device = next(model.parameters()).device
    training, nats = model.training, 0.0
    model.eval()
    for i in range(0, len(inputs), batch):
        x, y = (torch.from_numpy(a[i : i + batch]).to(device) for a in (inputs, targets))
        nats += model(x, y, reduction="none").cpu().double().sum().item()  # ignored targets count 0; MPS has no float64
        if progress:
            progress(min(i + batch, len(inputs)), len(inputs))
    model.train(training)
    (nats,) = team.reduce(nats)
    return nats / math.log(2) / total_bytes, total_bytes


def xz_bits_per_byte(documents: list[str]) -> float:
    """Bits per byte of `xz -9e` on the same text, all documents in one stream: a compressor that learns nothing."""
    text = "".join(documents).encode("utf-8", "replace")
    return 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)


@dataclass
class Evaluate:
    """Measure bits per byte of a run's newest checkpoint on validation text, beside `xz -9e` on the same text.

    Example: python -m gpt2course.evaluate laptop. Under torchrun all ranks share the work.
    """

    run: tyro.conf.Positional[str]  # name of a run, or path of a run, checkpoint or exported folder
    corpus: str | None = None  # corpus whose validation split is read; default: the run's own
    any_text: bool = False  # accept another validation text than the one recorded with the run
    max_bytes: int = 64_000_000  # read the first documents up to this many bytes; xz -9e reads about 1 MB/s
    device: str = "auto"  # auto, cpu, cuda or mps
    out: str | None = None  # also write the result to this JSON file


def main(args: Evaluate) -> None:
    coerce("max_bytes", args.max_bytes, int, 1)
    team = ranks.join(ranks.pick_device(args.device).type)
    config, (model, tokenizer, plan) = run_config(args.run), load_model(args.run, args.device)
    corpus = recorded_corpus(args, config)
    documents = first_bytes(corpus.val, args.max_bytes)
    progress = Progress() if team.first else None
    bpb, size = bits_per_byte(model, documents, tokenizer, plan.model.sequence_len, progress=progress, team=team)
    if team.first:
        whole, xz = len(documents) == len(corpus.val), xz_bits_per_byte(documents)
        which = "" if whole else ", the first of more"
        print(f"{corpus.val_name} (sha256 {corpus.val_sha256[:12]}), {len(documents):,} documents{which}")
        print(f"model {bpb:.4f} bits per byte, xz -9e {xz:.4f}")
        share = f"{abs(1 - bpb / xz):.1%} {'fewer' if bpb <= xz else 'more'}"
        print(f"the model needs {share} bits than xz -9e on the same {size:,} bytes")
        if args.out:
            sizes = {"val_bytes": size, "documents": len(documents), "whole": whole}
            text = {"val_name": corpus.val_name, "val_sha256": corpus.val_sha256}
            write_json(args.out, {"val_bpb": bpb, "xz_bpb": xz} | sizes | text)
    ranks.part(done=True)


def recorded_corpus(args: Evaluate, config: dict) -> Corpus:
    """The corpus to evaluate on. Its validation text must be the recorded one: other text gives another number, and
    text that was trained on gives one that is too good."""
    corpus, recorded = load_corpus(args.corpus or config["corpus"]), config["val_sha256"]
    if recorded != corpus.val_sha256 and not args.any_text:
        what = f"the validation text of corpus {corpus.name!r} has sha256 {corpus.val_sha256}"
        fix = "restore that text, or add --any-text to measure on this one"
        raise UserError(f"{what}, the run recorded {recorded}; {fix}")
    return corpus


if __name__ == "__main__":
    command(main)
