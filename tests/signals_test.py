#!/usr/bin/env python3
"""Signals at random moments of a run (RELIABILITY C8): whatever it is doing, it ends with the documented exit code and
everything saved, and the run that is continued after all of them is the uninterrupted one, bit for bit.

usage: signals_test.py PATH_TO_MEGALODON
"""
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PROGRAM = os.path.abspath(sys.argv.pop(1))
SEED = 8
SIGNALS = 20
CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
# An epoch is a few steps; evaluations, samples and saves take most of the time, so most signals come inside one.
RUN_FILE = """
[model]
num_layers = 2
model_dim = 32
z_dim = 16
value_dim = 32
num_heads = 2
ffn_hidden_dim = 48
cema_ndim = 4
chunk_size = 32
norm_num_groups = 4
vocab_size = 256
dropout = 0.1
[data]
train = "corpus/train"
valid = ["corpus/valid", "test=corpus/test"]
seq_len = 64
batch = 2
[optim]
lr = 1e-2
[train]
steps = 120
accumulate = 2
out = "run"
threads = 1
eval_every = 4
eval_tokens = 2048
sample_every = 7
sample_tokens = 40
save_every = 3
ema_decay = 0.9
eval_ema = true
skip_grad_z = 2.0
z_window = 8
measure_peak = false
"""


class Signals(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        for i in range(12):
            text = "".join(f"entry {i * 40 + j}: a word, n. Its meaning is {j * j} of {i}.\n" for j in range(20))
            (self.path / f"text{i:02}.txt").write_text(text)
        (self.path / "run.toml").write_text(RUN_FILE)
        self.finish([PROGRAM, "data", "prepare", ".", "--output", "corpus", "--valid", "0.2", "--test", "0.2"], 0)

    def tearDown(self):
        self.folder.cleanup()

    def start(self, run):
        return subprocess.Popen([PROGRAM, "train", "run.toml", f"--train.out={run}", "--resume", "auto"], cwd=self.path,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def finish(self, command, code):
        done = subprocess.run(command, cwd=self.path, capture_output=True, timeout=600)
        self.assertEqual(done.returncode, code, (done.stdout + done.stderr).decode(errors="replace"))

    def records(self, run):
        """metrics.jsonl without what clocks and memory decide."""
        measured = ("tokens_per_s", "step_s", "data_wait_s", "save_wait_s", "rss_mb", "peak_rss_mb", "eval_s")
        lines = (self.path / run / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in measured} for line in lines]

    def latest(self, run):
        folder = self.path / run / "checkpoints"
        return folder / (folder / "latest").read_text().strip()

    def saved(self, run):
        """The bytes of every file of tensors in the newest checkpoint."""
        folder = self.latest(run)
        return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.safetensors"))}

    def check_saved(self, run, output):
        """The step that was under way is finished and saved, and no later one was begun."""
        if not (self.path / run / "checkpoints" / "latest").exists():
            self.assertIn(b"after step 0", output)  # there was nothing to save
            return
        written = self.records(run)
        state = json.loads((self.latest(run) / "trainer.json").read_text())
        self.assertEqual(state["step"], written[-1]["step"], output)
        self.assertEqual(state["records"], len(written), output)

    def test_any_signal_at_any_time(self):
        started = time.monotonic()
        self.finish([PROGRAM, "train", "run.toml", "--train.out=whole"], 0)
        seconds = time.monotonic() - started

        rng = random.Random(SEED)
        runs = ["run0"]
        sent = 0
        while sent < SIGNALS:
            process = self.start(runs[-1])
            process.stdout.readline()  # the run has begun: from here to its last saving
            time.sleep(rng.uniform(0, seconds / 4))
            which = rng.choice(list(CODES))
            process.send_signal(which)
            output, _ = process.communicate(timeout=600)
            if process.returncode == 0:  # it was done before the signal came
                runs.append(f"run{len(runs)}")
                continue
            sent += 1
            self.assertEqual(process.returncode, CODES[which], output)
            self.check_saved(runs[-1], output)
        print(f"{sent} signals, {len(runs)} runs, {time.monotonic() - started:.0f} s")

        for run in runs:
            self.finish([PROGRAM, "train", "run.toml", f"--train.out={run}"], 0)
            self.assertEqual(self.records(run), self.records("whole"))
            self.assertEqual(self.saved(run), self.saved("whole"))

    def test_a_second_interrupt_ends_it_at_once(self):
        for wait in (0.2, 1, 5):  # until the first step is under way: before it, one signal is enough
            process = subprocess.Popen([PROGRAM, "train", "run.toml", "--train.accumulate=20000", f"--train.out=run{wait}"], cwd=self.path,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            process.stdout.readline()
            time.sleep(wait)
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 130, output)
            if b"after step 0" not in output:
                break
        self.assertNotIn(b"stopped by a signal", output)

    def test_grace_goes_to_saving(self):
        process = subprocess.Popen([PROGRAM, "train", "run.toml", "--train.accumulate=20000", "--train.grace_seconds=0.2",
                                    "--train.out=run"], cwd=self.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, output)
        self.assertIn(b"stopped by a signal after step 0", output)


if __name__ == "__main__":
    unittest.main()
