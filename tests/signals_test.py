#!/usr/bin/env python3
"""Signals at random moments of a run (docs/reliability.md, C8): whatever it is doing, it ends with the documented exit code and
everything saved, and the run that is continued after all of them is the uninterrupted one, bit for bit.

usage: signals_test.py PATH_TO_MEGALODON
"""
import json
import random
import signal
import time
import unittest

from run_testing import PROGRAM, RunTest

SEED = 8
SIGNALS = 20
CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


class Signals(RunTest):
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
            process = self.start(f"run{wait}", "--train.accumulate=20000")
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
        process = self.start("run", "--train.accumulate=20000", "--train.grace_seconds=0.2")
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, output)
        self.assertIn(b"stopped by a signal after step 0", output)

    def test_while_it_waits_for_data(self):
        """The batches of a step as large as this one take seconds to read."""
        process = self.start("run", "--train.accumulate=1000000", "--data.batch=1", "--data.seq_len=8")
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, output)
        self.assertIn(b"stopped by a signal after step 0", output)


if __name__ == "__main__":
    unittest.main()
