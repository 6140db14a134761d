#!/usr/bin/env python3
"""What training steps cost in plain PyTorch on a GPU: Llama with and without torch.compile, and Megalodon, at several
lengths and the same number of tokens a step.

Runs peers/train_torch.py once for each configuration, each in a process of its own, and appends its line of JSON to a file.
What is in the file already is not run again (but what failed for another reason than memory), so that an interrupted run
goes on where it ended; exit code 1: something is missing still. The default list is made for one GPU of 80 GB.

    bench/peers_cuda.py --output peers.jsonl
    bench/peers_cuda.py --output peers.jsonl --arch llama --time-limit 60 --total-limit 600
    bench/peers_cuda.py --output /tmp/try.jsonl --device cpu --preset byte11m --tokens 1024      tries the script itself
"""
from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

TRAIN = Path(__file__).resolve().parent / "peers/train_torch.py"
GRACE = 20.0  # seconds for a process to load PyTorch and to end after its time limit
RESERVE = 15.0  # seconds: no process begins with less than this left of all
ERROR = re.compile(r"[\w.]*(Error|Exception|Failed|Exit)\b|.*: the loss of step")  # the line that names it


@dataclass(frozen=True)
class Configuration:
    """What train_torch.py is called with, under the names of its JSON."""
    preset: str
    arch: str
    compile: bool
    seq: int
    batch: int
    accumulate: int
    checkpoint: int
    precision: str
    device: str

    def command(self, options: argparse.Namespace) -> list[str]:
        flags = ["--wait", "--json"] + ["--compile"] * self.compile
        values = {"--model": self.arch, "--preset": self.preset, "--seq": self.seq, "--batch": self.batch,
                  "--accumulate": self.accumulate, "--checkpoint": self.checkpoint, "--precision": self.precision,
                  "--device": self.device, "--steps": options.steps, "--warmup": options.warmup,
                  "--time-limit": options.time_limit}
        return [options.python, str(TRAIN), *flags, *(str(part) for pair in values.items() for part in pair)]


def configurations(options: argparse.Namespace) -> list[Configuration]:
    """The most telling ones first. Of the sequences of a step, as many run at once as 80 GB hold without recomputing
    anything; where one sequence is too long for that, so many blocks are recomputed that the rest fits."""
    everything = 10**6  # blocks
    rows = [  # arch, compile, sequences, parts, recomputed blocks
        ("llama", True, 8, 2, 0),
        ("megalodon", False, 8, 8, 0),
        ("llama", True, 1, 1, 10),
        ("megalodon", False, 1, 1, everything),
        ("llama", False, 8, 2, 0),
        ("llama", False, 1, 1, 14),
        ("llama", True, 16, 2, 0),
        ("llama", True, 4, 2, 0),
        ("llama", False, 16, 2, 0),
        ("llama", False, 4, 2, 0),
    ]
    return [Configuration(options.preset, arch, compiles, options.tokens // batch, batch, parts, checkpoint, "bfloat16",
                          options.device)
            for arch, compiles, batch, parts, checkpoint in rows if options.arch in (arch, None)]


def read_results(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def last_result(results: list[dict], configuration: Configuration) -> dict | None:
    wanted = asdict(configuration)
    wanted.pop("checkpoint")  # its number is written as that of the blocks there are
    return next((line for line in reversed(results) if all(line.get(key) == value for key, value in wanted.items())), None)


def is_final(result: dict | None) -> bool:
    return result is not None and result.get("error") in (None, "out of memory")


class Measurement:
    """A process that loads PyTorch at once, beside the measurement before it, and uses the device when told to."""

    def __init__(self, configuration: Configuration, options: argparse.Namespace):
        self.configuration = configuration
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(configuration.command(options), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True)

    def result(self, seconds: float) -> dict:
        try:
            output, _ = self.process.communicate("\n", timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            self.stop()
            return self.failure(f"ended after {seconds + GRACE:g} s")
        lines = output.splitlines()
        if lines:
            return json.loads(lines[-1])
        self.errors.seek(0)
        messages = self.errors.read().strip().splitlines() or [f"ended with {self.process.returncode} without a word"]
        print("\n".join(messages[-40:]), file=sys.stderr)
        return self.failure(next((m for m in reversed(messages) if ERROR.match(m)), messages[-1]))

    def failure(self, error: str) -> dict:
        return {"case": "train", **asdict(self.configuration), "error": error}

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def measure_missing(todo: list[Configuration], options: argparse.Namespace) -> None:
    deadline = time.monotonic() + options.total_limit
    following = Measurement(todo[0], options) if todo else None
    for index, configuration in enumerate(todo):
        current, following = following, None
        if time.monotonic() + RESERVE > deadline:
            current.stop()
            print(f"left out after {options.total_limit:g} s: {len(todo) - index} configurations; run it again for them",
                  file=sys.stderr)
            return
        if index + 1 < len(todo):
            following = Measurement(todo[index + 1], options)
        start = time.monotonic()
        result = current.result(options.time_limit)
        with options.output.open("a") as out:
            out.write(json.dumps(result) + "\n")
        outcome = result.get("error") or f"{result['tok_s']:.0f} tokens/s"
        print(f"{configuration.arch}{', compiled' if configuration.compile else ''}, {configuration.batch} x "
              f"{configuration.seq}: {outcome} ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)


def print_table(results: list[dict], wanted: list[Configuration]) -> None:
    print("| model     | compiled | tokens x sequences | recomputed |  tokens/s | MFU  | peak GB |")
    print("|---|---|---|---|---|---|---|")
    for configuration in sorted(wanted, key=lambda c: (c.arch, c.seq, c.compile)):
        line = last_result(results, configuration)
        if line is None:
            continue
        if "error" in line:
            rate, mfu, peak = "no memory" if is_final(line) else "failed", "", ""
        else:
            rate, mfu, peak = f"{line['tok_s']:.0f}", f"{line['mfu']:.2f}", f"{line['peak_mb'] / 1e3:.1f}"
        shape = f"{line['seq']} x {line['batch']}"
        print(f"| {line['arch']:<9} | {'yes' if line['compile'] else 'no':<8} | {shape:<18} | {line['checkpoint']:>10} | "
              f"{rate:>9} | {mfu:>4} | {peak:>7} |")
    peaks = [line["gemm_peak_tflops"] for line in results if "gemm_peak_tflops" in line]
    if peaks:
        last = next(line for line in reversed(results) if "torch" in line)
        print(f"\n{last['preset']}, bfloat16; {last['machine']}, PyTorch {last['torch']}; large products: "
              f"{min(peaks):.3g} – {max(peaks):.3g} TFLOP/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the file of JSON lines")
    parser.add_argument("--arch", choices=("llama", "megalodon"), help="this one alone")
    parser.add_argument("--preset", default="mega1.3B", help="Megalodon's size, and the Llama's about (default: mega1.3B)")
    parser.add_argument("--tokens", type=int, default=32768, help="of a step (default: 32768)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: 5)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (default: 3)")
    parser.add_argument("--time-limit", type=float, default=40, help="seconds of a configuration (default: 40)")
    parser.add_argument("--total-limit", type=float, default=150, help="seconds of all (default: 150)")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch (default: this one)")
    options = parser.parse_args()
    wanted = configurations(options)
    earlier = read_results(options.output)
    measure_missing([c for c in wanted if not is_final(last_result(earlier, c))], options)
    results = read_results(options.output)
    print_table(results, wanted)
    if not all(is_final(last_result(results, c)) for c in wanted):
        sys.exit(1)


if __name__ == "__main__":
    main()
