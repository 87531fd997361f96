"""Text from a model: draw the next token from its probabilities, again and again. Lesson 13 builds it.

`next_logits` runs the model, `probabilities` and `pick` choose a token, `generate` and `stream` repeat both. A base
model continues a text; it does not answer questions.
"""

import codecs
import contextlib
import hashlib
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import tyro

from gpt2course.attention import Cache
from gpt2course.files import UserError, coerce, command, write_json
from gpt2course.load import load_model


def context(ids: list[int], T: int, bos: int) -> list[int]:
    """The model's input to continue `ids`: BOS and the last T - 1 of them, where T is the length in training.

    Positions beyond T - 1 were never trained, so the oldest tokens are dropped. BOS stays: every row of training began
    with it, and attention heads learn to rest on the first token (arXiv 2309.17453). In a longer text every token
    therefore changes its position at each step, so no cache can be used.
    """
    return [bos, *ids[max(0, len(ids) - (T - 1)) :]]


@torch.no_grad()
def next_logits(model, contexts: list[list[int]], pad: int = 0, cache: Cache | None = None) -> torch.Tensor:
    """Logits (N, V), on the CPU, of the token after each of N contexts.

    Without a cache the model reads all of them: shorter contexts are padded on the right, which a causal model does not
    see. With a cache it reads only what is new: first the whole contexts, padded on the left, then one token of each.
    """
    device, longest = next(model.parameters()).device, max(len(c) for c in contexts)
    padding = [[pad] * (longest - len(c)) for c in contexts]
    if cache is None:
        idx = torch.tensor([c + p for c, p in zip(contexts, padding)], device=device)  # (N, T)
        last = torch.tensor([len(c) - 1 for c in contexts], device=device)
        return model(idx)[torch.arange(len(contexts), device=device), last].cpu()  # (N, T, V) -> (N, V)
    if cache.length:
        idx = torch.tensor([c[-1:] for c in contexts], device=device)  # (N, 1)
    else:
        idx = torch.tensor([p + c for c, p in zip(contexts, padding)], device=device)  # (N, T)
        cache.pad = torch.tensor([len(p) for p in padding], device=device) if any(padding) else None
    return model(idx, cache=cache)[:, -1].cpu()  # (N, V)


def probabilities(logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None) -> torch.Tensor:
    """The distribution (V,) in float64 of the next token: softmax(logits / temperature) for logits (V,).

    top_k: only the k most likely tokens (of equal ones the lower ids); None or 0: all of them. Temperature 0: the most
    likely token alone. UserError where the logits are not numbers.
    """
    z = logits.double()
    if temperature == 0:
        temperature, top_k = 1.0, 1
    if top_k and top_k < len(z):
        dropped = torch.sort(z, descending=True, stable=True).indices[top_k:]
        z = z.index_fill(0, dropped, -torch.inf)
    p = torch.softmax((z - z.max()) / temperature, dim=0)  # the largest is 0, so no temperature is too small
    if p.isnan().any():
        problem = "its weights are damaged or its training diverged; use an earlier checkpoint"
        raise UserError(f"the model's logits are not all finite: {problem}")
    return p


def pick(logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """Draw one token id from logits (V,); see `probabilities`."""
    return int(torch.multinomial(probabilities(logits, temperature, top_k), 1, generator=generator))


def prompt_generator(seed: int, ids: list[int], number: int = 0) -> torch.Generator:
    """The random numbers of one continuation, on the CPU, so that every device draws the same ones.

    They depend only on the seed, on the prompt's tokens, and on how many continuations of it came before (`number`).
    """
    digest = hashlib.sha256(repr((seed, number, ids)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def checked(max_tokens, temperature, top_k, seed) -> tuple:
    """The settings of sampling; UserError for a value that makes no sense."""
    return (
        coerce("max_tokens", max_tokens, int, 0),
        coerce("temperature", temperature, float, 0),
        coerce("top_k", top_k, int | None, 0),
        coerce("seed", seed, int),
    )


def generate(
    model, tokenizer, prompts: list[str], max_tokens: int = 64, temperature: float = 0.8, top_k: int | None = 50,
    seed: int = 0, cached: bool = True,
) -> list[str]:  # fmt: skip
    """Continue every prompt; returns the continuations without their prompts.

    model(idx (B, T), cache=attention.Cache()) -> float32 logits (B, T, V), with model.config.sequence_len, the T of
    training. A token costs the forward pass of one position, until a text of the batch is longer than T (see
    `context`): then it costs that of the whole context, as with cached=False. BOS ends a continuation: there a document
    ends. A continuation depends on the seed and its prompt, not on the rest of the batch, apart from rounding. The same
    prompt given twice gets two continuations.
    """
    settings, pieces = checked(max_tokens, temperature, top_k, seed), [[] for _ in prompts]
    numbers = [prompts[:i].count(prompt) for i, prompt in enumerate(prompts)]
    for i, piece in _run(model, tokenizer, prompts, numbers, *settings, cached):
        pieces[i].append(piece)
    return ["".join(p) for p in pieces]


def stream(
    model, tokenizer, prompt: str, max_tokens: int = 64, temperature: float = 0.8, top_k: int | None = 50,
    seed: int = 0, number: int = 0,
) -> Iterator[str]:  # fmt: skip
    """Yield the continuation of one prompt in pieces, never half a character; arguments as in `generate`.

    number: 0 for the first continuation of this prompt, 1 for the second.
    """
    settings = checked(max_tokens, temperature, top_k, seed)
    return (piece for _, piece in _run(model, tokenizer, [prompt], [number], *settings))


def _run(
    model, tokenizer, prompts, numbers, max_tokens, temperature, top_k, seed, cached=True
) -> Iterator[tuple[int, str]]:
    """(index of the prompt, piece of its continuation), all prompts together; a row that ends leaves the batch."""
    T, bos = model.config.sequence_len, tokenizer.bos
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    generators = [prompt_generator(seed, i, n) for i, n in zip(ids, numbers)]
    # Bytes of tokens in, whole characters out; a character that is cut at the end becomes U+FFFD.
    decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in prompts]
    special = torch.from_numpy(tokenizer.token_bytes() == 0)
    active, cache = list(range(len(prompts))), None
    for _ in range(max_tokens):
        if not active:
            return
        if not cached or max(len(ids[i]) for i in active) >= T:  # the context slides, see `context`
            cache = None
        elif cache is None:
            cache = Cache()
        logits = next_logits(model, [context(ids[i], T, bos) for i in active], bos, cache)  # (N, V)
        forbidden = torch.ones(logits.size(-1), dtype=torch.bool)  # ids past the vocabulary of a V rounded up ...
        forbidden[: len(special)] = special  # ... and special tokens but BOS
        forbidden[bos] = False
        rows = list(active)
        for i, row in zip(rows, logits.masked_fill(forbidden, -torch.inf)):
            token = pick(row, temperature, top_k, generators[i])
            ids[i].append(token)
            if token == bos:
                active.remove(i)
            piece = decoders[i].decode(b"" if token == bos else tokenizer.decode_bytes([token]), token == bos)
            if piece:
                yield i, piece
        if cache and len(active) < len(rows):
            cache.keep([n for n, i in enumerate(rows) if i in active])
    for i in active:
        if piece := decoders[i].decode(b"", True):
            yield i, piece


# ---- the command

# Control characters would move the cursor, so they are shown as pictures (U+2400 and on), those above 127 as U+FFFD.
# Lone surrogates cannot be printed and become U+FFFD too, as in the tokenizer.
VISIBLE = {i: 0x2400 + i for i in range(32) if chr(i) not in "\n\t"} | {127: 0x2421}
VISIBLE |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], 0xFFFD)


@dataclass
class Sample:
    """Let a run's newest checkpoint continue the texts of --prompt, or texts that you type.

    It is a base model: it continues text and does not answer questions. Without --prompt it asks for lines.

    Example: python -m gpt2course.sample laptop --prompt "The capital of France" --number 2
    """

    run: tyro.conf.Positional[str]  # name of a run, or path of a run, checkpoint or exported folder
    prompt: tuple[str, ...] = ()  # texts to continue ("": a document from its beginning)
    number: int = 1  # continuations of each --prompt
    max_tokens: int = 64  # tokens of a continuation at most; it ends earlier where the model ends the document
    temperature: float = 0.8  # 0: always the most likely token; 1: the model's own probabilities; above 1: wilder
    top_k: int = 50  # draw only from so many most likely tokens; 0: from all
    seed: int = 0  # the same seed and prompt give the same continuations
    device: str = "auto"  # auto, cpu, cuda or mps
    out: str | None = None  # also write prompts and continuations to this JSON file


def main(args: Sample) -> None:
    settings = checked(args.max_tokens, args.temperature, args.top_k, args.seed)
    coerce("number", args.number, int, 1)
    for file in (sys.stdin, sys.stdout):  # bytes that are no text in the terminal's encoding must not end the program
        with contextlib.suppress(AttributeError):  # in a notebook it is no text file
            file.reconfigure(errors="replace")
    model, tokenizer, _ = load_model(args.run, args.device)
    try:
        if not args.prompt:
            return talk(lambda prompt, n: stream(model, tokenizer, prompt, *settings, number=n), args.run)
        prompts = [prompt for prompt in args.prompt for _ in range(args.number)]
        texts = generate(model, tokenizer, prompts, *settings)
    except KeyboardInterrupt:
        print()
        sys.exit(130)  # the shell's code for a program that Ctrl-C ended
    print(f"temperature {args.temperature}, top-k {args.top_k}; the prompt ends at |")
    for prompt, text in zip(prompts, texts):
        line = f"{prompt} | {text.strip()}".translate(VISIBLE)
        print("\n" + textwrap.fill(line, 110, subsequent_indent="  "))
    if args.out:
        visible = {"prompts": prompts, "texts": texts}
        write_json(args.out, {name: [text.translate(VISIBLE) for text in found] for name, found in visible.items()})


def talk(pieces, run: str) -> None:
    """The terminal prompt: `pieces(prompt, number)` streams a continuation. Ends at an empty line, Ctrl-D or Ctrl-C."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history for input()
    print(f"{run} is a base model: it continues the text you begin, it does not answer questions.")
    print("Begin a text and press Enter. Ctrl-C stops a continuation; an empty line or Ctrl-D ends.")
    seen = Counter()
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not line:
            return
        try:
            print(line.translate(VISIBLE), end="", flush=True)
            for piece in pieces(line, seen[line]):
                print(piece.translate(VISIBLE), end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        seen[line] += 1  # the same line again gets another continuation
        print("\n")


if __name__ == "__main__":
    command(main)
