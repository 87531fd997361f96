"""Text from a model: the next token is drawn from its probabilities, again and again. Lesson 13 builds it.

Three parts that know nothing of each other: `next_logits` runs the model, `probabilities` and `pick` choose a token,
`Text` turns the bytes of tokens into whole characters. A base model continues a text; it does not answer.
"""

import codecs
import contextlib
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import tyro

from gpt2course.attention import Cache
from gpt2course.files import UserError, command


def context(ids: list[int], T: int, bos: int) -> list[int]:
    """What the model reads to continue `ids`: BOS and the last T - 1 of them, T being the length of training.

    A later position than T - 1 was never trained (in GPT-2 there is none), so the oldest tokens go. BOS stays, since
    every row of training began with it and attention heads learn to rest on the first token (arXiv 2309.17453).
    So in a text longer than that every token moves to another position at every step, and no cache can hold it.
    """
    return [bos, *ids[max(0, len(ids) - (T - 1)) :]]


@torch.no_grad()
def next_logits(model, contexts: list[list[int]], pad: int = 0, cache: Cache | None = None) -> torch.Tensor:
    """The forward pass: logits (N, V) of the token after each of N contexts, on the CPU.

    Without a cache all is read: model(idx (N, T)) -> logits (N, T, V), shorter contexts being filled up on the right,
    which a causal model does not see. With one, only what is new: at first all contexts, filled up on the left, then
    one token of each.
    """
    device, longest = next(model.parameters()).device, max(len(c) for c in contexts)
    filler = [[pad] * (longest - len(c)) for c in contexts]
    if cache is None:
        idx = torch.tensor([c + f for c, f in zip(contexts, filler)], device=device)  # (N, T)
        last = torch.tensor([len(c) - 1 for c in contexts], device=device)
        return model(idx)[torch.arange(len(contexts), device=device), last].cpu()  # (N, T, V) -> (N, V)
    if cache.length:
        idx = torch.tensor([c[-1:] for c in contexts], device=device)  # (N, 1)
    else:
        idx = torch.tensor([f + c for c, f in zip(contexts, filler)], device=device)  # (N, T)
        cache.pad = torch.tensor([len(f) for f in filler], device=device) if any(filler) else None
    return model(idx, cache=cache)[:, -1].cpu()  # (N, V)


def probabilities(logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None) -> torch.Tensor:
    """The distribution (V,) in float64 that the next token is drawn from: softmax(logits / temperature), logits (V,).

    top_k: only the k most likely tokens, exactly k also where some are tied (the lower id first); None or 0: all.
    Temperature 0 is its limit, the most likely token alone. UserError where the logits are not numbers.
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

    They depend on the seed, on the prompt's tokens and on which continuation of this prompt it is, and on nothing else.
    """
    digest = hashlib.sha256(repr((seed, number, ids)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Text:
    """Bytes of tokens in, text out.

    Held back are bytes that are not yet a whole character, and text that may yet become one of `stops`. `stopped` says
    that one of them has come; nothing from it on is given out.
    """

    def __init__(self, stops: Sequence[str] = ()):
        self.stops, self.stopped, self.held = stops, False, ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes, final: bool = False) -> str:
        """The text that is certain after `data`. final: nothing more comes; a cut character becomes U+FFFD."""
        text = self.held + self.decoder.decode(data, final)
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self.held = True, ""
            return text[: min(found)]
        beginnings = [n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        keep = 0 if final else max(beginnings, default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]


def check(max_tokens=1, temperature=1.0, top_k=None, seed=0, stop=None) -> None:
    """UserError for a setting that makes no sense, before any work is done."""

    def need(ok, name, value, allowed):
        if not ok:
            raise UserError(f"{name} = {value!r} is not allowed; {allowed}")

    def whole(x):
        return isinstance(x, int) and not isinstance(x, bool)

    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    need(whole(max_tokens) and max_tokens >= 0, "max_tokens", max_tokens, "a whole number of tokens, 0 or more")
    finite = number and 0 <= temperature < float("inf")
    need(finite, "temperature", temperature, "a finite number, 0 (the most likely token) or more")
    good = top_k is None or whole(top_k) and top_k >= 0
    need(good, "top_k", top_k, "a whole number: 0 for all tokens, or how many of the most likely ones")
    need(whole(seed), "seed", seed, "a whole number")
    good = stop is None or isinstance(stop, (list, tuple)) and all(whole(s) or isinstance(s, str) and s for s in stop)
    need(good, "stop", stop, "a list of texts that are not empty, and of token ids, such as ['\\n']")


def _run(
    model, tokenizer, prompts, numbers, max_tokens, temperature, top_k, seed, stop, cached=True,
) -> Iterator[tuple[int, str]]:  # fmt: skip
    """(index of the prompt, piece of its continuation), all prompts together; rows that end leave the batch."""
    T, bos = model.config.sequence_len, tokenizer.bos
    stop_texts = [s for s in stop or () if isinstance(s, str)]
    ends = {bos}  # at the end of a document the model predicts the BOS of the next one
    for token in (s for s in stop or () if not isinstance(s, str)):
        if not 0 <= token < tokenizer.vocab_size:
            allowed = f"0 to {tokenizer.vocab_size - 1} are allowed"
            raise UserError(f"stop token {token} is outside the vocabulary: {allowed}")
        ends.add(token)
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    generators = [prompt_generator(seed, i, n) for i, n in zip(ids, numbers)]
    texts = [Text(stop_texts) for _ in prompts]
    special = torch.from_numpy(tokenizer.token_bytes() == 0)
    active, forbidden, cache = list(range(len(prompts))), None, None
    for _ in range(max_tokens):
        if not active:
            return
        slides = max(len(ids[i]) for i in active) >= T  # see `context`
        if slides or not cached:
            cache = None
        elif cache is None:
            cache = Cache()
        logits = next_logits(model, [context(ids[i], T, bos) for i in active], bos, cache)  # (N, V)
        if forbidden is None:  # special tokens, and the ids past the vocabulary of a model whose V was rounded up
            forbidden = torch.ones(logits.size(-1), dtype=torch.bool)
            forbidden[: len(special)] = special
            forbidden[list(ends)] = False
        rows = list(active)
        for i, row in zip(rows, logits.masked_fill(forbidden, -torch.inf)):
            token = pick(row, temperature, top_k, generators[i])
            ended = token in ends
            ids[i].append(token)
            piece = texts[i].push(b"" if ended else tokenizer.decode_bytes([token]), final=ended)
            if ended or texts[i].stopped:
                active.remove(i)
            if piece:
                yield i, piece
        if cache and len(active) < len(rows):
            cache.keep([n for n, i in enumerate(rows) if i in active])
    for i in active:
        if piece := texts[i].push(b"", final=True):
            yield i, piece


def generate(
    model, tokenizer, prompts: list[str], max_tokens: int = 64, temperature: float = 0.8, top_k: int | None = 50,
    seed: int = 0, stop=None, cached: bool = True,
) -> list[str]:  # fmt: skip
    """Continue every prompt; returns the continuations without their prompts.

    model(idx (B, T), cache=attention.Cache()) -> float32 logits (B, T, V), with model.config.sequence_len, the T of
    training. A token costs one position's forward pass, until a text of the batch grows past T and the contexts slide
    (`context`): then each costs the whole of them, as all do with cached=False. The text is the same but for rounding.
    temperature, top_k: see `probabilities`. stop: texts or token ids that end a continuation and are not part of it.
    BOS ends it too, for a document ends there; other special tokens are never drawn.
    A continuation depends on the seed and its prompt, not on the rest of the batch (but for rounding: another batch may
    change the last bits of the logits). The same prompt given again gets another one. UserError for bad settings.
    """
    check(max_tokens, temperature, top_k, seed, stop)
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(p, str) for p in prompts):
        raise UserError(f"prompts = {prompts!r} is not allowed; a list of texts")
    seen, numbers, pieces = Counter(), [], [[] for _ in prompts]
    for prompt in prompts:
        numbers.append(seen[prompt])
        seen[prompt] += 1
    for i, piece in _run(model, tokenizer, prompts, numbers, max_tokens, temperature, top_k, seed, stop, cached):
        pieces[i].append(piece)
    return ["".join(p) for p in pieces]


def stream(
    model, tokenizer, prompt: str, max_tokens: int = 64, temperature: float = 0.8, top_k: int | None = 50,
    seed: int = 0, stop=None, number: int = 0,
) -> Iterator[str]:  # fmt: skip
    """Yield the continuation of one prompt in pieces as they come, never half a character; arguments as in `generate`.

    number: 0 for the first continuation of this prompt, 1 for another, as where `generate` is given it again.
    """
    check(max_tokens, temperature, top_k, seed, stop)
    found = _run(model, tokenizer, [prompt], [number], max_tokens, temperature, top_k, seed, stop)
    return (piece for _, piece in found)


# Control characters would move the cursor or change the terminal, so they are shown as pictures (U+2400 and on), those
# above 127 as U+FFFD. So are lone surrogates, which cannot be printed; the tokenizer reads them as U+FFFD too.
VISIBLE = {i: 0x2400 + i for i in range(32) if chr(i) not in "\n\t"} | {127: 0x2421}
VISIBLE |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], 0xFFFD)


def show(text: str) -> None:
    print(text.translate(VISIBLE), end="", flush=True)


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
            show(line)
            for piece in pieces(line, seen[line]):
                show(piece)
        except KeyboardInterrupt:
            show(" [stopped]")
        seen[line] += 1  # the same line again gets another continuation
        print("\n")


@dataclass
class Sample:
    """Let a run's newest checkpoint continue texts: the one of --prompt, or those you type.

    It is a base model: it continues text and does not answer. Without --prompt it opens a small terminal prompt.

    Example: python -m gpt2course.sample laptop --prompt "The capital of France" --number 2
    """

    run: tyro.conf.Positional[str]  # name of a run, or path of a run or checkpoint folder
    # text to continue ("": a document from its beginning); default: read lines from the terminal
    prompt: str | None = None
    max_tokens: int = 64  # tokens of a continuation at most; it ends earlier where the model ends the document
    temperature: float = 0.8  # 0: always the most likely token; 1: the model's own probabilities; above 1: wilder
    top_k: int = 50  # draw only from so many most likely tokens; 0: from all
    seed: int = 0  # the same seed and prompt give the same continuations
    number: int = 3  # continuations of --prompt
    device: str = "auto"  # auto, cpu, cuda or mps


def main(args: Sample) -> None:
    from gpt2course.load import load_model

    check(args.max_tokens, args.temperature, args.top_k, args.seed)
    if args.number < 1:
        raise UserError(f"number = {args.number} is not allowed; 1 or more continuations")
    for file in (sys.stdin, sys.stdout):  # bytes that are no text in the terminal's encoding must not end the program
        with contextlib.suppress(AttributeError):  # not a text file of the system's, in a notebook say
            file.reconfigure(errors="replace")
    model, tokenizer, _ = load_model(args.run, args.device)

    def pieces(prompt, number):
        return stream(model, tokenizer, prompt, args.max_tokens, args.temperature, args.top_k, args.seed, number=number)

    if args.prompt is None:
        return talk(pieces, args.run)
    try:
        for number in range(args.number):
            if args.number > 1:
                print(f"--- {number + 1} of {args.number}")
            show(args.prompt)
            for piece in pieces(args.prompt, number):
                show(piece)
            print()
    except KeyboardInterrupt:
        print()
        sys.exit(130)  # the shell's code for a program that Ctrl-C ended


if __name__ == "__main__":
    command(main)
