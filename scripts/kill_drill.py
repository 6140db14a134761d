#!/usr/bin/env python3
"""Kills a training run at random moments, resumes it, and compares it with the same run left alone.

usage: kill_drill.py RUN.toml [--kills 10] [--seed 1] [--out runs/drill] [--program build/release/megalodon]
                     [--together] [--key=value...]

Two runs of RUN.toml are made: OUT/alone without a stop, OUT/killed with KILLS stops. When each stop comes is drawn at
random: a step, a fraction of a step, and how: SIGKILL (two of three, nothing is saved then), or SIGTERM, SIGINT,
SIGUSR1. After each stop the run is started again with --resume auto. In the end every tensor file of both runs' last
checkpoints must have the same bytes, and metrics.jsonl the same records but for clocks and memory. --together makes
both at the same time (give each its --train.threads). Exit code 0: the same bits.
"""
import argparse
import hashlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

MEASURED = ("tokens_per_s", "share_of_peak", "step_s", "data_wait_s", "save_wait_s", "rss_mb", "peak_rss_mb", "eval_s")
STOPPED = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


def records(run):
    """metrics.jsonl without what clocks and memory decide; a last line that is half-written does not count."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key not in MEASURED} for line in lines]


def last_step(run):
    return max((record.get("step", 0) for record in records(run)), default=0)


def checkpoint(run):
    folder = run / "checkpoints"
    return folder / (folder / "latest").read_text().strip()


def sums(run):
    folder = checkpoint(run)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*.safetensors"))}


class Drill:
    def __init__(self, arguments, overrides):
        self.arguments, self.overrides = arguments, overrides
        self.rng = random.Random(arguments.seed)
        self.started = time.monotonic()

    def say(self, text):
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        print(f"{minutes:3}:{seconds:02}  {text}", flush=True)

    def start(self, run):
        run.parent.mkdir(parents=True, exist_ok=True)
        log = open(f"{run}.log", "ab")
        return subprocess.Popen([self.arguments.program, "train", self.arguments.run, f"--train.out={run}", *self.overrides,
                                 "--resume", "auto"], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def wait_for_step(self, process, run, step):
        while process.poll() is None and last_step(run) < step:
            time.sleep(0.2)

    def stop(self, process, run, step):
        """At a random moment after the step; how long a step takes is not known, so a second at most."""
        self.wait_for_step(process, run, step)
        time.sleep(self.rng.random())
        which = self.rng.choice([signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
        if process.poll() is not None:
            sys.exit(f"the run ended with {process.returncode} before stop {step}; see {run}.log")
        process.send_signal(which)
        code = process.wait()
        if code != STOPPED[which]:
            sys.exit(f"{which.name} at step {last_step(run)}: expected exit code {STOPPED[which]}, got {code}; see {run}.log")
        latest = run / "checkpoints" / "latest"
        saved = checkpoint(run).name if latest.exists() else "nothing yet"
        self.say(f"{which.name:8} after step {last_step(run)}; saved: {saved}")

    def killed(self, run, steps):
        for at in sorted(self.rng.randrange(1, steps) for _ in range(self.arguments.kills)):
            self.stop(self.start(run), run, min(max(at, last_step(run) + 1), steps - 1))
        return self.start(run)

    def finish(self, process, run):
        if process.wait() != 0:
            sys.exit(f"the run ended with {process.returncode}; see {run}.log")
        self.say(f"{run} finished after step {last_step(run)}")


def steps_of(program, run_file, overrides, out):
    text = subprocess.run([program, "train", run_file, *overrides, f"--train.out={out}", "--dry-run"], capture_output=True,
                          text=True, check=True).stdout
    return next(int(line.split("=")[1]) for line in text.splitlines() if line.startswith("steps ="))


def compare(alone, killed):
    a, b = sums(alone), sums(killed)
    for name in sorted(a.keys() | b.keys()):
        print(f"{'same' if a.get(name) == b.get(name) else 'DIFFERENT':9}  {a.get(name, 'missing')[:16]}  {name}")
    same_records = records(alone) == records(killed)
    print(f"{'same' if same_records else 'DIFFERENT':9}  {len(records(alone))} records of metrics.jsonl")
    return a == b and same_records


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN.toml")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/drill"))
    parser.add_argument("--program", default="build/release/megalodon")
    parser.add_argument("--together", action="store_true")
    arguments, overrides = parser.parse_known_args()
    alone, killed = arguments.out / "alone", arguments.out / "killed"
    if alone.exists() or killed.exists():
        sys.exit(f"{arguments.out} holds a drill; remove it or name another folder with --out")
    drill = Drill(arguments, overrides)
    steps = steps_of(arguments.program, arguments.run, overrides, alone)
    process = drill.start(alone)
    if not arguments.together:
        drill.finish(process, alone)
    last = drill.killed(killed, steps)
    drill.finish(last, killed)
    if arguments.together:
        drill.finish(process, alone)
    same = compare(alone, killed)
    print("the same bits" if same else "NOT the same")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
