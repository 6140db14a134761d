"""What the PyTorch peers share: RMS norm, rotary embedding, causal attention.

Shapes: B batch, L time, H heads, K width of a head's queries and keys, V width of a head's values.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# F.scaled_dot_product_attention came with 2.0, its argument `scale` with 2.1; Megalodon's attention has no 1/sqrt(K).
HAS_FUSED_ATTENTION = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 1)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, times `weight`. The statistics are float32 also for bfloat16 x."""
    wide = x.float()
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).type_as(x)
    return y if weight is None else y * weight


def rotary_table(length: int, head_dim: int, base: float, device: torch.device) -> Tensor:
    """Complex [L, 1, K/2]: the rotations exp(i position base^(-2j/K)), ready to multiply [B, L, H, K/2]."""
    frequency = 1.0 / base ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angle = torch.arange(length, device=device).float()[:, None] * frequency
    return torch.polar(torch.ones_like(angle), angle)[:, None]


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotary embedding of x [B, L, H, K]: the pair (2j, 2j+1) is one complex number, which is fastest in PyTorch."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2).type_as(x)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T, no later step seen) v, for q and k [B, L, H, K] and v [B, L, H, V]; returns [B, L, H V]."""
    # Under autocast rotated queries and keys are float32 and values bfloat16; the fused operator wants one dtype.
    q, k, v = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
    if HAS_FUSED_ATTENTION:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    else:
        length = q.shape[2]
        scores = (q * scale) @ k.transpose(-2, -1)
        scores += torch.full((length, length), -torch.inf, dtype=scores.dtype, device=q.device).triu(1)
        y = scores.softmax(-1) @ v
    return y.transpose(1, 2).flatten(2)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of logits [B, L, vocabulary] in float32, against targets [B, L]."""
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def count_parameters(model: nn.Module) -> int:
    """Trained numbers, a tied matrix counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
