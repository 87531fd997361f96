"""Any causal language model that `transformers` can read from a folder, scored by CORE like ours (pip install
"gpt2course[hf]")."""

import hashlib
from pathlib import Path

import torch

from gpt2course.files import UserError


class Model(torch.nn.Module):
    """The two calls that core_fast.py makes of a model, on a transformers model: states of the last layer, and the
    head.

    Rows are read without a cache, so choices of several tokens do not share their prompt; single tokens do.
    """

    shares = False

    def __init__(self, inner):
        super().__init__()
        self.inner, self.cap = inner, getattr(inner.config, "final_logit_softcapping", None)
        self.max_len = getattr(inner.config, "n_positions", None)  # learned positions: there is no later one

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (B, T), filled up on the right, which a causal model does not see -> states (B, T, C)."""
        return self.inner.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def head(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.inner.get_output_embeddings()(x).float()
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V) as transformers itself gives them."""
        return self.inner(input_ids=ids, use_cache=False).logits.float()


class Tokenizer:
    """encode and bos of a transformers tokenizer; BOS is its own, or the end-of-text token where it has none."""

    def __init__(self, inner):
        self.inner = inner
        self.bos = inner.bos_token_id if inner.bos_token_id is not None else inner.eos_token_id
        if self.bos is None:
            raise UserError(
                f"tokenizer {inner.name_or_path} has neither a BOS nor an end-of-text token; "
                f"CORE's prompts begin with one"
            )
        self.sha256 = hashlib.sha256(repr(sorted(inner.get_vocab().items())).encode()).hexdigest()

    def encode(self, text: str, bos: bool = False) -> list[int]:
        return [self.bos] * bos + self.inner.encode(text, add_special_tokens=False)


def load(folder, device, dtype=torch.float32) -> tuple[Model, Tokenizer]:
    """Model and tokenizer from a local folder; nothing is downloaded, and no code in the folder is run."""
    try:
        import transformers
    except ImportError:
        raise UserError(
            f'{folder} needs the package transformers; install it with: pip install "transformers>=5"'
        ) from None
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as e:
        raise UserError(
            f"{Path(folder)} is not a causal language model that transformers can read ({str(e).splitlines()[0]})"
        ) from None
    return Model(model).to(device).eval(), Tokenizer(tokenizer)
