#!/usr/bin/env python3
"""`megalodon compare` from outside: two architectures in turns, interrupted and killed, and the reports they leave.

usage: compare_test.py PATH_TO_MEGALODON
"""
import csv
import json
import shutil
import signal
import subprocess
import time
import unittest
import xml.etree.ElementTree

from run_testing import MEASURED, PROGRAM, ProgramTest

SYSTEMS = ["megalodon-tiny", "llama2-tiny"]
RUN_FILE = """
# a < b & "c"
[model]
preset = "megalodon-tiny"
[data]
train = "corpus/train"
valid = "corpus/valid"
seq_len = 32
batch = 2
[optim]
lr = 1e-2
[optim.schedule]
warmup = 2
[train]
steps = 12
out = "all"
threads = 1
eval_every = 3
eval_tokens = 256
save_every = 2
measure_peak = false
tensorboard = false
"""


class Compare(ProgramTest):
    run_file = RUN_FILE

    def setUp(self):
        super().setUp()
        self.call("data", "prepare", ".", "--output", "corpus", "--valid", "0.2")

    def call(self, *arguments, code=0):
        done = subprocess.run([PROGRAM, *arguments], cwd=self.path, capture_output=True, timeout=300, text=True)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done

    def compare(self, *options, code=0, systems=SYSTEMS):
        return self.call("compare", "run.toml", "--arch", ",".join(systems), *options, code=code)

    def rows(self, name, out="all"):
        with open(self.path / out / name, newline="") as file:
            return list(csv.DictReader(file))

    def records(self, run):
        lines = (self.path / run / "metrics.jsonl").read_text().splitlines()
        return [{key: value for key, value in json.loads(line).items() if key not in MEASURED} for line in lines]

    def check_same_as_alone(self, out):
        """Turns and interruptions change nothing: each system is the run that its run file describes."""
        for system in SYSTEMS:
            self.call("train", f"{out}/{system}.toml", f"--train.out=alone_{system}")
            self.assertEqual(self.records(f"{out}/{system}"), self.records(f"alone_{system}"))

    def test_systems_train_in_turns_and_are_reported(self):
        out = self.compare("--turn", "7").stdout
        turns = [line.split(",")[0] for line in out.splitlines() if ": step " in line]
        self.assertEqual(turns, [f"{system}: step {step}/12" for step in (7, 12) for system in SYSTEMS])
        self.assertIn("all/compare.html", out)
        self.check_same_as_alone("all")

        table = self.rows("compare.csv")
        self.assertEqual([row["system"] for row in table], SYSTEMS)
        self.assertEqual([row["architecture"] for row in table], ["megalodon", "transformer"])
        for row in table:
            records = [json.loads(line) for line in (self.path / "all" / row["system"] / "metrics.jsonl").read_text().splitlines()]
            steps, last = [record for record in records if "grad_norm" in record], records[-1]
            tokens = str(steps[-1]["tokens"])
            self.assertEqual((row["steps"], row["tokens"], row["equal_tokens"]), ("12", tokens, tokens))
            self.assertAlmostEqual(float(row["seconds"]), sum(step["step_s"] for step in steps), places=9)
            self.assertEqual(float(row["loss_at_equal_tokens"]), last["eval_loss/valid"])
            self.assertEqual(float(row["bits_per_byte_at_equal_tokens"]), last["bits_per_byte/valid"])
            self.assertEqual(float(row["peak_rss_mib"]), max(step["peak_rss_mb"] for step in steps))
            self.assertEqual(float(row["equal_seconds"]), min(float(other["seconds"]) for other in table))
            size = json.loads(self.call("inspect", row["system"], "--json").stdout)
            self.assertEqual(int(row["parameters"]), size["parameters"])
            self.assertEqual((int(row["state_bytes"]), int(row["state_bytes_per_token"])), (size["state_bytes_full"], size["state_bytes_a_token"]))

        curves = self.rows("curves.csv")
        self.assertEqual(len(curves), 2 * (12 + 4))
        self.assertEqual([row["step"] for row in curves if row["series"] == "valid"], ["3", "6", "9", "12"] * 2)

        for name in ("held_out_by_tokens", "held_out_by_seconds", "training_by_tokens", "training_by_seconds"):
            image = xml.etree.ElementTree.parse(self.path / "all" / f"{name}.svg").getroot()
            self.assertEqual(image.tag, "{http://www.w3.org/2000/svg}svg")
        page = (self.path / "all" / "compare.html").read_text()
        for part in ("# a &lt; b &amp; &quot;c&quot;", "megalodon compare run.toml --arch megalodon-tiny,llama2-tiny --turn 7",
                     "<svg", f"loss after {tokens} tokens", "libtorch", "</html>"):
            self.assertIn(part, page)
        self.assertNotIn("http", page)

        shutil.rmtree(self.path / "all" / "llama2-tiny" / "checkpoints")
        before = {name: (self.path / "all" / name).read_bytes() for name in ("compare.csv", "curves.csv")}
        for name in [*before, "compare.html"]:
            (self.path / "all" / name).unlink()
        self.compare("--report-only")
        for name, content in before.items():
            self.assertEqual((self.path / "all" / name).read_bytes(), content)
        self.assertTrue((self.path / "all" / "compare.html").exists())

    def start(self):
        return subprocess.Popen([PROGRAM, "compare", "run.toml", "--arch", ",".join(SYSTEMS), "--turn", "40", "--train.steps=120"],
                                cwd=self.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    @staticmethod
    def wait_for(process, condition):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None and not condition():
            time.sleep(0.01)

    def test_what_was_interrupted_and_killed_goes_on(self):
        for stop, system, code in ((signal.SIGTERM, 0, 75), (signal.SIGKILL, 1, -9), (signal.SIGINT, 0, 130)):
            metrics = self.path / "all" / SYSTEMS[system] / "metrics.jsonl"
            before = metrics.stat().st_size if metrics.exists() else 0
            process = self.start()
            self.wait_for(process, lambda: metrics.exists() and metrics.stat().st_size > before)
            process.send_signal(stop)
            output, _ = process.communicate(timeout=120)
            self.assertEqual(process.returncode, code, output)
        done = self.call("compare", "run.toml", "--arch", ",".join(SYSTEMS), "--turn", "40", "--train.steps=120")
        self.assertNotIn("megalodon-tiny: step 40/", done.stdout, "done before")
        self.check_same_as_alone("all")
        again = self.call("compare", "run.toml", "--arch", ",".join(SYSTEMS), "--train.steps=120").stdout
        self.assertNotIn(": step", again, "a finished comparison is not repeated")

    def test_a_dry_run_tells_sizes_and_writes_nothing(self):
        before = sorted(self.path.rglob("*"))
        out = self.compare("--dry-run", systems=["megalodon-tiny", "s4-11M"]).stdout.splitlines()
        self.assertEqual([line.split()[0] for line in out], ["system", "megalodon-tiny", "s4-11M"])
        self.assertIn("34,720", out[1])
        self.assertEqual(sorted(self.path.rglob("*")), before)

    def test_errors(self):
        self.assertIn("did you mean llama2", self.compare(systems=["lama2"], code=2).stderr)
        self.assertIn("megalodon-tiny is there twice", self.compare(systems=["megalodon-tiny"] * 2, code=2).stderr)
        far = self.compare("--model.preset=llama2-11M", systems=["megalodon-tiny", "mpt"], code=2).stderr
        self.assertIn("mpt-tiny has", far)
        self.assertIn("data.valid", self.compare("--data.valid=[]", "--train.eval_every=0", code=2).stderr)
        self.assertIn("holds no run", self.compare("--report-only", code=1).stderr)
        self.assertIn("--turn", self.compare("--turn", "-1", code=2).stderr)
        self.assertFalse((self.path / "all").exists(), "refused, it leaves nothing")

    def contents(self):
        return {path: path.read_bytes() for path in (self.path / "all").rglob("*") if path.is_file()}

    def test_another_configuration_is_refused_before_anything_is_written(self):
        self.compare("--train.steps=4")
        before = self.contents()
        for options, difference in ((["--train.steps=4", "--optim.lr=1e-5"], "optim.lr is 1e-05, was 0.01"),
                                    (["--train.steps=4", "--train.seed=7", "--report-only"], "train.seed is 7, was 0"),
                                    (["--train.steps=2"], "train.steps is 2, was 4")):
            refused = self.compare(*options, code=1).stderr
            for part in ("'all/megalodon-tiny'", difference, "another train.out"):
                self.assertIn(part, refused)
        self.assertEqual(self.contents(), before)
        # It says that it is done, and is: nothing is repeated.
        self.assertNotIn(": step", self.compare("--train.steps=4").stdout)

        self.call("train", "all/llama2-tiny.toml", "--train.steps=6")
        self.assertIn("'all/llama2-tiny' was trained with another configuration: train.steps is 4, was 6",
                      self.compare("--train.steps=4", "--report-only", code=1).stderr)

    def test_the_others_go_on_where_one_fails(self):
        in_the_way = self.path / "all" / "megalodon-tiny"
        in_the_way.parent.mkdir()
        in_the_way.write_text("no folder")
        failed = self.compare("--turn", "6", code=1)
        for part in ("training megalodon-tiny ended with exit code 1", "all/megalodon-tiny.log"):
            self.assertIn(part, failed.stderr)
        self.assertIn("megalodon-tiny (failed)", failed.stdout)
        self.assertEqual([line.split(",")[0] for line in failed.stdout.splitlines() if "llama2-tiny: step" in line],
                         ["llama2-tiny: step 6/12", "llama2-tiny: step 12/12"])
        rows = self.rows("compare.csv")
        self.assertEqual([(row["steps"], row["outcome"]) for row in rows], [("0", "failed"), ("12", "")])
        self.assertNotEqual(rows[1]["loss_at_equal_tokens"], "")
        self.assertIn("megalodon-tiny failed: training megalodon-tiny ended", (self.path / "all" / "compare.html").read_text())
        in_the_way.unlink()
        self.compare("--turn", "6")
        self.assertEqual([(row["steps"], row["outcome"]) for row in self.rows("compare.csv")], [("12", "")] * 2)

    def test_one_comparison_at_a_time(self):
        process = self.start()
        self.wait_for(process, lambda: (self.path / "all" / SYSTEMS[0] / "metrics.jsonl").exists())
        try:
            self.assertIn("another process is training in 'all'", self.compare("--optim.lr=1e-5", code=1).stderr)
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 75, output)
        self.assertIn("lr = 0.01", (self.path / "all" / "megalodon-tiny.toml").read_text())

    def test_help_tells_all(self):
        text = " ".join(self.call("compare", "--help").stdout.split())
        for part in ("--arch", "--turn", "--dry-run", "--report-only", "compare.html", "curves.csv", "optim.lr", "train.eval_every"):
            self.assertIn(part, text)


if __name__ == "__main__":
    unittest.main()
