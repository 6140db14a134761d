#!/usr/bin/env python3
"""Training speed of this program beside plain PyTorch's, on the same machine in the same minutes.

Runs `megalodon bench train` and peers/train_torch.py in turns, so that a machine that slows down slows all of them, and
prints medians over the rounds with the ratio of ours to each. Build first (./test.sh), and let nothing else run.

    bench/compare_training.py                               byte11m, sequences of 2048, float32 and bfloat16
    bench/compare_training.py --preset mega200M --rounds 2
    bench/compare_training.py --device cuda --preset mega1.3B --batch 4 --precision bfloat16 --compile

Plain PyTorch alone, over the lengths: peers_cuda.py.
"""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = "megalodon.cpp"


def run(command: list[str]) -> dict[str, object]:
    """The one JSON line that the command prints; its own error message is enough where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"compare_training: {' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def commands(options: argparse.Namespace, precision: str) -> dict[str, list[str]]:
    common = ["--preset", options.preset, "--seq", str(options.seq), "--batch", str(options.batch), "--precision", precision,
              "--device", options.device, "--steps", str(options.steps), "--warmup", "2" if options.device == "cpu" else "3",
              "--json"]
    peer = [options.python, str(ROOT / "bench/peers/train_torch.py"), *common]
    systems = {OURS: [str(options.program), "bench", "train", *common]}
    for name in ("Megalodon", "Llama"):
        systems[f"PyTorch {name}"] = [*peer, "--model", name.lower()]
        if options.compile:
            systems[f"{name}, compiled"] = [*peer, "--model", name.lower(), "--compile"]
    return systems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="byte11m", help="byte11m, mega200M or mega1.3B (default: byte11m)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--seq", type=int, default=2048, help="tokens of a sequence (default: 2048)")
    parser.add_argument("--batch", type=int, default=1, help="sequences of a step (default: 1)")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a round (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each one gets (default: 3)")
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/megalodon")
    parser.add_argument("--compile", action="store_true", help="plain PyTorch with torch.compile too")
    parser.add_argument("--python", help="an interpreter that has torch (default: Debian's for the CPU, python3 for a GPU)")
    options = parser.parse_args()
    options.python = options.python or ("/usr/bin/python3" if options.device == "cpu" else "python3")
    print("| precision | system            | tokens/s | of the rounds     | ours is | peak MB |\n|---|---|---|---|---|---|")
    for precision in options.precision:
        rounds: dict[str, list[dict[str, object]]] = {}
        for _ in range(options.rounds):
            for name, command in commands(options, precision).items():
                rounds.setdefault(name, []).append(run(command))
        rates = {name: [float(r["tok_s"]) for r in results] for name, results in rounds.items()}
        ours = statistics.median(rates[OURS])
        for name, values in rates.items():
            median = statistics.median(values)
            ratio = "" if name == OURS else f"{ours / median:.2f}x"
            peak = max(float(r["peak_mb"]) for r in rounds[name])
            print(f"| {precision:<9} | {name:<17} | {median:>8.0f} | {f'{min(values):.0f} – {max(values):.0f}':<17} "
                  f"| {ratio:>7} | {peak:>7.0f} |", flush=True)
    print(f"\n{options.preset}, sequences of {options.seq}, batch {options.batch}; {rounds[OURS][0]['machine']}; "
          f"PyTorch {rounds['PyTorch Llama'][0]['torch']}")


if __name__ == "__main__":
    main()
