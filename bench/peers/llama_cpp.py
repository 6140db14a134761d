#!/usr/bin/env python3
"""Tokens/s of llama.cpp on this machine's CPU, with the Llama of llama_torch.py at random weights: decoding one token at a
time behind a filled context, and reading a prompt.

    /usr/bin/python3 bench/peers/llama_cpp.py --install               once: 30 MB by npm, into build/peers/llama_cpp
    /usr/bin/python3 bench/peers/llama_cpp.py                         F16, Q8_0 and Q4_0, behind 2,048 and 32,768 tokens
    /usr/bin/python3 bench/peers/llama_cpp.py --types q4_0 --depth 2048 --output speed.jsonl

llama.cpp comes as the libraries of the npm package node-llama-cpp, which are called directly: no JavaScript runs. Before a
measurement its logits are compared with those of llama_torch.py with the same (rounded) weights. It takes numpy and
PyTorch, on Debian 12 those of /usr/bin/python3; bench/peers/README.md says what the figures mean.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch

from gguf import read_gguf, write_gguf
from llama_cpp_run import ATTENTION, CHECKED, TOLERANCE
from llama_torch import Llama, LlamaConfig
from megalodon_torch import PRESETS
from train_torch import OneLineParser, integer, positive

FOLDER = Path(__file__).resolve().parents[2] / "build/peers/llama_cpp"
PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"  # the libraries of node-llama-cpp 3.22.1 for the CPU: llama.cpp v0.5.0
LIBRARIES = "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"
RUN = Path(__file__).resolve().parent / "llama_cpp_run.py"
ROOM = 1 << 20  # tokens that a file says its model was trained for: more than are ever measured
NAMES = {
    "embed": "token_embd", "norm": "output_norm", "output": "output", "attention_norm": "attn_norm",
    "attention.wq": "attn_q", "attention.wk": "attn_k", "attention.wv": "attn_v", "attention.wo": "attn_output",
    "ffn_norm": "ffn_norm", "ffn.w1": "ffn_gate", "ffn.w2": "ffn_down", "ffn.w3": "ffn_up",
}


def gguf_name(name: str) -> str:
    """Of a parameter of llama_torch.Llama: layers.3.ffn.w1.weight is blk.3.ffn_gate.weight."""
    if name.startswith("layers."):
        _, layer, inside = name.split(".", 2)
        return f"blk.{layer}.{gguf_name(inside)}"
    return f"{NAMES[name.removesuffix('.weight')]}.weight"


def metadata(config: LlamaConfig) -> dict[str, str | int | float]:
    """There is no tokenizer: tokens are numbers here."""
    return {
        "general.architecture": "llama", "tokenizer.ggml.model": "none", "llama.vocab_size": config.vocab_size,
        "llama.context_length": ROOM, "llama.embedding_length": config.model_dim, "llama.block_count": config.num_layers,
        "llama.feed_forward_length": config.ffn_hidden_dim, "llama.attention.head_count": config.num_heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps, "llama.rope.freq_base": config.rope_base,
        "llama.rope.dimension_count": config.model_dim // config.num_heads,
    }


def save_gguf(model: Llama, path: Path, matrix_type: str) -> None:
    write_gguf(path, metadata(model.config), {gguf_name(name): value.numpy() for name, value in model.state_dict().items()},
               matrix_type)


def load_gguf(model: Llama, path: Path) -> None:
    """The weights as the file's types have rounded them."""
    _, tensors = read_gguf(path)
    model.load_state_dict({name: torch.from_numpy(tensors[gguf_name(name)]) for name in model.state_dict()})


def save_expected(model: Llama, path: Path) -> None:
    """A few tokens, and the logits [vocabulary] after the last."""
    tokens = torch.randint(model.config.vocab_size, (1, CHECKED))
    with torch.no_grad():
        logits = model(tokens)[0, -1]
    numpy.savez(path, tokens=tokens[0].numpy().astype(numpy.int32), logits=logits.numpy())


def install(folder: Path) -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit(f"{sys.argv[0]}: {PACKAGE} is for Linux on x86-64, this is {platform.system()} on {platform.machine()}")
    npm = shutil.which("npm")
    if npm is None:
        sys.exit(f"{sys.argv[0]}: --install needs npm, of Node.js (Debian: apt-get install npm)")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([npm, "install", "--prefix", str(folder), "--ignore-scripts", "--no-save", "--no-audit",
                           "--no-fund", PACKAGE], stdout=sys.stderr)
    if done.returncode != 0:
        sys.exit(f"{sys.argv[0]}: npm could not install {PACKAGE} (its messages are above; it needs the network)")


def config_of(options: argparse.Namespace) -> LlamaConfig:
    preset = PRESETS[options.preset]
    config = LlamaConfig.matching(preset, round(options.params or preset.parameter_count()))
    return dataclasses.replace(config, num_heads=config.model_dim // options.head_dim)


def commands(options: argparse.Namespace, matrix_type: str, folder: Path) -> list[list[str]]:
    """One for each measurement of a type."""
    common = [sys.executable, str(RUN), str(folder / "model.gguf"), "--expected", str(folder / "expected.npz"),
              "--libraries", str(options.folder / LIBRARIES), "--type", matrix_type, "--threads", str(options.threads),
              "--repeats", str(options.repeats)]
    cases = [["--case", "decode", "--depth", str(depth), "--gen", str(options.gen)] for depth in options.depth]
    cases.append(["--case", "prefill", "--prompt", str(options.prompt)])
    return [[*common, *case, "--attention", attention] for case in cases for attention in options.attention]


def measure(options: argparse.Namespace) -> list[dict]:
    """Prints and writes each result when it is there."""
    config, results = config_of(options), []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for matrix_type in options.types:
            torch.manual_seed(0)
            model = Llama(config)
            save_gguf(model, folder / "model.gguf", matrix_type)
            load_gguf(model, folder / "model.gguf")
            save_expected(model, folder / "expected.npz")
            del model
            for command in commands(options, matrix_type, folder):
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if done.returncode != 0:
                    sys.exit(f"{sys.argv[0]}: {' '.join(command)} ended with {done.returncode}")
                results.append(json.loads(done.stdout))
                if options.output:
                    with options.output.open("a") as out:
                        out.write(done.stdout)
    return results


def print_table(results: list[dict]) -> None:
    print("| type | case    | tokens | attention | tokens/s | p10 – p90         | resident MB | file MB |\n"
          "|---|---|---|---|---|---|---|---|")
    for line in results:
        spread = f"{line['tok_s_p10']:.1f} – {line['tok_s_p90']:.1f}"
        print(f"| {line['type']:<4} | {line['case']:<7} | {line['depth'] or line['prompt']:>6} | {line['attention']:<9} "
              f"| {line['tok_s']:>8.1f} | {spread:<17} | {line['rss_mb']:>11.0f} | {line['file_mb']:>7.0f} |")
    last = results[-1]
    print(f"\nllama.cpp {last['version']} ({last['cpu']}), {last['params'] / 1e6:.1f} M parameters, batch 1, "
          f"{last['threads']} threads")


def parse_arguments() -> argparse.Namespace:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--install", action="store_true", help=f"first install {PACKAGE} with npm")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the package (default: build/peers/llama_cpp)")
    parser.add_argument("--output", type=Path, help="append a line of JSON for each measurement to this file")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="mega200M",
                        help="the Llama has its layers, width and vocabulary, and about its parameters (default: mega200M)")
    parser.add_argument("--params", type=positive, metavar="N", help="instead of the preset's number of parameters")
    parser.add_argument("--head-dim", type=integer(1), default=64, metavar="K", help="width of a head (default: 64)")
    parser.add_argument("--types", nargs="+", choices=tuple(TOLERANCE), default=list(TOLERANCE),
                        help="of all matrices (default: f16 q8_0 q4_0)")
    parser.add_argument("--attention", nargs="+", choices=tuple(ATTENTION), default=list(ATTENTION),
                        help="llama.cpp's flash attention, or products with a softmax between (default: both, as which one "
                             "is faster depends on the context)")
    parser.add_argument("--depth", nargs="*", type=integer(0), default=[2048, 32768], metavar="N",
                        help="tokens in the context before decoding (default: 2048 32768)")
    parser.add_argument("--gen", type=integer(1), default=32, metavar="N", help="tokens decoded (default: 32)")
    parser.add_argument("--prompt", type=integer(1), default=512, metavar="N", help="tokens of a prompt (default: 512)")
    parser.add_argument("--repeats", type=integer(1), default=5, metavar="N", help="timed repetitions (default: 5)")
    parser.add_argument("--threads", type=integer(1), default=len(os.sched_getaffinity(0)), metavar="N",
                        help="default: the cores this process may use, here %(default)s")
    options = parser.parse_args()
    width = PRESETS[options.preset].model_dim
    if width % options.head_dim != 0:
        parser.error(f"argument --head-dim: the width {width} of {options.preset} is no multiple of {options.head_dim}")
    if not options.install and not (options.folder / LIBRARIES).is_dir():
        parser.error(f"llama.cpp is not in {options.folder}: --install downloads it with npm (30 MB)")
    return options


def main() -> None:
    options = parse_arguments()
    if options.install:
        install(options.folder)
    try:
        print_table(measure(options))
    except ValueError as error:  # a width that no blocks fit
        sys.exit(f"{sys.argv[0]}: {error}")


if __name__ == "__main__":
    main()
