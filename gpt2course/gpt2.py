"""GPT-2 as it was in 2019: the first step of the ladder, and a reader of the released weights. Lesson 03 builds it.

"Language Models are Unsupervised Multitask Learners" (Radford et al., 2019), with the constants of
github.com/openai/gpt-2, src/model.py. Learned positions, LayerNorm before attention and MLP, biases everywhere, GELU,
head tied to the token embedding. Dropout is left out: the released models are used without it, and a run that sees no
text twice does not need it.

Letters in shapes: B batch, T time, C width (n_embd), H heads, D head size, V vocabulary.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpt2course.attention import Cache, attention
from gpt2course.files import UserError, read_json
from gpt2course.losses import cross_entropy


@dataclass(frozen=True)
class GPT2Config:
    """The sizes of a GPT-2; the defaults are those of the smallest released model."""

    vocab_size: int = 50257
    sequence_len: int = 1024  # T of training and the longest input: there are no positions beyond it
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768

    def __post_init__(self):
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"GPT2Config: {name} must be a positive integer, got {value!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"GPT2Config: n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


class Linear(nn.Linear):
    """y = x W^T + b. Weights stay in float32 and are cast to the dtype of the input."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class LayerNorm(nn.LayerNorm):
    """LayerNorm (arXiv 1607.06450) with scale and shift, epsilon 1e-5."""

    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Causal multi-head attention over the whole past; one matrix makes queries, keys and values."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x, cache=None):
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.config.n_head, self.config.head_dim).unbind(2)  # (B, T, H, D) each
        y = attention(q, k, v) if cache is None else cache.attend(self, q, k, v)  # (B, T, H, D)
        return self.c_proj(y.reshape(B, T, C))


class MLP(nn.Module):
    """Two matrices with GELU between (arXiv 1606.08415), in its tanh form as released."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # (B, T, C) -> (B, T, 4C) -> (B, T, C)


class Block(nn.Module):
    """Attention, then the MLP. Each reads the normalised state and adds its output to the state itself."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.ln_1, self.attn = LayerNorm(config.n_embd), Attention(config)
        self.ln_2, self.mlp = LayerNorm(config.n_embd), MLP(config)

    def forward(self, x, cache=None):
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """The model, with the methods of model.GPT. Build it on any device, then call `init_weights`.

    Weights are float32; activations are in `compute_dtype`.
    """

    def __init__(self, config: GPT2Config, compute_dtype=torch.float32):
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.max_len = config.sequence_len  # the longest input
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # also the head: logits = x wte^T
        self.wpe = nn.Embedding(config.sequence_len, config.n_embd)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd)

    @torch.no_grad()
    def init_weights(self, seed: int = 42) -> "GPT2":
        """Fill every parameter, with the same numbers on every device; returns the model.

        Matrices and wte N(0, 0.02), wpe N(0, 0.01), biases 0, LayerNorm 1 and 0. The two matrices of each layer that
        add to the state are smaller by 1 / sqrt(2 n_layer), so that the sum over layers does not grow with depth.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.ndim == 1:
                p.fill_(1.0 if re.search(r"ln_\w\.weight$", name) else 0.0)
                continue
            std = 0.01 if name == "wpe.weight" else 0.02
            if name.endswith("c_proj.weight"):
                std /= (2 * self.config.n_layer) ** 0.5
            p.copy_(torch.empty(p.shape).normal_(0, std, generator=generator))  # drawn on the CPU
        return self

    def hidden(self, idx: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """The normalised state before the head: idx (B, T) -> (B, T, C) in the compute dtype.

        UserError if T, or the length of a row in the cache, exceeds config.sequence_len.
        """
        T, most = idx.size(1), self.config.sequence_len
        at = slice(T)
        if cache is not None:
            at = cache.advance(T, idx.device)  # (T,) or (B, T)
            T = int(at.max()) + 1
        if T > most:
            raise UserError(f"GPT-2 has learned positions for {most} tokens, got {T}; pass the last {most} tokens only")
        x = (self.wte(idx) + self.wpe.weight[at]).to(self.compute_dtype)  # (B, T, C) + (T, C)
        for block in self.blocks:
            x = block(x, cache)
        return self.ln_f(x)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) in float32 from states (..., C) of `hidden`."""
        return F.linear(x, self.wte.weight.to(x.dtype)).float()

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None, reduction: str = "mean", cache=None):
        """Logits (B, T, V) in float32 without targets; with targets (B, T), -1 ignored, the loss in nats per token.

        reduction: "mean", "sum", or "none" (B, T) without gradients. With a cache (attention.Cache), idx continues the
        text that the cache holds.
        """
        x = self.hidden(idx, cache)  # (B, T, C)
        if targets is None:
            return self.head(x)  # (B, T, V)
        loss = cross_entropy(x.flatten(0, 1), self.wte.weight, targets.flatten(), 0.0, reduction)
        return loss.view(targets.shape) if reduction == "none" else loss

    def num_params(self) -> dict[str, int]:
        """Numbers of parameters by group; `scalars` are biases and LayerNorm.

        lm_head is 0, because the head is wte. `scaling` counts the weights of matrix products, and so wte once.
        """
        count = {
            "wte": self.wte.weight.numel(),
            "wpe": self.wpe.weight.numel(),
            "value_embeds": 0,
            "lm_head": 0,
            "matrices": sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2),
        }
        total = sum(p.numel() for p in self.parameters())
        rest, scaling = total - sum(count.values()), count["matrices"] + count["wte"]
        return count | {"scalars": rest, "total": total, "scaling": scaling}

    def flops_per_token(self, causal: bool = False) -> float:
        """Training FLOPs per token, as in model.GPT: 6 for each weight of a matrix product, 12 C T for attention.

        causal=True counts the keys that a query sees, (T + 1) / 2 on average.
        """
        cfg, T = self.config, self.config.sequence_len
        return 6 * self.num_params()["scaling"] + 12 * cfg.n_layer * cfg.n_embd * ((T + 1) / 2 if causal else T)


# What a config.json may say about a model with the same tensors that computes something else
RELEASED = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_by_inverse_layer_idx": False}


def load_released(folder, compute_dtype=torch.float32) -> GPT2:
    """Read GPT-2 as it lies on the Hugging Face hub (gpt2, gpt2-medium, gpt2-large, gpt2-xl), on the CPU.

    folder: has model.safetensors and perhaps config.json. The sizes follow from the shapes of the tensors. The number
    of heads does not: it is n_head in config.json, or C / 64, which is right for all four models.
    In the file, names may start with "transformer.", matrices are stored (in, out), the transpose of ours, and the
    causal masks h.*.attn.bias are stored as tensors. UserError names tensors that are missing, extra or misshapen.
    """
    path, about = Path(folder) / "model.safetensors", Path(folder) / "config.json"
    settings = read_json(about, "GPT-2 configuration") if about.is_file() else {}
    if other := {key: settings[key] for key, value in RELEASED.items() if settings.get(key, value) != value}:
        raise UserError(f"{folder} is a variant of GPT-2 that computes something else: {other}; GPT-2 has {RELEASED}")
    try:
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as e:
        raise UserError(f"GPT-2 weights {path} cannot be read ({e}); download the file again") from None
    tensors = {name: t for name, t in tensors.items() if not re.search(r"\.attn\.(masked_)?bias$", name)}
    tensors.pop("lm_head.weight", None)  # some files store the head too; it is the embedding
    try:
        (V, C), T = tensors["wte.weight"].shape, len(tensors["wpe.weight"])
        layers = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
        with torch.device("meta"):
            model = GPT2(GPT2Config(V, T, layers, settings.get("n_head", C // 64), C), compute_dtype)
        ours = {}  # under our names, in our layout, in float32
        for name, t in tensors.items():
            matrix = name.startswith("h.") and t.ndim == 2
            ours[re.sub(r"^h\.", "blocks.", name)] = (t.T if matrix else t).float().contiguous()
        model.load_state_dict(ours, assign=True)
    except (KeyError, ValueError, RuntimeError) as e:  # torch's message names every missing, extra and misshapen tensor
        problem = f"tensor {e} is missing" if isinstance(e, KeyError) else " ".join(str(e).split())[:500]
        raise UserError(f"GPT-2 weights {path}: {problem}") from None
    return model.eval()
