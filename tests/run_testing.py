"""What tests of the whole program share: its path, a folder to run it in, and a small run."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
from kill_drill import MEASURED, checkpoint  # noqa: E402

PROGRAM = os.path.abspath(sys.argv.pop(1))
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


class ProgramTest(unittest.TestCase):
    """A folder with texts and a run file, for each test."""
    run_file = ""
    lines = 20  # of a text

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        for i in range(12):
            text = "".join(f"entry {i * 40 + j}: a word, n. Its meaning is {j * j} of {i}.\n" for j in range(self.lines))
            (self.path / f"text{i:02}.txt").write_text(text)
        (self.path / "run.toml").write_text(self.run_file)

    def tearDown(self):
        self.folder.cleanup()


class RunTest(ProgramTest):
    run_file = RUN_FILE

    def setUp(self):
        super().setUp()
        self.finish([PROGRAM, "data", "prepare", ".", "--output", "corpus", "--valid", "0.2", "--test", "0.2"], 0)

    def start(self, run, *options):
        return subprocess.Popen([PROGRAM, "train", "run.toml", f"--train.out={run}", *options], cwd=self.path,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def finish(self, command, code):
        done = subprocess.run(command, cwd=self.path, capture_output=True, timeout=600)
        self.assertEqual(done.returncode, code, (done.stdout + done.stderr).decode(errors="replace"))

    def records(self, run):
        """metrics.jsonl without what clocks and memory decide."""
        lines = (self.path / run / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]

    def latest(self, run):
        return checkpoint(self.path / run)

    def saved(self, run):
        """The bytes of every file of tensors in the newest checkpoint."""
        folder = self.latest(run)
        return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.safetensors"))}
