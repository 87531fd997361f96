"""Lesson 10. CORE of released models: GPT-2, and any causal language model that `transformers` reads from a folder.

    pip install "gpt2course[hf]"
    python -m gpt2course.ops.hf FOLDER --bundle eval_bundle.zip

A released GPT-2 becomes our own model (gpt2.py), which shares the prompts of a question. All other models are read
without a cache: their choices of several tokens do not share their prompt, so they take longer.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from gpt2course.fast.core_fast import Core, score
from gpt2course.files import UserError, command, read_json
from gpt2course.gpt2 import load_released
from gpt2course.ranks import compute_dtypes, pick_device


class Model(torch.nn.Module):
    """A transformers model with the two calls that core_fast.py makes: states of the last layer, and the head."""

    shares = False  # there is no cache

    def __init__(self, inner):
        super().__init__()
        self.inner, self.cap = inner, getattr(inner.config, "final_logit_softcapping", None)
        self.max_len = getattr(inner.config, "n_positions", None)  # learned positions end there

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (B, T), padded on the right, which a causal model does not see -> states (B, T, C)."""
        return self.inner.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def head(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.inner.get_output_embeddings()(x).float()
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V) as transformers itself gives them."""
        return self.inner(input_ids=ids, use_cache=False).logits.float()


class Tokenizer:
    """encode and bos of a transformers tokenizer. BOS is its own, or the end-of-text token where it has none."""

    def __init__(self, inner):
        self.inner = inner
        self.bos = inner.bos_token_id if inner.bos_token_id is not None else inner.eos_token_id
        if self.bos is None:
            raise UserError(f"the tokenizer of {inner.name_or_path} has neither a BOS nor an end-of-text token")
        self.sha256 = hashlib.sha256(repr(sorted(inner.get_vocab().items())).encode()).hexdigest()

    def encode(self, text: str, bos: bool = False) -> list[int]:
        return [self.bos] * bos + self.inner.encode(text, add_special_tokens=False)


def load(path, device, dtype=torch.float32) -> tuple[torch.nn.Module, Tokenizer]:
    """Model and tokenizer from a local folder. Nothing is downloaded, and no code in the folder is run."""
    try:
        import transformers
    except ImportError:
        problem = "the package transformers is not installed"
        raise UserError(f'{path}: {problem}; install it with: pip install "transformers>=5"') from None
    local = dict(local_files_only=True, trust_remote_code=False)
    try:
        kind = read_json(Path(path) / "config.json", "model configuration").get("model_type")
        tokenizer = Tokenizer(transformers.AutoTokenizer.from_pretrained(path, **local))
        if kind == "gpt2":
            model = load_released(path, dtype)
        else:
            model = Model(transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **local))
    except (OSError, ValueError, KeyError, AttributeError) as e:
        why = str(e).splitlines()[0]
        raise UserError(f"{path} is not a causal language model that transformers can read ({why})") from None
    return model.to(device).eval(), tokenizer


@dataclass
class Released(Core):
    """Score a released GPT-2, or any causal language model of transformers, on CORE, and print a table.

    Example: python -m gpt2course.ops.hf ~/models/gpt2 --max-examples 200
    """

    run: tyro.conf.Positional[str]  # folder with config.json, model.safetensors and the tokenizer's files


def main(args: Released) -> None:
    def load_on(path: str, device: str):
        where = pick_device(device)
        return load(path, where, compute_dtypes(where)[0])

    score(args, load_on)


if __name__ == "__main__":
    command(main)
