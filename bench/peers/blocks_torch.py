"""What the PyTorch peers share: RMS norm, rotary embedding, causal attention, blocks that can be recomputed.

Shapes: B batch, L time, H heads, K width of a head's queries and keys, V width of a head's values.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])
# F.scaled_dot_product_attention came with 2.0, its argument `scale` with 2.1; Megalodon's attention has no 1/sqrt(K).
HAS_FUSED_ATTENTION = VERSION >= (2, 1)
FUSED_HEAD_DIM = 256  # the widest head of flash attention on a GPU, which also wants K = V
IS_MODERN = VERSION >= (2, 4)  # F.rms_norm, and autocast's settings by type of device


def is_compiling() -> bool:
    """Whether torch.compile traces this call."""
    return IS_MODERN and torch.compiler.is_compiling()


def for_products(x: Tensor) -> Tensor:
    """x as autocast makes it in each linear layer that reads it: once for all of them, and only that copy is kept."""
    if IS_MODERN and torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, times `weight`. The statistics are float32 also for bfloat16 x."""
    if IS_MODERN:
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    wide = x.float()
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).type_as(x)
    return y if weight is None else y * weight


def rotary_table(length: int, head_dim: int, base: float, device: torch.device) -> Tensor:
    """[L, 1, K/2, 2]: cosine and sine of position base^(-2j/K), to rotate the pairs of [B, L, H, K]."""
    frequency = 1.0 / base ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angle = torch.arange(length, device=device).float()[:, None] * frequency
    return torch.stack((angle.cos(), angle.sin()), -1)[:, None]


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotary embedding of x [B, L, H, K], pairs (2j, 2j+1). Complex numbers are fastest as PyTorch is, but torch.compile
    leaves them to kernels of their own, where it fuses real ones with what is around."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if is_compiling():
        (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
        rotated = torch.stack((a * cos - b * sin, a * sin + b * cos), -1)
    else:
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))
    return rotated.flatten(-2).type_as(x)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T, no later step seen) v, for q and k [B, L, H, K] and v [B, L, H, V]; returns [B, L, H V]."""
    # Under autocast rotated queries and keys are float32 and values bfloat16; the fused operator wants one dtype.
    q, k, v = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
    if HAS_FUSED_ATTENTION and (not v.is_cuda or q.shape[-1] == v.shape[-1] <= FUSED_HEAD_DIM):
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


class RecomputableBlock(nn.Module):
    """A block of a model, `run(x, rotation)`. Where `recomputes` is set, it keeps x alone for the backward pass, which
    then begins with another forward pass (activation checkpointing)."""

    def __init__(self) -> None:
        super().__init__()
        self.recomputes = False

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        if self.recomputes:  # nothing is drawn at random
            return checkpoint(self.run, x, rotation, use_reentrant=False, preserve_rng_state=False)
        return self.run(x, rotation)


def count_parameters(model: nn.Module) -> int:
    """Trained numbers, a tied matrix counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
