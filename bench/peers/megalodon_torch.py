"""Megalodon (Ma et al., 2024) in plain PyTorch, as a careful user would write it: vectorized over time, no own kernels.

It computes what src/models/megalodon.cc computes for whole sequences, with the published parameter names, so that speed
is compared between equal models (check_peers.py). It has no carried state, document boundaries or dropout.

Shapes: B batch, L time, D model, N CEMA order, Z shared query/key, E value, H heads, C chunk, G norm groups, F ffn.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks_torch import RecomputableBlock, causal_attention, for_products, next_token_loss, rms_norm, rotary_table, rotate


@dataclass(frozen=True)
class MegalodonConfig:
    """Names and meanings as in src/models/megalodon.h."""
    num_layers: int
    model_dim: int
    z_dim: int
    value_dim: int
    num_heads: int
    ffn_hidden_dim: int
    vocab_size: int
    cema_ndim: int = 16
    chunk_size: int = 2048
    output_size: int = -1
    norm_num_groups: int = 32
    norm_affine: bool = True
    norm_eps: float = 1e-5
    rope_base: float = 1e4
    swiglu: bool = False
    rescale_nffn: bool = False
    scale_emb: bool = False
    share_emb: bool = False

    def matrix_count(self) -> int:
        """Numbers of all matrices that a token is multiplied with; the embedding is looked up."""
        dim, value = self.model_dim, self.value_dim
        attention = dim * (self.z_dim + 2 * value + dim) + value * dim
        ffn = dim * self.ffn_hidden_dim * (3 if self.swiglu else 2)
        return self.num_layers * (attention + ffn) + self.classes() * dim

    def parameter_count(self) -> int:
        dim, value = self.model_dim, self.value_dim
        biases = 2 * value + self.z_dim + dim
        norms = dim * (5 if self.norm_affine else 2)  # over time, then RMS norm and layer norm
        cema = 2 * dim + 4 * dim * self.cema_ndim
        layer = biases + norms + cema + 4 * self.z_dim + (dim if self.rescale_nffn else 0)
        embedding = 0 if self.share_emb else self.vocab_size * dim
        return self.matrix_count() + embedding + self.num_layers * layer + 2 * dim

    def train_flops_per_token(self, length: int) -> float:
        """Multiply and add counted apart, backward twice forward; a query sees half of its chunk on average. The moving
        average is left out: it needs 36 D N a layer as a recurrence, and it is the product of a kernel by convolution."""
        keys = min(length, self.chunk_size) / 2
        return 6 * self.matrix_count() + 6 * self.num_layers * keys * (self.z_dim + self.value_dim)

    def classes(self) -> int:
        return self.output_size if self.output_size > 0 else self.vocab_size


PRESETS = {
    "byte11m": MegalodonConfig(num_layers=6, model_dim=384, z_dim=192, value_dim=384, num_heads=3, ffn_hidden_dim=1024,
                               vocab_size=256, cema_ndim=8, chunk_size=256, swiglu=True),
    "mega200M": MegalodonConfig(num_layers=12, model_dim=1024, z_dim=256, value_dim=2048, num_heads=1,
                                ffn_hidden_dim=2560, vocab_size=32000),
    "mega1.3B": MegalodonConfig(num_layers=24, model_dim=2048, z_dim=512, value_dim=4096, num_heads=2,
                                ffn_hidden_dim=4864, vocab_size=32000, norm_num_groups=64),
}


class TimestepNorm(nn.Module):
    """Each group of features is normalized by the mean and variance of all its features over all steps so far."""

    def __init__(self, dim: int, groups: int, eps: float):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.zeros(dim))  # minus one, as in all norms here
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.groups, -1))
        # A difference of running sums cancels, hence float64; it is one number a group, so this costs nothing.
        steps = torch.arange(1, x.shape[1] + 1, dtype=torch.float64, device=x.device)[:, None]
        mean = x.mean(-1).double().cumsum(1) / steps
        square = x.square().mean(-1).double().cumsum(1) / steps
        rstd = torch.rsqrt(square - mean.square() + self.eps)
        y = (x - mean.float()[..., None]) * rstd.float()[..., None]
        return torch.addcmul(self.bias, y.flatten(-2), 1 + self.weight)


class RMSNorm(nn.Module):
    """RMS norm whose weight is stored minus one."""

    def __init__(self, dim: int, affine: bool, eps: float):
        super().__init__()
        self.eps = eps
        self.register_parameter("weight", nn.Parameter(torch.zeros(dim)) if affine else None)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, None if self.weight is None else 1 + self.weight, self.eps)


class LayerNorm(nn.Module):
    """Layer norm whose weight is stored minus one."""

    def __init__(self, dim: int, affine: bool, eps: float):
        super().__init__()
        self.eps = eps
        self.register_parameter("weight", nn.Parameter(torch.zeros(dim)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(dim)) if affine else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], None if self.weight is None else 1 + self.weight, self.bias, self.eps)


class ComplexEMA(nn.Module):
    """h_t = q h_(t-1) + p x_t,  y_t = Re(sum_n g_n h_t,n) + omega x_t,  as a convolution with Re(sum_n p_n g_n q_n^t)
    by FFT."""

    def __init__(self, dim: int, order: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(dim, order, 1) * 0.2)
        self.delta = nn.Parameter(torch.randn(dim, order, 1) * 0.2)
        frequency = torch.exp(-(torch.randperm(dim) + 1.0) * math.log(dim) / dim)
        self.theta = nn.Parameter(torch.logit(frequency).view(dim, 1, 1))
        self.gamma = nn.Parameter(torch.stack((torch.randn(dim, order), torch.zeros(dim, order)), -1))
        self.omega = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim, 1), std=0.25, a=-1, b=1))

    def kernel(self, length: int) -> Tensor:
        """[D, L]. With t = s i + j, s = sqrt(L), q^t is q^(s i) q^j: two short tables and a small matrix product for
        each feature, where one table [D, N, L] would take most of a training step's time and memory."""
        order = self.alpha.shape[1]
        p = torch.sigmoid(self.alpha)
        harmonic = torch.arange(1, order + 1, device=p.device)[:, None] * (2 * math.pi / order)
        log_q = torch.complex(torch.log1p(-p * torch.sigmoid(self.delta)), torch.sigmoid(self.theta) * harmonic)
        c = torch.view_as_complex(self.gamma / math.sqrt(order))[..., None] * p
        stride = math.isqrt(length - 1) + 1
        step = torch.arange(stride, device=p.device)
        coarse, fine = c * torch.exp(log_q * (stride * step)), torch.exp(log_q * step)  # [D, N, s]
        left, right = torch.cat((coarse.real, -coarse.imag), 1), torch.cat((fine.real, fine.imag), 1)
        return (left.transpose(1, 2) @ right).flatten(1)[:, :length]

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # FFT and complex numbers have no bfloat16
            length = x.shape[1]
            x_BDL = x.float().transpose(1, 2)
            kernel_f = torch.fft.rfft(self.kernel(length), n=2 * length)
            y_BDL = torch.fft.irfft(torch.fft.rfft(x_BDL, n=2 * length) * kernel_f, n=2 * length)[..., :length]
            return torch.addcmul(y_BDL, self.omega, x_BDL).transpose(1, 2)


class MegaAttention(nn.Module):
    """y = x + Wh1 m + bh1 + Wh2 (attention r): moving average, then attention inside chunks."""

    def __init__(self, config: MegalodonConfig):
        super().__init__()
        self.heads, self.chunk, self.eps = config.num_heads, config.chunk_size, config.norm_eps
        dim, z, value = config.model_dim, config.z_dim, config.value_dim
        self.gamma = nn.Parameter(torch.zeros(2, z))
        self.beta = nn.Parameter(torch.zeros(2, z))
        self.timenorm = TimestepNorm(dim, config.norm_num_groups, config.norm_eps)
        self.cema = ComplexEMA(dim, config.cema_ndim)
        self.rmsnorm = RMSNorm(dim, config.norm_affine, config.norm_eps)
        self.wv = nn.Linear(dim, value)
        self.wz = nn.Linear(dim, z)
        self.wr = nn.Linear(dim, value)
        self.wh1 = nn.Linear(dim, dim)
        self.wh2 = nn.Linear(value, dim, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        t = self.timenorm(x)
        m = for_products(self.rmsnorm(self.cema(t)))
        z = rms_norm(self.wz(m).unflatten(-1, (self.heads, -1)), None, self.eps)
        scale = (1 + self.gamma) / math.sqrt(z.shape[-1])
        q, k = (rotate(self.chunks(z * a.view(z.shape[-2:]) + b.view(z.shape[-2:])), rotation)
                for a, b in zip(scale, self.beta))
        v = self.chunks(F.silu(self.wv(t)).unflatten(-1, (self.heads, -1)))
        attention = causal_attention(q, k, v, scale=1.0).view(*x.shape[:2], -1)
        return x + self.wh1(m) + self.wh2(attention * F.silu(self.wr(m)))

    def chunks(self, x: Tensor) -> Tensor:
        """[B, L, H, K] to [B L/C, C, H, K]; a sequence shorter than C is one chunk."""
        return x.reshape(-1, min(self.chunk, x.shape[1]), *x.shape[2:])


class NormalizedFfn(nn.Module):
    """residual + [alpha] W2 (silu(W1 u) [W3 u]),  u = LayerNorm(x)"""

    def __init__(self, config: MegalodonConfig, layer: int):
        super().__init__()
        dim, hidden = config.model_dim, config.ffn_hidden_dim
        scale = nn.Parameter(torch.full((dim,), 0.1 * 0.5**layer)) if config.rescale_nffn else None
        self.register_parameter("alpha", scale)
        self.norm = LayerNorm(dim, config.norm_affine, config.norm_eps)
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)
        self.fc3 = nn.Linear(dim, hidden, bias=False) if config.swiglu else None

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        u = for_products(self.norm(x))
        hidden = F.silu(self.fc1(u))
        if self.fc3 is not None:
            hidden = hidden * self.fc3(u)
        y = self.fc2(hidden)
        return residual + (y if self.alpha is None else self.alpha * y)


class Block(RecomputableBlock):
    """Two-hop: the feed-forward block's residual is the input of the block, not of the feed-forward block."""

    def __init__(self, config: MegalodonConfig, layer: int):
        super().__init__()
        self.mega = MegaAttention(config)
        self.nffn = NormalizedFfn(config, layer)

    def run(self, x: Tensor, rotation: Tensor) -> Tensor:
        return self.nffn(self.mega(x, rotation), residual=x)


class Output(nn.Module):
    """Final timestep norm and output matrix."""

    def __init__(self, config: MegalodonConfig):
        super().__init__()
        self.final_norm = TimestepNorm(config.model_dim, config.norm_num_groups, config.norm_eps)
        self.output = nn.Linear(config.model_dim, config.classes(), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.final_norm(x))


class Megalodon(nn.Module):
    """Tokens [B, L] to logits [B, L, vocabulary]; L is at most a chunk or a multiple of it."""

    def __init__(self, config: MegalodonConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.model_dim)
        nn.init.normal_(self.embed.weight, std=config.model_dim**-0.5)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.output = Output(config)
        if config.share_emb:
            self.output.output.weight = self.embed.weight
        self.loss_of_logits = next_token_loss

    def forward(self, tokens: Tensor) -> Tensor:
        config, length = self.config, tokens.shape[1]
        if length > config.chunk_size and length % config.chunk_size != 0:
            raise ValueError(f"a length above one chunk must be a multiple of {config.chunk_size}, got {length}")
        x = self.embed(tokens)
        if config.scale_emb:
            x = x * math.sqrt(config.model_dim)
        rotation = rotary_table(min(config.chunk_size, length), config.z_dim // config.num_heads, config.rope_base,
                                tokens.device)
        for layer in self.layers:
            x = layer(x, rotation)
        return self.output(x)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.loss_of_logits(self(tokens), targets)
