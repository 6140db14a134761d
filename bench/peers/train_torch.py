#!/usr/bin/env python3
"""Speed and memory of a training step in plain PyTorch, on the CPU: forward, backward, clipping, AdamW, random tokens.

Any PyTorch from 1.13 on will do; on Debian 12: apt-get install python3-torch python3-numpy, then /usr/bin/python3.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import time

import numpy
import torch
from torch import Tensor, nn

from blocks_torch import count_parameters
from llama_torch import Llama, LlamaConfig
from megalodon_torch import PRESETS, Megalodon

LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.95), 0.1, 1.0


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


def parse_arguments() -> argparse.Namespace:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                           allow_abbrev=False,
                           epilog="tok_s is the median over the timed steps, tok_s_p10 and tok_s_p90 are percentiles; "
                                  "peak_mb is the\nprocess's largest resident memory (ru_maxrss) in MB.")
    parser.add_argument("--model", choices=("megalodon", "llama"), required=True,
                        help="llama: Llama 2 with the preset's layers, width and heads and about its parameters")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="byte11m", help="size (default: byte11m)")
    parser.add_argument("--seq", type=integer(1), default=2048, metavar="L",
                        help="tokens of a sequence (default: 2048); Megalodon: at most a chunk, or a multiple of it")
    parser.add_argument("--batch", type=integer(1), default=1, metavar="B", help="sequences of a step (default: 1)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32",
                        help="bfloat16: torch.autocast; weights and moments stay float32 (default: float32)")
    parser.add_argument("--steps", type=integer(1), default=10, metavar="N", help="timed steps (default: 10)")
    parser.add_argument("--warmup", type=integer(0), default=2, metavar="N", help="steps before them (default: 2)")
    parser.add_argument("--threads", type=integer(1), default=len(os.sched_getaffinity(0)), metavar="N",
                        help="threads of an operator (default: the cores this process may use, here %(default)s)")
    parser.add_argument("--json", action="store_true", help="print a JSON object on one line")
    options = parser.parse_args()
    chunk = PRESETS[options.preset].chunk_size
    if options.model == "megalodon" and options.seq > chunk and options.seq % chunk != 0:
        parser.error(f"argument --seq: expected at most {chunk} or a multiple of it "
                     f"(the chunk of {options.preset}), got {options.seq}")
    return options


def build(name: str, preset: str) -> nn.Module:
    config = PRESETS[preset]
    megalodon = Megalodon(config)
    return megalodon if name == "megalodon" else Llama(LlamaConfig.matching(config, count_parameters(megalodon)))


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor, bfloat16: bool) -> float:
    """One update on tokens [B, L + 1]; returns the loss."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def measure(options: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # decaying exponentials of the moving average end in denormals, which are slow
    torch.manual_seed(0)
    model = build(options.model, options.preset)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    rates = []
    for step in range(options.warmup + options.steps):
        tokens = torch.randint(PRESETS[options.preset].vocab_size, (options.batch, options.seq + 1))
        start = time.perf_counter()
        loss = train_step(model, optimizer, tokens, options.precision == "bfloat16")
        seconds = time.perf_counter() - start
        if not math.isfinite(loss):
            sys.exit(f"{sys.argv[0]}: the loss of step {step} is {loss}: this is no training to measure")
        if step >= options.warmup:
            rates.append(options.batch * options.seq / seconds)
    p10, median, p90 = (round(float(rate), 2) for rate in numpy.percentile(rates, (10, 50, 90)))
    return {
        "case": "train", "peer": f"pytorch-{options.model}", "preset": options.preset, "tok_s": median,
        "tok_s_p10": p10, "tok_s_p90": p90, "params": count_parameters(model), "seq": options.seq,
        "batch": options.batch, "precision": options.precision, "steps": options.steps,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
        "threads": options.threads, "torch": torch.__version__,
    }


def main() -> None:
    options = parse_arguments()
    result = measure(options)
    if options.json:
        print(json.dumps(result))
    else:
        print("{peer} {preset} {precision}, {batch} x {seq}: {tok_s:.4g} tokens/s (p10 {tok_s_p10:.4g}, p90 "
              "{tok_s_p90:.4g}), {params} parameters, peak {peak_mb:.0f} MB, {threads} threads, torch {torch}"
              .format(**result))


if __name__ == "__main__":
    main()
