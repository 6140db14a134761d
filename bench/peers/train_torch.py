#!/usr/bin/env python3
"""Speed and memory of a training step in plain PyTorch: forward, backward, clipping, AdamW, random tokens.

On the CPU any PyTorch from 1.13 on will do; on Debian 12: apt-get install python3-torch python3-numpy, then
/usr/bin/python3. On a GPU, and with --compile, it takes 2.4 or newer.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import re
import resource
import statistics
import sys
import time

import numpy
import torch
from torch import Tensor, nn

from blocks_torch import IS_MODERN, count_parameters
from llama_torch import Llama, LlamaConfig
from megalodon_torch import PRESETS, Megalodon, MegalodonConfig

LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.95), 0.1, 1.0
ATTENTION_KERNELS = ("flash", "cudnn")
NO_MEMORY = re.compile("out of memory|allocate memory|ALLOC_FAILED")  # PyTorch's own and its libraries' errors
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}\n")


def integer(least: int):
    """An argument type: whole numbers from `least` on."""
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)
    return parse


def positive(text: str) -> float:
    """An argument type: numbers above zero, 1.3e9 as well."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def parse_arguments() -> argparse.Namespace:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                           allow_abbrev=False,
                           epilog="tok_s is the median over the timed steps, tok_s_p10 and tok_s_p90 are percentiles; "
                                  "peak_mb is the most\nGPU memory in tensors, or on the CPU the process's largest "
                                  "resident memory (ru_maxrss), in MB; mfu is the share of\ngemm_peak_tflops, measured "
                                  "in the same process, that flops_per_token make up: 6 for each number of a matrix,\n"
                                  "and attention's to the keys that a query sees. What is recomputed does not count.")
    parser.add_argument("--model", choices=("megalodon", "llama"), required=True,
                        help="llama: Llama 2 with the preset's layers and width and about its parameters")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="byte11m", help="size (default: byte11m)")
    parser.add_argument("--params", type=positive, metavar="N", help="llama: instead of the preset's number of parameters")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--seq", type=integer(1), default=2048, metavar="L",
                        help="tokens of a sequence (default: 2048); Megalodon: at most a chunk, or a multiple of it")
    parser.add_argument("--batch", type=integer(1), default=1, metavar="B", help="sequences of a step (default: 1)")
    parser.add_argument("--accumulate", type=integer(1), default=1, metavar="N",
                        help="do a step's batch in N equal parts, adding up gradients (default: 1)")
    parser.add_argument("--checkpoint", type=integer(0), nargs="?", const=sys.maxsize, default=0, metavar="N",
                        help="recompute activations of the first N blocks, or of all, in the backward pass")
    parser.add_argument("--compile", action="store_true",
                        help="torch.compile of every block and of the loss: blocks alike are compiled once")
    parser.add_argument("--attention", choices=(*ATTENTION_KERNELS, "fastest"), default="fastest",
                        help="llama on a GPU: PyTorch's kernel for it, flash attention or cuDNN's (default: the one that is "
                             "faster at this length)")
    parser.add_argument("--precision", choices=tuple(TYPES), default="float32",
                        help="bfloat16: torch.autocast; weights and moments stay float32 (default: float32)")
    parser.add_argument("--steps", type=integer(1), default=10, metavar="N", help="timed steps (default: 10)")
    parser.add_argument("--warmup", type=integer(0), default=3, metavar="N", help="steps before them (default: 3)")
    parser.add_argument("--time-limit", type=positive, default=math.inf, metavar="S",
                        help="start no step after S seconds: report those that were timed by then")
    parser.add_argument("--wait", action="store_true", help="load PyTorch, then wait for a line on the standard input")
    parser.add_argument("--threads", type=integer(1), default=len(os.sched_getaffinity(0)), metavar="N",
                        help="threads of an operator (default: the cores this process may use, here %(default)s)")
    parser.add_argument("--json", action="store_true", help="print a JSON object on one line")
    options = parser.parse_args()
    chunk = PRESETS[options.preset].chunk_size
    if options.model == "megalodon" and options.seq > chunk and options.seq % chunk != 0:
        parser.error(f"argument --seq: expected at most {chunk} or a multiple of it "
                     f"(the chunk of {options.preset}), got {options.seq}")
    if options.batch % options.accumulate != 0:
        parser.error(f"argument --accumulate: {options.batch} sequences make no {options.accumulate} equal parts")
    if options.params is not None and options.model != "llama":
        parser.error("argument --params: only of llama")
    if (options.compile or options.device == "cuda") and not IS_MODERN:
        parser.error(f"--device cuda and --compile need PyTorch 2.4 or newer, this is {torch.__version__}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"argument --device: PyTorch {torch.__version__} sees no GPU")
    options.checkpoint = min(options.checkpoint, PRESETS[options.preset].num_layers)
    return options


def config_of(options: argparse.Namespace) -> MegalodonConfig | LlamaConfig:
    megalodon = PRESETS[options.preset]
    if options.model == "megalodon":
        return megalodon
    return LlamaConfig.matching(megalodon, round(options.params or megalodon.parameter_count()))


def build(config: MegalodonConfig | LlamaConfig, options: argparse.Namespace) -> nn.Module:
    with torch.device(options.device) if IS_MODERN else contextlib.nullcontext():  # initialized where it stays
        model = Megalodon(config) if isinstance(config, MegalodonConfig) else Llama(config)
    for layer in model.layers[:options.checkpoint]:
        layer.recomputes = True
    if options.compile:
        for layer in model.layers:
            layer.compile(dynamic=False)
        model.loss_of_logits = torch.compile(model.loss_of_logits, dynamic=False)
    return model


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work, device: str, repetitions: int) -> float:
    """Median, after as many calls that do not count."""
    times = []
    for _ in range(2 * repetitions):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[repetitions:])


def measure_gemm_peak(options: argparse.Namespace) -> float:
    """FLOP/s of a large square product in the precision of the training, of random numbers."""
    size, repetitions = (8192, 10) if options.device == "cuda" else (1024, 3)
    a, b = (torch.randn(size, size, device=options.device).to(TYPES[options.precision]) for _ in range(2))
    return 2.0 * size**3 / seconds_of(lambda: a @ b, options.device, repetitions)


def enable_attention(kernel: str) -> None:
    """Of PyTorch's fused attention kernels, this one alone."""
    torch.backends.cuda.enable_flash_sdp(kernel == "flash")
    torch.backends.cuda.enable_cudnn_sdp(kernel == "cudnn")
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_math_sdp(False)


def choose_attention(config: LlamaConfig, options: argparse.Namespace) -> str:
    """Enables the kernel that was asked for or is fastest, forward and backward; returns its name."""
    shape = options.batch // options.accumulate, options.seq, config.num_heads, config.model_dim // config.num_heads
    q, k, v = (torch.randn(shape, device="cuda").bfloat16().transpose(1, 2).requires_grad_() for _ in range(3))
    seconds = {}
    for kernel in ATTENTION_KERNELS if options.attention == "fastest" else (options.attention,):
        enable_attention(kernel)

        def forward_and_backward() -> None:
            nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).backward(v.detach())

        try:
            seconds[kernel] = seconds_of(forward_and_backward, "cuda", 3)
        except RuntimeError as error:
            if options.attention != "fastest" or isinstance(error, torch.cuda.OutOfMemoryError):
                raise
    if not seconds:
        sys.exit(f"{sys.argv[0]}: this PyTorch has no fused attention for {shape} on this GPU")
    fastest = min(seconds, key=seconds.__getitem__)
    enable_attention(fastest)
    return fastest


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor, options: argparse.Namespace) -> float:
    """One update on tokens [B, L + 1]; returns the loss."""
    total = 0.0
    for part in tokens.chunk(options.accumulate):
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = model.loss(part[:, :-1], part[:, 1:]) / options.accumulate
        loss.backward()
        total = total + loss.detach()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(total)


def describe(options: argparse.Namespace) -> dict[str, object]:
    """What is known before anything runs: also a failure is reported with it."""
    return {
        "case": "train", "peer": f"pytorch-{options.model}", "arch": options.model, "preset": options.preset,
        "compile": options.compile, "seq": options.seq, "batch": options.batch, "accumulate": options.accumulate,
        "checkpoint": options.checkpoint, "precision": options.precision, "device": options.device,
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads",
        "threads": options.threads, "torch": torch.__version__,
    }


def time_steps(model: nn.Module, options: argparse.Namespace, deadline: float) -> list[float]:
    """Seconds of each timed step."""
    fused = {"fused": True} if options.device == "cuda" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, **fused)
    times = []
    for step in range(options.warmup + options.steps):
        if time.monotonic() > deadline:
            break
        tokens = torch.randint(model.config.vocab_size, (options.batch, options.seq + 1), device=options.device)
        synchronize(options.device)
        start = time.perf_counter()
        loss = train_step(model, optimizer, tokens, options)
        synchronize(options.device)
        seconds = time.perf_counter() - start
        if not math.isfinite(loss):
            sys.exit(f"{sys.argv[0]}: the loss of step {step} is {loss}: this is no training to measure")
        if step >= options.warmup:
            times.append(seconds)
    return times


def peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(options: argparse.Namespace) -> dict[str, object]:
    deadline = time.monotonic() + options.time_limit
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("highest")  # no TF32
    torch.backends.cudnn.allow_tf32 = False
    torch.set_flush_denormal(True)  # decaying exponentials of the moving average end in denormals, which are slow
    torch.manual_seed(0)
    config = config_of(options)
    gemm_peak = measure_gemm_peak(options)
    attention = {}
    if options.device == "cuda":
        if options.model == "llama" and options.precision == "bfloat16":
            attention = {"attention": choose_attention(config, options)}
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = build(config, options)
    times = time_steps(model, options, deadline)
    if not times:
        return {"error": f"no step was timed within {options.time_limit:g} s"}
    p10, median, p90 = (round(float(rate), 2) for rate in
                        numpy.percentile([options.batch * options.seq / t for t in times], (10, 50, 90)))
    flops = config.train_flops_per_token(options.seq)
    return {
        "tok_s": median, "tok_s_p10": p10, "tok_s_p90": p90, "params": count_parameters(model), "steps": len(times),
        "peak_mb": round(peak_bytes(options.device) / 1e6, 1), "mfu": round(median * flops / gemm_peak, 4),
        "flops_per_token": flops, "gemm_peak_tflops": round(gemm_peak / 1e12, 3), **attention,
    }


def main() -> None:
    options = parse_arguments()
    if options.wait:
        if options.compile:
            importlib.import_module("torch._dynamo")
        if not sys.stdin.readline():
            sys.exit(f"{sys.argv[0]}: the input ended before the line that --wait waits for")
    result = describe(options)
    try:
        result.update(measure(options))
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) and not NO_MEMORY.search(str(error)):
            raise
        result["error"] = "out of memory"
    if options.json:
        print(json.dumps(result), flush=True)
    elif "error" in result:
        print(f"{sys.argv[0]}: {result['error']}", file=sys.stderr)
    else:
        print("{peer} {preset} {precision}, {batch} x {seq}: {tok_s:.4g} tokens/s (p10 {tok_s_p10:.4g}, p90 "
              "{tok_s_p90:.4g}), mfu {mfu:.2f}, {params} parameters, peak {peak_mb:.0f} MB, {machine}, torch {torch}"
              .format(**result))
    sys.exit(1 if "error" in result else 0)


if __name__ == "__main__":
    main()
