"""Causal attention with sliding windows, behind one function, and a cache of keys and values. Lessons 06 and 13.

`attention(q, k, v, window)` is all that the model knows in training, and `Cache` in sampling. torch's own scaled
dot-product attention with a mask (`sdpa`) runs everywhere and is the reference for every faster kernel; `choose`
takes one of those of kernels.py, once, where a program begins.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

FULL = (-1, 0)  # the window that hides nothing of the past


@functools.lru_cache(maxsize=64)
def window_mask(T_q: int, T_k: int, left: int, device) -> Tensor:
    """Which keys a query may see, (T_q, T_k) booleans, True = visible; built once for each shape and window.

    The T_q queries are the *last* T_q of the T_k positions, so that the same mask serves a key-value cache.
    A query at position i sees the keys i - left ... i, that is `left` previous tokens and itself; left < 0 sees all.
    """
    i = torch.arange(T_k - T_q, T_k, device=device)[:, None]  # (T_q, 1) positions of the queries
    j = torch.arange(T_k, device=device)[None, :]  # (1, T_k) positions of the keys
    visible = j <= i
    return visible if left < 0 else visible & (j >= i - left)


def sdpa(q: Tensor, k: Tensor, v: Tensor, left: int, pad: Tensor | None = None) -> Tensor:
    """The reference, torch's own attention with a mask; arguments as in `attention`, left < 0 for the whole past.

    A mask hides what was computed: a window costs as much as the whole past does, or more.
    """
    T, T_k = q.size(1), k.size(1)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D), (B, Hkv, T_k, D)
    gqa = q.size(1) != k.size(1)  # grouped queries: several heads of q share one of k and v
    if pad is None and left < 0 and T in (1, T_k):  # a single query is the last position, and sees all
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T == T_k, enable_gqa=gqa)
    else:
        mask = window_mask(T, T_k, left, q.device)  # (T, T_k)
        if pad is not None:
            text = torch.arange(T_k, device=q.device) >= pad[:, None]  # (B, T_k)
            itself = window_mask(T, T_k, 0, q.device)  # (T, T_k); softmax over nothing would be NaN
            mask = (mask & text[:, None] | itself)[:, None]  # (B, 1, T, T_k)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=gqa)
    return y.transpose(1, 2)  # (B, T, H, D)


_installed = {}  # device type -> kernel (q, k, v, left) -> y; a device without one uses sdpa


def install(device_type: str, kernel) -> None:
    """Use this kernel for whole sequences on this type of device ("cpu", "cuda") from now on; fast/kernels.py has them."""
    _installed[device_type] = kernel


def attention(q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int] = FULL, pad=None) -> Tensor:
    """Causal attention softmax(q k^T / sqrt(D)) v inside a sliding window.

    Shapes: q (B, T, H, D); k and v (B, T_k, Hkv, D) with H a multiple of Hkv (grouped queries) and T <= T_k, the
    queries being the last T positions; returns (B, T, H, D) in q's dtype.
    window: (W, 0) lets a query see W previous tokens and itself, so W + 1 keys, which is FlashAttention's convention
    (github.com/Dao-AILab/flash-attention, `window_size`); (-1, 0) sees the whole past.
    pad: (B,) how many of a row's first keys are filler, which no query sees but a filler's own; None: none.

    The kernel that was chosen gets whole sequences. Reading after a cache (T < T_k, or pad) is always `sdpa`'s, by
    design: it is short, its shapes change at every call, and `Cache` has cut the keys to the window already.
    """
    left, right = window
    if right != 0:
        raise ValueError(f"attention is causal: window must be (W, 0), got {window}")
    T, T_k = q.size(1), k.size(1)
    if left >= T_k - 1:
        left = -1  # so wide that it hides nothing
    if T != T_k or pad is not None:
        return sdpa(q, k, v, left, pad)
    return _installed.get(q.device.type, sdpa)(q, k, v, left)


class Cache:
    """What a model remembers of the tokens it has read, so that it need not read them again. Lesson 13 builds it.

    model(idx (B, T), cache=cache) reads idx as what follows in each row, and gives the logits (B, T, V) of these T
    alone. A layer needs of the past the keys and values: all of them, or the last W in a layer with the window (W, 0).
    Rows of different lengths end in the same column: the shorter ones begin with `pad` (B,) tokens of filler, which
    count as no positions and which no token sees. None: no row has any. What was read cannot be changed, and the cache
    cannot slide: keys hold their positions, and in deeper layers traces of everything before them.
    """

    def __init__(self, pad: Tensor | None = None):
        self.pad = pad
        self.length = 0  # columns read, the filler among them
        self.past = {}  # layer: its keys and values, each (B, T_k, Hkv, D)
        self.last = None  # (B, 1, C): embedding of the last token, for the smear

    def advance(self, T: int, device=None) -> Tensor:
        """Positions of the next T columns, (T,) or with filler (B, T). A model calls it once, before its layers."""
        columns = torch.arange(self.length, self.length + T, device=device)
        self.length += T
        return columns if self.pad is None else (columns - self.pad[:, None]).clamp(min=0)

    def attend(self, layer, q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int] = FULL) -> Tensor:
        """`attention` of new queries to the past of `layer` and to the new keys and values, which join the past."""
        if layer in self.past:
            old_k, old_v = self.past[layer]
            k, v = torch.cat([old_k, k], dim=1), torch.cat([old_v, v], dim=1)  # (B, T_k, Hkv, D)
        T_k = k.size(1)
        first = 0 if window[0] < 0 else max(0, T_k - window[0])  # the next query sees the last W and itself
        self.past[layer] = k[:, first:], v[:, first:]
        pad = None if self.pad is None else self.pad - (self.length - T_k)  # filler among the keys that are left
        return attention(q, k, v, window, pad)

    def shift(self, x: Tensor) -> Tensor:
        """New embeddings x (B, T, C) with the one before them in front, (B, 1 + T, C); 0 before a row's first token."""
        if self.pad is not None:
            columns = torch.arange(self.length - x.size(1), self.length, device=x.device)
            x = x.masked_fill((columns < self.pad[:, None])[..., None], 0)
        before = torch.zeros_like(x[:, :1]) if self.last is None else self.last
        self.last = x[:, -1:]
        return torch.cat([before, x], dim=1)

    def keep(self, rows: list[int]) -> None:
        """Forget the other rows, whose texts have ended."""
        self.past = {layer: (k[rows], v[rows]) for layer, (k, v) in self.past.items()}
        if self.pad is not None:
            self.pad = self.pad[rows]
        if self.last is not None:
            self.last = self.last[rows]
