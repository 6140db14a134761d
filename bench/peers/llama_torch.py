"""Llama 2 in plain PyTorch, of the size of a Megalodon: what the same parameters cost with full attention.

Shapes: B batch, L time, D model, H heads, F ffn.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks_torch import RecomputableBlock, causal_attention, for_products, next_token_loss, rms_norm, rotary_table, rotate
from megalodon_torch import MegalodonConfig

HEAD_DIM = 128  # of every published Llama 2


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
        """Vocabulary, layers and width of `megalodon`; the feed-forward width that comes nearest to `parameters`, in
        multiples of 16, which vector units like, or of up to 128, the tiles of a GPU's products, where a step is within
        1.5 % of the parameters."""
        dim, layers = megalodon.model_dim, megalodon.num_layers
        outside_ffn = LlamaConfig(layers, dim, 1, 0, megalodon.vocab_size).parameter_count()
        of_one = layers * 3 * dim
        step = next((m for m in (128, 64, 32) if m * of_one <= 0.015 * parameters), 16)
        hidden = step * round((parameters - outside_ffn) / of_one / step)
        if hidden <= 0:
            raise ValueError(f"{parameters} parameters leave none to the feed-forward layers: {outside_ffn} are others")
        return LlamaConfig(layers, dim, max(1, dim // HEAD_DIM), hidden, megalodon.vocab_size)

    def matrix_count(self) -> int:
        """Numbers of all matrices that a token is multiplied with; the embedding is looked up."""
        inside = self.num_layers * (4 * self.model_dim**2 + 3 * self.model_dim * self.ffn_hidden_dim)
        return inside + self.vocab_size * self.model_dim

    def parameter_count(self) -> int:
        return self.matrix_count() + self.vocab_size * self.model_dim + (2 * self.num_layers + 1) * self.model_dim

    def train_flops_per_token(self, length: int) -> float:
        """Multiply and add counted apart, backward twice forward; a query sees half of the keys on average."""
        return 6 * self.matrix_count() + 6 * self.num_layers * length * self.model_dim


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


class Block(RecomputableBlock):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.model_dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.model_dim, config.norm_eps)
        self.ffn = FeedForward(config)

    def run(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attention(for_products(self.attention_norm(x)), rotation)
        return x + self.ffn(for_products(self.ffn_norm(x)))


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
        self.loss_of_logits = next_token_loss

    def forward(self, tokens: Tensor) -> Tensor:
        config = self.config
        x = self.embed(tokens)
        rotation = rotary_table(tokens.shape[1], config.model_dim // config.num_heads, config.rope_base, tokens.device)
        for layer in self.layers:
            x = layer(x, rotation)
        return self.output(self.norm(x))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.loss_of_logits(self(tokens), targets)
