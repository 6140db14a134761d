"""Llama 2 in plain PyTorch, of the size of a Megalodon: what the same parameters cost with full attention.

Shapes: B batch, L time, D model, H heads, F ffn.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks_torch import causal_attention, next_token_loss, rms_norm, rotary_table, rotate
from megalodon_torch import MegalodonConfig


@dataclass(frozen=True)
class LlamaConfig:
    num_layers: int
    model_dim: int
    num_heads: int
    ffn_hidden_dim: int
    vocab_size: int
    norm_eps: float = 1e-5
    rope_base: float = 1e4

    @staticmethod
    def matching(megalodon: MegalodonConfig, parameters: int) -> LlamaConfig:
        """Vocabulary, layers, width and heads of `megalodon`; the feed-forward width that comes nearest to
        `parameters`, in multiples of 16, which vector units like."""
        dim, layers = megalodon.model_dim, megalodon.num_layers
        outside_ffn = 2 * megalodon.vocab_size * dim + layers * (4 * dim * dim + 2 * dim) + dim
        hidden = 16 * round((parameters - outside_ffn) / (layers * 3 * dim) / 16)
        return LlamaConfig(layers, dim, megalodon.num_heads, hidden, megalodon.vocab_size)


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Causal attention over the whole sequence."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.heads, dim = config.num_heads, config.model_dim
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, dim, bias=False)
        self.wv = nn.Linear(dim, dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (self.heads, -1)) for w in (self.wq, self.wk, self.wv))
        y = causal_attention(rotate(q, rotation), rotate(k, rotation), v, scale=q.shape[-1] ** -0.5)
        return self.wo(y)


class FeedForward(nn.Module):
    """SwiGLU: W2 (silu(W1 x) W3 x)"""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.w1 = nn.Linear(config.model_dim, config.ffn_hidden_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_hidden_dim, config.model_dim, bias=False)
        self.w3 = nn.Linear(config.model_dim, config.ffn_hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.model_dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.model_dim, config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation)
        return x + self.ffn(self.ffn_norm(x))


class Llama(nn.Module):
    """Tokens [B, L] to logits [B, L, vocabulary]."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.model_dim)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.model_dim, config.norm_eps)
        self.output = nn.Linear(config.model_dim, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        config = self.config
        x = self.embed(tokens)
        rotation = rotary_table(tokens.shape[1], config.model_dim // config.num_heads, config.rope_base, tokens.device)
        for layer in self.layers:
            x = layer(x, rotation)
        return self.output(self.norm(x))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return next_token_loss(self(tokens), targets)
