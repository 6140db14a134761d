#!/usr/bin/env python3
"""Two processes on one run folder: a second trainer is refused (docs/reliability.md, C10), and whoever loads from a run that goes
on gets a whole checkpoint (C6).

usage: run_folder_test.py PATH_TO_MEGALODON
"""
import signal
import subprocess
import time
import unittest

from run_testing import PROGRAM, RunTest

LOADS = 15


class RunFolder(RunTest):
    def tearDown(self):
        self.first.kill()
        self.first.communicate()
        super().tearDown()

    def begin(self, *options):
        """A run that does not end by itself, and is under way."""
        self.first = self.start("run", "--train.steps=1000000", "--train.sample_every=0", "--train.eval_every=0", *options)
        self.first.stdout.readline()

    def wait_for(self, condition):
        while not condition():
            self.assertIsNone(self.first.poll(), "the trainer ended")
            time.sleep(0.02)

    def run_second(self, *command):
        return subprocess.run([PROGRAM, *command], cwd=self.path, capture_output=True, timeout=600)

    def test_a_second_trainer_is_refused(self):
        self.begin()
        self.wait_for((self.path / "run" / "checkpoints" / "latest").exists)
        configuration = (self.path / "run" / "config.toml").read_bytes()
        older = self.latest("run")
        for resume in ("auto", "never", str(older)):
            with self.subTest(resume=resume):
                second = self.run_second("train", "run.toml", "--train.out=run", "--optim.lr=1e-3", "--resume", resume)
                self.assertEqual(second.returncode, 1)
                self.assertIn("[train.out] another process is training in 'run'", second.stderr.decode())
                self.assertEqual(second.stdout, b"", "it said no more than that")
        self.assertEqual((self.path / "run" / "config.toml").read_bytes(), configuration)
        # A dry run writes nothing, and another folder is free.
        self.assertEqual(self.run_second("train", "run.toml", "--train.out=run", "--dry-run").returncode, 0)
        self.assertEqual(self.run_second("train", "run.toml", "--train.out=other", "--train.steps=1").returncode, 0)
        self.assertIsNone(self.first.poll(), "the first one goes on")

        # However the first one ends, the lock ends with it; and no two lines of one step came of all this.
        self.first.send_signal(signal.SIGKILL)
        self.first.wait()
        self.finish([PROGRAM, "train", "run.toml", "--train.out=run", "--train.steps=1000000", "--train.stop_after=1"], 0)
        steps = [record["step"] for record in self.records("run") if "grad_norm" in record]
        self.assertEqual(steps[:-1], list(range(1, len(steps))))

    def test_whole_checkpoints_are_loaded_beside_training(self):
        self.begin("--train.save_every=1", "--train.keep=1", "--train.accumulate=1")
        self.wait_for((self.path / "run" / "checkpoints" / "latest").exists)
        commands = (("inspect", "run"), ("generate", "--model", "run", "--prompt", "entry", "--tokens", "3"),
                    ("eval", "ppl", "--model", "run", "--text", "text00.txt"))
        names = set()
        for i in range(LOADS):
            names.add(self.latest("run").name)
            second = self.run_second(*commands[i % len(commands)])
            self.assertEqual(second.returncode, 0, second.stderr.decode(errors="replace"))
            self.assertIsNone(self.first.poll(), "the trainer goes on")
        self.assertGreater(len(names), LOADS // 2, "checkpoints came and went meanwhile")


if __name__ == "__main__":
    unittest.main()
