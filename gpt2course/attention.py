"""Causal attention with sliding windows, behind one function. Lesson 06 builds it.

`attention(q, k, v, window)` is all that the model knows. This file owns the choice of kernel; here it is torch's own
scaled dot-product attention (SDPA), which runs everywhere and is the reference for every faster kernel.
"""

import functools

import torch
import torch.nn.functional as F

FULL = (-1, 0)  # the window that hides nothing of the past


@functools.lru_cache(maxsize=64)
def window_mask(T_q: int, T_k: int, left: int, device) -> torch.Tensor:
    """Which keys a query may see, (T_q, T_k) booleans, True = visible; built once for each shape and window.

    The T_q queries are the *last* T_q of the T_k positions, so that the same mask serves a key-value cache.
    A query at position i sees the keys i - left ... i, that is `left` previous tokens and itself; left < 0 sees all.
    """
    i = torch.arange(T_k - T_q, T_k, device=device)[:, None]  # (T_q, 1) positions of the queries
    j = torch.arange(T_k, device=device)[None, :]  # (1, T_k) positions of the keys
    visible = j <= i
    return visible if left < 0 else visible & (j >= i - left)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: tuple[int, int] = FULL) -> torch.Tensor:
    """Causal attention softmax(q k^T / sqrt(D)) v inside a sliding window.

    Shapes: q (B, T, H, D); k and v (B, T_k, Hkv, D) with H a multiple of Hkv (grouped queries) and T <= T_k, the
    queries being the last T positions; returns (B, T, H, D) in q's dtype.
    window: (W, 0) lets a query see W previous tokens and itself, so W + 1 keys, which is FlashAttention's convention
    (github.com/Dao-AILab/flash-attention, `window_size`); (-1, 0) sees the whole past.
    """
    left, right = window
    if right != 0:
        raise ValueError(f"attention is causal: window must be (W, 0), got {window}")
    T, T_k = q.size(1), k.size(1)
    if left >= T_k - 1:
        left = -1  # so wide that it hides nothing
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D), (B, Hkv, T_k, D)
    gqa = q.size(1) != k.size(1)
    if left < 0 and T == T_k:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=window_mask(T, T_k, left, q.device), enable_gqa=gqa)
    return y.transpose(1, 2)  # (B, T, H, D)
