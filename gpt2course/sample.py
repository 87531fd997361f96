"""Text from a model: draw the next token from its probabilities, again and again. Lesson 13 builds it.

`next_logits` runs the model, `probabilities` and `pick` choose a token, `stream` repeats both. A base model continues a
text; it does not answer questions.
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
def next_logits(model, context: list[int], cache: Cache | None = None) -> torch.Tensor:
    """Logits (V,), on the CPU, of the token after a context.

    Without a cache the model reads all of the context, with one only the tokens that it has not read yet.
    """
    new = context if cache is None else context[cache.length :]
    idx = torch.tensor([new], device=next(model.parameters()).device)  # (1, T)
    logits = model(idx) if cache is None else model(idx, cache=cache)  # (1, T, V)
    return logits[0, -1].cpu()


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


def stream(
    model, tokenizer, prompt: str, max_tokens: int = 64, temperature: float = 0.8, top_k: int | None = 50,
    seed: int = 0, number: int = 0,
) -> Iterator[str]:  # fmt: skip
    """Yield the continuation of a prompt in pieces, never half a character.

    model(idx (1, T), cache=attention.Cache()) -> float32 logits (1, T, V), with model.config.sequence_len, the T of
    training. A token costs the forward pass of one position, until the text is longer than T (see `context`): then it
    costs that of the whole context. BOS ends a continuation: there a document ends. number: 0 for the first
    continuation of this prompt, 1 for the second.
    """
    max_tokens, temperature = coerce("max_tokens", max_tokens, int, 0), coerce("temperature", temperature, float, 0)
    top_k, seed = coerce("top_k", top_k, int | None, 0), coerce("seed", seed, int)
    T, bos = model.config.sequence_len, tokenizer.bos
    ids = tokenizer.encode(prompt)
    generator = prompt_generator(seed, ids, number)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # bytes of tokens in, whole characters out
    forbidden = torch.from_numpy(tokenizer.token_bytes() == 0)  # special tokens ...
    forbidden[bos] = False  # ... but BOS
    cache = Cache()
    for _ in range(max_tokens):
        if len(ids) >= T:  # the context slides, see `context`
            cache = None
        logits = next_logits(model, context(ids, T, bos), cache)  # (V,)
        token = pick(logits.masked_fill(forbidden, -torch.inf), temperature, top_k, generator)
        if token == bos:
            break
        ids.append(token)
        if piece := decoder.decode(tokenizer.decode_bytes([token])):
            yield piece
    if piece := decoder.decode(b"", True):  # a character that is cut at the end becomes U+FFFD
        yield piece


def generate(model, tokenizer, prompts: list[str], **settings) -> list[str]:
    """The continuation of every prompt, without the prompt; settings by name, those of `stream`.

    The same prompt given twice gets two continuations.
    """
    numbers = [prompts[:i].count(prompt) for i, prompt in enumerate(prompts)]
    return ["".join(stream(model, tokenizer, p, number=n, **settings)) for p, n in zip(prompts, numbers)]


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
    settings = dict(max_tokens=args.max_tokens, temperature=args.temperature, top_k=args.top_k, seed=args.seed)
    coerce("number", args.number, int, 1)
    model, tokenizer, _ = load_model(args.run, args.device)
    try:
        if not args.prompt:
            return talk(lambda prompt, n: stream(model, tokenizer, prompt, number=n, **settings), args.run)
        prompts = [prompt for prompt in args.prompt for _ in range(args.number)]
        texts = generate(model, tokenizer, prompts, **settings)
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
