"""The modern GPT. Each step of the ladder is a config field that can be switched off. Lessons 03, 06, 07 and 08.

The architecture is that of the nanochat speedrun of 29 January 2026 (karpathy/nanochat, commit 348fbb3) and, with other
fields, that of its later record (commit 92d63d4). A block computes

    x = resid_lambda * x + x0_lambda * x0;  x = x + attention(norm(x));  x = x + mlp(norm(x))

Letters in shapes: B batch, T time, C width (n_embd), H heads, D head size, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from gpt2course.attention import Cache, attention
from gpt2course.losses import cross_entropy, softcap


@dataclass(frozen=True)
class GPTConfig:
    """All sizes and switches of the model. The comment `off: ...` gives the value that disables a feature."""

    vocab_size: int = 32768
    sequence_len: int = 2048  # T of training; longer inputs work too
    n_layer: int = 12
    n_embd: int = 768
    n_head: int = 6
    n_kv_head: int = 6  # fewer than n_head: grouped-query attention (arXiv 2305.13245)
    rope_base: float = 10_000.0  # rotary positions (arXiv 2104.09864); off: 0
    qk_norm: bool = True  # RMSNorm of queries and keys (arXiv 2010.04245); off: False
    qk_gain: float = 1.0  # factor on the normalised queries and keys; off: 1
    softcap: float = 15.0  # squash the logits into (-15, 15) (arXiv 2408.00118); off: 0
    embed_norm: bool = True  # RMSNorm of the token embedding; off: False
    window_pattern: str = "L"  # S short or L long, repeated over the layers; the last layer is always L; off: "L"
    short_window: int = 0  # W of the S layers: a token sees W previous tokens and itself
    resid_lambda: tuple[float, float] | None = None  # initial residual scalar of the first and last layer; off: None
    x0_lambda: tuple[float, float] | None = None  # initial scalar of the skip from the embedding; off: None
    value_embeds: bool = False  # gated value embeddings on every second layer; off: False
    ve_gate_channels: int = 32  # the gate reads this many channels of its layer's input
    ve_gate_scale: float = 2.0  # gate = scale * sigmoid(...)
    ve_gate_init: float = 0.0  # gate weights start uniform in [0, this]
    smear: bool = False  # add a gated copy of the previous token's embedding; off: False
    smear_channels: int = 24  # the gate reads this many channels
    backout: float | None = None  # initial weight of the mid-layer state that is subtracted at the end; off: None
    wte_std: float = 1.0
    lm_head_std: float = 0.001
    c_fc_scale: float = 1.0  # factor on the initial range of the MLP's first matrix

    def __post_init__(self):
        def need(ok, problem):
            if not ok:
                raise ValueError(f"GPTConfig: {problem}")

        for name in ("vocab_size", "sequence_len", "n_layer", "n_embd", "n_head", "n_kv_head"):
            value = getattr(self, name)
            need(isinstance(value, int) and value > 0, f"{name} must be a positive integer, got {value!r}")
        C, H, pattern = self.n_embd, self.n_head, self.window_pattern
        need(C % H == 0, f"n_embd {C} is not a multiple of n_head {H}")
        need(H % self.n_kv_head == 0, f"n_head {H} is not a multiple of n_kv_head {self.n_kv_head}")
        need(self.head_dim % 2 == 0, f"head size {self.head_dim} must be even, since RoPE rotates pairs of channels")
        need(pattern and set(pattern) <= set("SL"), f"window_pattern {pattern!r:.60} may hold only S and L")
        need("S" not in pattern or self.short_window > 0, f"short_window must be positive, got {self.short_window}")
        need(not self.value_embeds or self.ve_gate_channels <= C, f"ve_gate_channels must be at most n_embd {C}")
        need(not self.smear or self.smear_channels <= C, f"smear_channels must be at most n_embd {C}")

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    def window(self, layer: int) -> tuple[int, int]:
        """The attention window (W, 0) of a layer. The last layer is always long, as in nanochat.

        A long window is T, as in nanochat. In training it shows the whole past, in a longer text the last T tokens.
        """
        short = layer < self.n_layer - 1 and self.window_pattern[layer % len(self.window_pattern)] == "S"
        return (self.short_window if short else self.sequence_len), 0

    def has_value_embed(self, layer: int) -> bool:
        """Every second layer, counted back from the last, which always has one: better than all layers (nanochat)."""
        return self.value_embeds and (self.n_layer - 1 - layer) % 2 == 0


def norm(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the last dimension (arXiv 1910.07467), without a scale: the matrix after it can learn one."""
    return F.rms_norm(x, (x.size(-1),))


def rope_tables(T: int, head_dim: int, base: float, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of RoPE's angles t * base^(-2i / head_dim), each (T, head_dim / 2) in float32."""
    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)  # (D/2,)
    angles = torch.arange(T, dtype=torch.float32, device=device)[:, None] * frequencies  # (T, D/2)
    return angles.cos(), angles.sin()


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (x_i, x_{i + D/2}) of x (B, T, H, D) by their angle; cos, sin (T, D/2) or (B, T, D/2).

    Rotated by positions s and t, the product of a query and a key depends on s - t only.
    """
    a, b = x.chunk(2, dim=-1)  # (B, T, H, D/2) each: the two halves, not even and odd channels
    cos, sin = cos[..., None, :], sin[..., None, :]  # (T, 1, D/2) broadcasts over heads
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


class Linear(nn.Linear):
    """A linear layer without bias. Its weight stays in float32 and is cast to the dtype of the input.

    The optimizer adds updates that are too small for bfloat16's 8 significant bits; in float32 they are not lost.
    """

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    """Multi-head causal attention with RoPE, QK-norm, a window and, on some layers, a gated value embedding.

    QK-norm gives queries and keys a fixed length, so that no score exceeds sqrt(D) * qk_gain^2 however large the
    weights grow. It commutes with RoPE, because a rotation changes no length. qk_gain > 1 allows sharper attention.
    The value embedding adds a row of a second table, looked up by the token, to the values: at depth 24 of jan29 these
    tables are 44 % of all parameters and cost almost no FLOPs. The gate decides for each token and head how much.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.config, self.window = config, config.window(layer)
        C, D = config.n_embd, config.head_dim
        self.c_q = Linear(C, config.n_head * D)
        self.c_k = Linear(C, config.n_kv_head * D)
        self.c_v = Linear(C, config.n_kv_head * D)
        self.c_proj = Linear(C, C)
        self.ve_gate = Linear(config.ve_gate_channels, config.n_kv_head) if config.has_value_embed(layer) else None

    def forward(self, x, ve, cos, sin, cache=None):
        B, T, C = x.shape
        cfg, D = self.config, self.config.head_dim
        q = self.c_q(x).view(B, T, cfg.n_head, D)  # (B, T, H, D)
        k = self.c_k(x).view(B, T, cfg.n_kv_head, D)
        v = self.c_v(x).view(B, T, cfg.n_kv_head, D)
        if ve is not None:
            gate = cfg.ve_gate_scale * torch.sigmoid(self.ve_gate(x[..., : cfg.ve_gate_channels]))  # (B, T, Hkv)
            v = v + gate[..., None] * ve.view(B, T, cfg.n_kv_head, D)
        if cfg.rope_base:
            q, k = rope(q, cos, sin), rope(k, cos, sin)
        if cfg.qk_norm:
            q, k = norm(q), norm(k)
        if cfg.qk_gain != 1:
            q, k = q * cfg.qk_gain, k * cfg.qk_gain
        if cache is None:
            y = attention(q, k, v, self.window)  # (B, T, H, D)
        else:
            y = cache.attend(self, q, k, v, self.window)
        return self.c_proj(y.reshape(B, T, C))


class MLP(nn.Module):
    """Two matrices with ReLU squared between them, found by an automatic search (Primer, arXiv 2109.08668)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.c_proj(F.relu(self.c_fc(x)).square())  # (B, T, C) -> (B, T, 4C) -> (B, T, C)


class Block(nn.Module):
    """Attention, then the MLP. Each reads the normalised state and adds its output to the state itself."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, ve, cos, sin, cache=None):
        x = x + self.attn(norm(x), ve, cos, sin, cache)
        return x + self.mlp(norm(x))


def mix(x: torch.Tensor, x0: torch.Tensor, resid: torch.Tensor | None, skip: torch.Tensor | None) -> torch.Tensor:
    """The state that a layer gets: learned scalars weigh the state x against the embedding x0. None: no scalar.

    resid acts once in every layer (1.1^24 = 9.85), so its learning rate is a hundredth of skip's (recipes.py).
    """
    if resid is not None:
        x = resid.to(x.dtype) * x
    return x if skip is None else x + skip.to(x.dtype) * x0


class GPT(nn.Module):
    """The model. Build it on any device, the meta device included, then call `init_weights`.

    Weights are float32; activations are in `compute_dtype`. `embed_dtype` is the dtype of the token and value
    embeddings, and so of their Adam moments: bfloat16 in the recipes' runs on GPUs, where these tables are large.
    """

    def __init__(self, config: GPTConfig, compute_dtype=torch.float32, embed_dtype=torch.float32):
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        V, C = config.vocab_size, config.n_embd
        self.wte = nn.Embedding(V, C, dtype=embed_dtype)
        self.blocks = nn.ModuleList([Block(config, i) for i in range(config.n_layer)])
        kv_dim = config.n_kv_head * config.head_dim
        having = [i for i in range(config.n_layer) if config.has_value_embed(i)]
        self.value_embeds = nn.ModuleDict({str(i): nn.Embedding(V, kv_dim, dtype=embed_dtype) for i in having})
        self.lm_head = Linear(C, V)
        self.resid_lambdas = nn.Parameter(torch.empty(config.n_layer)) if config.resid_lambda else None
        self.x0_lambdas = nn.Parameter(torch.empty(config.n_layer)) if config.x0_lambda else None
        self.smear_gate = Linear(config.smear_channels, 1) if config.smear else None
        self.smear_lambda = nn.Parameter(torch.empty(1)) if config.smear else None
        self.backout_lambda = nn.Parameter(torch.empty(1)) if config.backout is not None else None
        self._rope = {}  # (device, length) -> tables; computed, so not saved with the weights

    @torch.no_grad()
    def init_weights(self, seed: int = 42) -> "GPT":
        """Fill every parameter with random numbers, the same on every device; returns the model.

        wte N(0, wte_std); lm_head N(0, lm_head_std); q, k, v, c_fc and value embeddings uniform with standard deviation
        1 / sqrt(C) (c_fc times c_fc_scale), which keeps the size of their outputs independent of the width.
        Output projections are 0: every block starts as the identity, whatever the depth.
        The small head makes all logits nearly 0, so the loss starts at log V.
        """
        cfg = self.config
        bound = math.sqrt(3 / cfg.n_embd)  # uniform in [-bound, bound] has standard deviation 1 / sqrt(n_embd)
        generator = torch.Generator().manual_seed(seed)

        def normal(p, std):  # drawn on the CPU in float32, so that the device and the dtype do not matter
            p.copy_(torch.empty(p.shape, dtype=torch.float32).normal_(0, std, generator=generator))

        def uniform(p, low, high):
            p.copy_(torch.empty(p.shape, dtype=torch.float32).uniform_(low, high, generator=generator))

        normal(self.wte.weight, cfg.wte_std)
        normal(self.lm_head.weight, cfg.lm_head_std)
        for block in self.blocks:
            for linear in (block.attn.c_q, block.attn.c_k, block.attn.c_v):
                uniform(linear.weight, -bound, bound)
            uniform(block.mlp.c_fc.weight, -bound * cfg.c_fc_scale, bound * cfg.c_fc_scale)
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
            if block.attn.ve_gate is not None:
                uniform(block.attn.ve_gate.weight, 0, cfg.ve_gate_init)
        for ve in self.value_embeds.values():
            uniform(ve.weight, -bound, bound)
        for parameter, ends in ((self.resid_lambdas, cfg.resid_lambda), (self.x0_lambdas, cfg.x0_lambda)):
            if parameter is not None:
                parameter.copy_(torch.linspace(*ends, cfg.n_layer) if cfg.n_layer > 1 else torch.tensor(ends[:1]))
        if cfg.smear:
            uniform(self.smear_gate.weight, 0, 0.02)
            self.smear_lambda.zero_()
        if cfg.backout is not None:
            self.backout_lambda.fill_(cfg.backout)
        return self

    def rope(self, T: int, device) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin tables (T, D/2) in the compute dtype, cached for the training length or the next power of two."""
        trained = self.config.sequence_len
        key = str(device), trained if T <= trained else 1 << (T - 1).bit_length()
        if key not in self._rope:
            tables = rope_tables(key[1], self.config.head_dim, self.config.rope_base or 1.0, device)
            self._rope[key] = [t.to(self.compute_dtype) for t in tables]
        return tuple(t[:T] for t in self._rope[key])

    def hidden(self, idx: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """The normalised state before the head: idx (B, T) -> (B, T, C) in the compute dtype."""
        cfg, T = self.config, idx.size(1)
        if cache is None:
            cos, sin = self.rope(T, idx.device)
        else:
            at = cache.advance(T, idx.device)  # (T,) or (B, T)
            cos, sin = (table[at] for table in self.rope(cache.length, idx.device))
        x = self.wte(idx).to(self.compute_dtype)  # (B, T, C)
        if cfg.embed_norm:
            x = norm(x)
        if cfg.smear:  # before the first layer each token takes in the embedding before it; the first has none
            if cache is not None:
                x = cache.shift(x)  # (B, 1 + T, C)
            gate = torch.sigmoid(self.smear_gate(x[:, 1:, : cfg.smear_channels]))  # (B, T-1, 1)
            gate = self.smear_lambda.to(x.dtype) * gate
            x = torch.cat([x[:, :1], x[:, 1:] + gate * x[:, :-1]], dim=1)
            if cache is not None:
                x = x[:, 1:]
        x0 = x  # (B, T, C), the embedding, which every layer can look back to
        for i, block in enumerate(self.blocks):
            resid, skip = (p if p is None else p[i] for p in (self.resid_lambdas, self.x0_lambdas))
            x = mix(x, x0, resid, skip)
            ve = self.value_embeds[str(i)](idx).to(x.dtype) if cfg.has_value_embed(i) else None  # (B, T, Hkv * D)
            x = block(x, ve, cos, sin, cache)
            if i == cfg.n_layer // 2:
                middle = x
        if cfg.backout is not None:  # the idea: remove from the state what only the second half of the layers needed
            x = x - self.backout_lambda.to(x.dtype) * middle
        return norm(x)

    max_len = None  # no longest input: RoPE has an angle for every position

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) in float32 from states (..., C) of `hidden`; the softcap bounds each of them."""
        return softcap(self.lm_head(x).float(), self.config.softcap)

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None, reduction: str = "mean", cache=None):
        """Logits (B, T, V) in float32 without targets; with targets (B, T), -1 ignored, the loss in nats per token.

        reduction: "mean", "sum", or "none" (B, T) without gradients. With a cache (attention.Cache), idx continues the
        text that the cache holds.
        """
        x = self.hidden(idx, cache)  # (B, T, C)
        if targets is None:
            return self.head(x)  # (B, T, V)
        loss = cross_entropy(x.flatten(0, 1), self.lm_head.weight, targets.flatten(), self.config.softcap, reduction)
        return loss.view(targets.shape) if reduction == "none" else loss

    def num_params(self) -> dict[str, int]:
        """Numbers of parameters by group. `scaling` (matrices + head) gave nanochat the cleanest scaling laws."""
        count = {
            "wte": self.wte.weight.numel(),
            "value_embeds": sum(p.numel() for p in self.value_embeds.parameters()),
            "lm_head": self.lm_head.weight.numel(),
            "matrices": sum(p.numel() for p in self.blocks.parameters()),
        }
        total = sum(p.numel() for p in self.parameters())
        rest, scaling = total - sum(count.values()), count["matrices"] + count["lm_head"]
        return count | {"scalars": rest, "total": total, "scaling": scaling}

    def flops_per_token(self, causal: bool = False) -> float:
        """Training FLOPs per token, forward and backward: 6 for each weight of a matrix product, plus attention.

        The published count (causal=False; PaLM, arXiv 2204.02311, appendix B, and nanochat) is 12 * C * min(W, T) for
        the attention of a layer, as if every query saw a full window. causal=True counts the keys that a query sees.
        """
        cfg, T = self.config, self.config.sequence_len
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, Linear))
        attn = 0.0
        for i in range(cfg.n_layer):
            W = min(cfg.window(i)[0], T)
            keys = W if not causal else sum(min(t, W) + 1 for t in range(T)) / T
            attn += 12 * cfg.n_embd * keys
        return 6 * weights + attn
