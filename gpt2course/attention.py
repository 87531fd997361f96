"""Causal attention with sliding windows in one function, and the cache of keys and values. Lessons 03, 06, 13.

The model calls `attention` in training and `Cache.attend` in sampling. `sdpa`, torch's own attention with a mask, runs
on every device and is the reference for all faster kernels. The file fast/kernels.py installs one of those.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

FULL = (-1, 0)  # the window that shows the whole past


def constant(make):
    """As functools.lru_cache, which torch.compile ignores: it keeps the results of this one in its graph."""
    kept = functools.lru_cache(maxsize=64)(make)
    call = functools.wraps(make)(lambda *args: kept(*args))
    call.cache_clear, call._dynamo_marked_constant = kept.cache_clear, True  # what assume_constant_result sets
    return call


@constant
def window_mask(T_q: int, T_k: int, left: int, device) -> Tensor:
    """Which keys each query may see: booleans (T_q, T_k), True = visible.

    The queries are the last T_q of the T_k positions, so the same mask serves training (T_q = T_k) and a cache.
    The query at position i sees the keys i - left ... i, that is `left` previous tokens and itself; left < 0 sees all.
    """
    i = torch.arange(T_k - T_q, T_k, device=device)[:, None]  # (T_q, 1) positions of the queries
    j = torch.arange(T_k, device=device)[None, :]  # (1, T_k) positions of the keys
    visible = j <= i
    return visible if left < 0 else visible & (j >= i - left)


def sdpa(q: Tensor, k: Tensor, v: Tensor, left: int, pad: Tensor | None = None) -> Tensor:
    """The reference: torch's attention with a mask. Arguments as in `attention`; left < 0 for the whole past.

    The mask is applied after all T x T_k scores are computed, so a short window costs as much as the whole past.
    """
    T, T_k = q.size(1), k.size(1)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D), (B, Hkv, T_k, D)
    gqa = q.size(1) != k.size(1)  # grouped queries: several heads of q share one head of k and v
    if pad is None and left < 0 and T in (1, T_k):  # torch's causal path; a single query is the last and sees all keys
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T == T_k, enable_gqa=gqa)
    else:
        mask = window_mask(T, T_k, left, q.device)  # (T, T_k)
        if pad is not None:
            text = torch.arange(T_k, device=q.device) >= pad[:, None]  # (B, T_k)
            itself = window_mask(T, T_k, 0, q.device)  # (T, T_k); a row without any visible key would give NaN
            mask = (mask & text[:, None] | itself)[:, None]  # (B, 1, T, T_k)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=gqa)
    return y.transpose(1, 2)  # (B, T, H, D)


_kernels = {}  # device type -> kernel (q, k, v, left) -> y


def install(device_type: str, kernel) -> None:
    """From now on use this kernel on this type of device ("cpu", "cuda"). Without a call, `sdpa` is used."""
    _kernels[device_type] = kernel


def attention(q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int] = FULL, pad: Tensor | None = None) -> Tensor:
    """Causal attention softmax(q k^T / sqrt(D)) v inside a sliding window.

    q (B, T, H, D); k and v (B, T_k, Hkv, D), where H is a multiple of Hkv (grouped queries) and T <= T_k: the queries
    are the last T positions. Returns (B, T, H, D) in q's dtype.
    window: (W, 0) shows a query W previous tokens and itself, W + 1 keys in all, which is FlashAttention's convention
    (github.com/Dao-AILab/flash-attention, `window_size`); (-1, 0) shows the whole past.
    pad: (B,) the number of filler keys at the start of each row. Only a filler token sees filler: itself.

    The installed kernel computes whole sequences. Queries after a cache (T < T_k, or pad) always go to `sdpa`: they are
    few, their shapes change at every call, and `Cache` has already cut the keys to the window.
    """
    left, right = window
    if right != 0:
        raise ValueError(f"attention is causal: window must be (W, 0), got {window}")
    T, T_k = q.size(1), k.size(1)
    if left >= T_k - 1:
        left = -1  # the window is longer than the text and hides nothing
    if T != T_k or pad is not None:
        return sdpa(q, k, v, left, pad)
    return _kernels.get(q.device.type, sdpa)(q, k, v, left)


class Cache:
    """The keys and values of the tokens read so far, so that a model does not read them again. Lesson 13 builds it.

    model(idx (B, T), cache=cache) reads idx as the continuation of each row and returns the logits (B, T, V) of these T
    tokens. Each layer keeps all past keys and values, or the last W of them if its window is (W, 0).
    Rows of different lengths are aligned at their ends: a shorter row starts with `pad` (B,) filler tokens, which have
    no position and which no real token sees. pad = None means no filler. The cache cannot drop its oldest tokens to
    make room: keys contain their positions, and in deeper layers they contain information from earlier tokens.
    """

    def __init__(self, pad: Tensor | None = None):
        self.pad = pad
        self.length = 0  # columns read, filler included
        self.past = {}  # layer -> its keys and values, each (B, T_k, Hkv, D)
        self.last = None  # (B, 1, C): embedding of the last token, for the smear

    def advance(self, T: int, device=None) -> Tensor:
        """Positions of the next T columns: (T,), or (B, T) with filler. A model calls it once, before its layers."""
        columns = torch.arange(self.length, self.length + T, device=device)
        self.length += T
        return columns if self.pad is None else (columns - self.pad[:, None]).clamp(min=0)

    def attend(self, layer, q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int] = FULL) -> Tensor:
        """Append the new keys and values to the layer's past; `attention` of the new queries to all of it."""
        if layer in self.past:
            old_k, old_v = self.past[layer]
            k, v = torch.cat([old_k, k], dim=1), torch.cat([old_v, v], dim=1)  # (B, T_k, Hkv, D)
        T_k = k.size(1)
        first = 0 if window[0] < 0 else max(0, T_k - window[0])  # the next query sees the last W keys and its own
        self.past[layer] = k[:, first:], v[:, first:]
        pad = None if self.pad is None else self.pad - (self.length - T_k)  # filler left among these keys
        return attention(q, k, v, window, pad)

    def shift(self, x: Tensor) -> Tensor:
        """(B, 1 + T, C): new embeddings x (B, T, C) after the one before them; 0 before a row's first token."""
        if self.pad is not None:
            columns = torch.arange(self.length - x.size(1), self.length, device=x.device)
            x = x.masked_fill((columns < self.pad[:, None])[..., None], 0)
        before = torch.zeros_like(x[:, :1]) if self.last is None else self.last
        self.last = x[:, -1:]
        return torch.cat([before, x], dim=1)

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows; the others have finished generating."""
        self.past = {layer: (k[rows], v[rows]) for layer, (k, v) in self.past.items()}
        if self.pad is not None:
            self.pad = self.pad[rows]
        if self.last is not None:
            self.last = self.last[rows]
