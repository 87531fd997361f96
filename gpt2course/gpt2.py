"""GPT-2 as it was in 2019: the first rung of the ladder, and a reader of the released weights. Lesson 03 builds it.

"Language Models are Unsupervised Multitask Learners" (Radford et al., 2019), with the constants of
github.com/openai/gpt-2, src/model.py. Learned positions, LayerNorm before attention and MLP, biases everywhere, GELU,
head tied to the token embedding. Dropout is left out: the released models are run without it, and a run of less than an
epoch does not need it.

Letters in shapes: B batch, T time, C width (n_embd), H heads, D head size, V vocabulary.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from gpt2course.attention import Cache, attention
from gpt2course.files import UserError, read_json
from gpt2course.losses import cross_entropy


@dataclass(frozen=True)
class GPT2Config:
    """The sizes of a GPT-2; the defaults are those of the smallest released model."""

    vocab_size: int = 50257
    sequence_len: int = 1024  # T of training, and the longest input: there are no more positions
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768

    def __post_init__(self):
        for name in ("vocab_size", "sequence_len", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"GPT2Config: {name} must be a positive integer, got {value!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"GPT2Config: n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


# The four released sizes by their names on the Hugging Face hub. The paper's table says 117M, 345M, 762M and 1542M;
# these hold 124, 355, 774 and 1558 million parameters.
SIZES = {
    "gpt2": GPT2Config(),
    "gpt2-medium": GPT2Config(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": GPT2Config(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": GPT2Config(n_layer=48, n_head=25, n_embd=1600),
}

# What a config.json may say of a model with the same tensors that computes something else.
VARIANT = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}


# How GPT-2 splits text before merging (github.com/openai/gpt-2, src/encoder.py)
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class Linear(nn.Linear):
    """y = x W^T + b, whose float32 master weights are cast to the dtype of the input."""

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
    def __init__(self, config: GPT2Config):
        super().__init__()
        self.ln_1, self.attn = LayerNorm(config.n_embd), Attention(config)
        self.ln_2, self.mlp = LayerNorm(config.n_embd), MLP(config)

    def forward(self, x, cache=None):
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """The model, used like model.GPT. Build it anywhere, the meta device included, then call `init_weights`.

    Weights are float32 masters; activations run in `compute_dtype`.
    """

    def __init__(self, config: GPT2Config, compute_dtype=torch.float32):
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # also the head: logits = x wte^T
        self.wpe = nn.Embedding(config.sequence_len, config.n_embd)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd)

    @torch.no_grad()
    def init_weights(self, seed: int = 42) -> "GPT2":
        """Fill every parameter, the same on every device; returns the model.

        Matrices and wte N(0, 0.02), wpe N(0, 0.01), the two projections onto the residual stream of each layer smaller
        by 1 / sqrt(2 n_layer), so that their sum does not grow with depth; biases 0, LayerNorm 1 and 0.
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

        UserError where T, or with a cache the length of a row, exceeds config.sequence_len.
        """
        T, most = idx.size(1), self.config.sequence_len
        at = slice(T)
        if cache is not None:
            at = cache.advance(T, idx.device)  # (T,) or (B, T)
            T = int(at.max()) + 1
        if T > most:
            mend = f"crop the input to its last {most} tokens"
            raise UserError(f"GPT-2 has learned positions for {most} tokens, got {T}; {mend}")
        x = (self.wte(idx) + self.wpe.weight[at]).to(self.compute_dtype)  # (B, T, C) + (T, C)
        for block in self.blocks:
            x = block(x, cache)
        return self.ln_f(x)

    @property
    def max_len(self) -> int:
        """The longest input."""
        return self.config.sequence_len

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) in float32 of states (..., C) from `hidden`."""
        return F.linear(x, self.wte.weight.to(x.dtype)).float()

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None, reduction: str = "mean", cache=None):
        """Logits (B, T, V) in float32 without targets; with targets (B, T), -1 ignored, the loss in nats per token.

        reduction: "mean", "sum", or "none" (B, T) without gradients. cache: idx follows what it holds; see
        attention.Cache.
        """
        x = self.hidden(idx, cache)  # (B, T, C)
        if targets is None:
            return self.head(x)  # (B, T, V)
        loss = cross_entropy(x.flatten(0, 1), self.wte.weight, targets.flatten(), 0.0, reduction)
        return loss.view(targets.shape) if reduction == "none" else loss

    def num_params(self) -> dict[str, int]:
        """Parameters by group. lm_head is 0, being wte; `scaling` counts the weights of matrix products, so wte once.

        `scalars` are biases and LayerNorm.
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
        """Training FLOPs a token, counted as in model.GPT: 6 for each weight of a matrix product, 12 C T for attention.

        causal=True counts the keys that a query really sees, (T + 1) / 2 on average.
        """
        cfg, T = self.config, self.config.sequence_len
        return 6 * self.num_params()["scaling"] + 12 * cfg.n_layer * cfg.n_embd * ((T + 1) / 2 if causal else T)


def load_released(path, compute_dtype=torch.float32, n_head: int | None = None) -> GPT2:
    """The model in a safetensors file of GPT-2's weights, in the layout of gpt2, gpt2-medium, gpt2-large and gpt2-xl on
    the Hugging Face hub; on the CPU, in float32.

    path: the file, or the folder that holds it as model.safetensors. The sizes are read off the shapes. The number of
    heads does not show in them: it is n_head, else what a config.json beside the file says, else C / 64 as in all four.
    A config.json that contradicts the shapes, or describes a variant of GPT-2 that computes something else, is refused.
    In the file, names may begin with "transformer.", matrices are stored (in, out), the transpose of ours, and the
    masks h.*.attn.bias are no weights. Every missing, extra or wrongly shaped tensor is a UserError that names it.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        mend = "give a safetensors file, or a folder that holds model.safetensors"
        raise UserError(f"GPT-2 weights {path} do not exist; {mend}")

    def need(ok, problem):
        if not ok:
            raise UserError(f"GPT-2 weights {path}: {problem}")

    try:
        with safe_open(path, "pt") as file:
            return _read(file, path, need, compute_dtype, n_head)
    except SafetensorError as e:
        need(False, f"this is no whole safetensors file ({e}); download it again")


def _read(file, path: Path, need, compute_dtype, n_head) -> GPT2:
    stored = {}  # the name without its prefix -> the name in the file
    for name in file.keys():
        plain = name.removeprefix("transformer.")
        need(plain not in stored, f"{plain} is there twice, as {stored.get(plain)} and as {name}")
        if not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", plain):
            stored[plain] = name
    shape = {plain: tuple(file.get_slice(name).get_shape()) for plain, name in stored.items()}

    for name in ("wte.weight", "wpe.weight"):
        need(name in shape, f"tensor {name} is missing")
        two = len(shape[name]) == 2 and min(shape[name]) > 0
        need(two, f"tensor {name} has shape {shape[name]}; two dimensions, neither of them 0, are expected")
    (V, C), T = shape["wte.weight"], shape["wpe.weight"][0]
    layers = sorted({int(m[1]) for name in shape if (m := re.match(r"h\.(\d{1,6})\.", name))})
    L = next((i for i, layer in enumerate(layers) if i != layer), len(layers))
    need(layers and L == len(layers), f"all tensors of layer h.{L} are missing")
    heads = C // 64
    if (about := path.with_name("config.json")).is_file():
        said = read_json(about, "GPT-2 configuration")
        need(isinstance(said, dict), f"{about} does not hold an object")
        for name, found in dict(vocab_size=V, n_positions=T, n_embd=C, n_layer=L).items():
            need(said.get(name, found) == found, f"{name} is {found} by the shapes, but {said.get(name)!r} in {about}")
        for name, ours in VARIANT.items():
            need(said.get(name, ours) == ours, f"{about} says {name} = {said.get(name)!r}; GPT-2 has {ours!r}")
        heads = said.get("n_head", heads)
    heads = n_head if n_head is not None else heads
    fits = isinstance(heads, int) and heads > 0 and C % heads == 0
    need(fits, f"{heads!r} heads do not divide the width {C}; say how many there are with n_head")

    with torch.device("meta"):
        model = GPT2(GPT2Config(V, T, L, heads, C), compute_dtype)
    names = {p: re.sub(r"^blocks\.", "h.", p) for p, _ in model.named_parameters()}  # ours -> the released one
    turned = {p for p, value in model.named_parameters() if p.startswith("blocks.") and value.ndim == 2}
    tied = {"lm_head.weight"} & shape.keys()  # some files hold the head as well
    problems = [f"tensor {name} is missing" for name in names.values() if name not in shape]
    extra = sorted(shape.keys() - set(names.values()) - tied)
    problems += [f"tensor {stored[name]} does not belong to a GPT-2" for name in extra]
    for p, value in model.named_parameters():
        want, found = tuple(value.shape[::-1] if p in turned else value.shape), shape.get(names[p])
        if found not in (want, None):
            problems.append(f"tensor {names[p]} has shape {found}; {want} is expected")
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    need(not problems, "; ".join(problems[:3]) + more)

    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for p, value in model.named_parameters():  # one at a time: the largest model takes 6 GB, and not twice
            tensor = file.get_tensor(stored[names[p]])
            wrong = f"tensor {names[p]} is of {tensor.dtype}; a floating-point type is expected"
            need(tensor.is_floating_point(), wrong)
            value.copy_(tensor.T if p in turned else tensor)
    for name in tied:
        same = torch.equal(file.get_tensor(stored[name]).float(), model.wte.weight)
        need(same, f"tensor {name} is not the same as wte.weight; GPT-2's head is tied to its embedding")
    return model.eval()


def load_tokenizer(folder):
    """GPT-2's tokenizer from the vocab.json and merges.txt beside the released weights, as a tokenizer.Tokenizer.

    Its one special token, <|endoftext|>, is BOS. UserError where a file is missing or the two contradict each other.
    """
    from gpt2course.tokenizer import Tokenizer

    folder = Path(folder)
    vocab = read_json(folder / "vocab.json", "GPT-2 vocabulary")
    try:
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"GPT-2 merges {folder / 'merges.txt'} cannot be read ({e}); download it again") from None

    def need(ok, problem):
        if not ok:
            raise UserError(f"GPT-2 tokenizer in {folder}: {problem}; download vocab.json and merges.txt again")

    need(isinstance(vocab, dict) and "<|endoftext|>" in vocab, "vocab.json has no <|endoftext|>")
    need(all(type(i) is int for i in vocab.values()), "vocab.json holds an id that is no whole number")
    # in these files a byte is written as a character: itself where it can be seen, else one from U+0100 on, in order
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in seen]
    byte = {chr(b): b for b in seen} | {chr(256 + i): b for i, b in enumerate(hidden)}
    plain = {name: i for name, i in vocab.items() if name != "<|endoftext|>"}
    need(set("".join(plain)) <= set(byte), "vocab.json holds a character that stands for no byte")
    ids = {bytes(byte[c] for c in name): i for name, i in plain.items()}
    in_order = sorted(ids.values()) == list(range(len(ids))) and vocab["<|endoftext|>"] == len(ids)
    need(in_order, "the ids of vocab.json are not 0, 1, 2 and so on with <|endoftext|> last")
    ranks = sorted(ids, key=ids.get)
    need(all(len(token) == 1 for token in ranks[:256]), "the first 256 tokens of vocab.json are not the 256 bytes")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    numbers = f"merges.txt has {len(merges)} merges, vocab.json {len(ranks)} tokens"
    need(len(merges) == len(ranks) - 256, f"{numbers}: 256 more are expected")
    for i, pair in enumerate(merges):
        made = bytes(byte.get(c, 0) for c in "".join(pair))
        wrong = f"merge {i + 1} ({' '.join(pair)}) does not make token {256 + i} of vocab.json"
        need(len(pair) == 2 and ranks[256 + i] == made, wrong)
    return Tokenizer(ranks, SPLIT_PATTERN, {"trained_by": "OpenAI, 2019"}, special=("<|endoftext|>",))
