#!/usr/bin/env python3
"""The program from outside: a small run from text to generated text, resuming it, and what a wrong command line says.

usage: cli_test.py PATH_TO_MEGALODON
"""
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import time
import unittest
from pathlib import Path

from run_testing import PROGRAM, ProgramTest

RUN_FILE = """
[model]
num_layers = 2
model_dim = 32
z_dim = 16
value_dim = 48
num_heads = 2
ffn_hidden_dim = 48
swiglu = true
cema_ndim = 4
chunk_size = 32
norm_num_groups = 4
vocab_size = 256
[data]
train = "corpus/train"
valid = "corpus/valid"
seq_len = 64
batch = 2
[optim]
lr = 1e-2
[optim.schedule]
warmup = 4
[train]
steps = 20
out = "run"
eval_every = 10
eval_tokens = 256
save_every = 5
"""


class Program(ProgramTest):
    run_file = RUN_FILE
    lines = 40

    def run_program(self, *arguments, code=0, stdin=""):
        done = subprocess.run([PROGRAM, *arguments], cwd=self.path, input=stdin.encode(), capture_output=True, timeout=300)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr.decode(errors='replace')}")
        return done

    def prepare(self):
        self.run_program("data", "prepare", ".", "--output", "corpus", "--valid", "0.2", "--test", "0.1")

    def losses(self, run="run"):
        records = [json.loads(line) for line in (self.path / run / "metrics.jsonl").read_text().splitlines()]
        return {r["step"]: r["loss"] for r in records if "grad_norm" in r}

    def test_text_to_text(self):
        self.prepare()
        info = self.run_program("data", "info", "corpus/train").stdout.decode()
        self.assertIn("documents", info)
        self.assertIn("marks      none", info)
        folder = self.run_program("data", "info", "corpus", code=1).stderr.decode()
        self.assertIn("it holds corpus/test, corpus/train, corpus/valid", folder)
        self.assertRegex(info, r"largest id 1\d\d")
        out = self.run_program("train", "run.toml")
        self.assertNotIn(b"\r", out.stdout + out.stderr, "progress is redrawn only on a terminal")
        losses = self.losses()
        self.assertEqual(sorted(losses), list(range(1, 21)))
        self.assertLess(losses[20], losses[1] - 1)

        report = json.loads(self.run_program("eval", "ppl", "--model", "run", "--data", "corpus/test", "--json").stdout)
        self.assertAlmostEqual(report["bits_per_byte"], report["loss"] / 0.6931471805599453, places=9)
        self.assertEqual(sum(b["tokens"] for b in report["by_context"]), report["tokens"])
        split = json.loads(self.run_program("eval", "ppl", "--model", "run", "--data", "corpus/test", "--json", "--stretch", "7").stdout)
        self.assertAlmostEqual(report["loss"], split["loss"], places=5)

        # Bytes have no BOS and EOS: the published evaluator's loss is the same mean.
        published = json.loads(self.run_program("eval", "ppl", "--model", "run", "--data", "corpus/test", "--json", "--published", "--batch", "3").stdout)
        self.assertAlmostEqual(report["loss"], published["loss"], places=5)
        self.assertEqual(report["tokens"], published["tokens"])
        (self.path / "text.txt").write_text("entry one\n" * 40)
        text = json.loads(self.run_program("eval", "ppl", "--model", "run", "--text", "text.txt", "--json").stdout)
        self.assertEqual((text["documents"], text["tokens"]), (1, 399))
        (self.path / "text.txt").write_text("x")
        refusal = self.run_program("eval", "ppl", "--model", "run", "--text", "text.txt", code=1).stderr.decode()
        self.assertIn("nothing to predict", refusal)

        first = self.run_program("generate", "--model", "run", "--prompt", "entry", "--tokens", "80", "--seed", "3").stdout
        first.decode("utf-8")  # strict
        again = self.run_program("generate", "--model", "run", "--tokens", "80", "--seed", "3", stdin="entry").stdout
        self.assertEqual(first, again)
        told = self.run_program("generate", "--model", "run", "--tokens", "3", "--logprobs", "2", "--logprobs-file", "told.jsonl", stdin="entry one\n" * 40)
        lines = [json.loads(line) for line in (self.path / "told.jsonl").read_text().splitlines()]
        self.assertEqual([line["index"] for line in lines], list(range(1, 403)))
        self.assertEqual([line["prompt"] for line in lines], [True] * 399 + [False] * 3)
        self.assertEqual("".join(line["text"] for line in lines[:399]), ("entry one\n" * 40)[1:])
        self.assertTrue(told.stdout.decode().startswith("".join(line["text"] for line in lines[399:])))
        self.assertAlmostEqual(sum(line["logprob"] for line in lines[:399]) / 399, -text["loss"], places=5)
        for line in lines:
            self.assertEqual([len(line["top"]), line["top"][0]["logprob"] >= line["top"][1]["logprob"]], [2, True])
        scored = self.run_program("generate", "--model", "run", "--tokens", "0", "--logprobs", "0", stdin="entry").stderr
        self.assertEqual([json.loads(line)["text"] for line in scored.splitlines()], list("ntry"))
        told = json.loads(self.run_program("inspect", "run", "--json").stdout)
        self.assertEqual([told["step"], told["tokenizer"], told["matrices"]], [20, {"type": "bytes"}, "F32"])

    def test_a_quantized_folder_generates_as_its_source_does(self):
        self.prepare()
        self.run_program("train", "run.toml")
        def generate(model, *options):
            return self.run_program("generate", "--model", model, "--prompt", "entry", "--tokens", "60", "--seed", "3", *options).stdout
        for kind, long in (("bf16", "bfloat16"), ("q8", "q8"), ("q4", "q4")):
            with self.subTest(kind=kind):
                told = self.run_program("quantize", "run", kind, "--type", kind).stdout.decode()
                self.assertIn(f"run -> {kind} (matrices as {long}, ", told)
                self.assertEqual(sorted(p.name for p in (self.path / kind).iterdir()), ["config.json", "manifest.json", "model.safetensors"])
                expected = generate("run", "--type", kind, "--save-state", "state")
                self.assertEqual(generate(kind, "--save-state", "same"), expected)
                self.assertEqual((self.path / "same").read_bytes(), (self.path / "state").read_bytes())
                self.assertEqual(generate(kind, "--type", kind), expected)
                ppl = [self.run_program("eval", "ppl", "--data", "corpus/test", "--json", "--model", *of).stdout for of in (("run", "--type", kind), (kind,))]
                self.assertEqual(*ppl)
                speed = [json.loads(self.run_program("bench", case, "--model", kind, "--json", option, "1").stdout) for case, option in (("decode", "--gen"), ("prefill", "--prompt"))]
                self.assertEqual([case["type"] for case in speed], [long, long])
        self.assertRegex(self.run_program("inspect", "q8").stdout.decode(), r"matrices +q8\n")
        refusals = [
            (["generate", "--model", "q8", "--prompt", "x", "--type", "q4"], 2, "stored as q8"), (["quantize", "q8", "x", "--type", "q8"], 1, "stored as q8"),
            (["convert", "q8", "x"], 1, "stored as q8"), (["train", "run.toml", "--train.out=fresh", "--resume", "q8"], 1, "no checkpoint"), (["bench", "decode", "--model", "q8", "--type", "f32"], 2, "stored as q8"),
            (["quantize", "run", "q8", "--type", "q4"], 1, "--force"), (["quantize", "run", "corpus", "--type", "q4", "--force"], 1, "no model"),
            (["quantize", "nowhere", "x", "--type", "q4"], 1, "nowhere"), (["quantize", "run", "x"], 2, "--type"), (["quantize", "run", "x", "--type", "f32"], 2, "f32"),
        ]
        for arguments, code, part in refusals:
            with self.subTest(arguments=arguments):
                self.assertIn(part, self.run_program(*arguments, code=code).stderr.decode())
        self.assertFalse((self.path / "x").exists(), "refused, it leaves nothing")
        before = generate("q4")
        self.run_program("quantize", "run", "q8", "--type", "q4", "--force")
        self.assertEqual(generate("q8"), before)
        file = self.path / "q8" / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        self.assertIn("is damaged", self.run_program("generate", "--model", "q8", "--prompt", "x", code=1).stderr.decode())

    def test_a_table_of_labelled_texts_becomes_a_classifier(self):
        kind, words = ("query", "statement"), (("who", "what", "why"), ("this", "that", "here"))
        rows = [f"{kind[i % 2]}\t{words[i % 2][i % 3]} {'is it ' * (1 + i % 4)}" for i in range(60)]
        (self.path / "texts.tsv").write_text("kind\ttext\n" + "\n".join(rows) + "\n")
        told = self.run_program("data", "examples", "text", "texts.tsv", "--label", "kind", "--text", "text", "--valid", "0.2", "--output", "texts").stdout.decode()
        self.assertIn("classes: 2 (query, statement)", told)
        (self.path / "classifier.toml").write_text(RUN_FILE.replace('"corpus/', '"texts/').replace("seq_len = 64\nbatch = 2", "batch = 8").replace(
            "eval_tokens = 256", 'task = "classification"').replace("steps = 20", "steps = 40").replace("vocab_size = 256\n", ""))
        self.run_program("train", "classifier.toml")
        report = json.loads(self.run_program("eval", "classify", "--model", "run", "--data", "texts/valid", "--predictions", "told.jsonl", "--json").stdout)
        held_out = int(re.search(r"texts/valid: (\d+) examples", told)[1])
        self.assertEqual((report["examples"], report["accuracy"]), (held_out, 1.0))
        self.assertEqual([c["name"] for c in report["classes"]], list(kind))
        lines = [json.loads(line) for line in (self.path / "told.jsonl").read_text().splitlines()]
        self.assertEqual([line["example"] for line in lines], list(range(held_out)))
        for line in lines:
            self.assertEqual(line["label"], line["class"])
            self.assertAlmostEqual(sum(line["probabilities"]), 1, places=5)
        last = [json.loads(line) for line in (self.path / "run/metrics.jsonl").read_text().splitlines()][-1]
        self.assertAlmostEqual(last["eval_loss/valid"], report["loss"], places=5)
        table = self.run_program("eval", "classify", "--model", "run", "--data", "texts/valid").stdout.decode()
        self.assertRegex(table, r"accuracy  100.00 %\n\nclass .*\nquery +\d+ +100.00 %")
        inspected = json.loads(self.run_program("inspect", "run", "--json").stdout)
        self.assertEqual([inspected["step"], inspected["classes"], inspected["config"]["classifier"]["classes"]], [40, list(kind), 2])
        for wrong, code, word in ((["generate", "--model", "run", "--prompt", "x"], 1, "eval classify"), (["eval", "ppl", "--model", "run", "--data", "x"], 1, "eval classify"),
                                  (["compare", "classifier.toml", "--arch", "s4"], 2, "language models"), (["eval", "classify", "--model", "run", "--data", "absent"], 1, "absent")):
            self.assertIn(word, self.run_program(*wrong, code=code).stderr.decode())

    def test_a_converted_model_comes_back(self):
        self.prepare()
        self.train_briefly()
        for form in ("published", "megalodon-jax"):
            with self.subTest(form=form):
                told = self.run_program("convert", "run", form, "--format", form).stdout.decode()
                self.assertIn("same likeliest token at 96 of 96", told)
                self.assertIn("no logits stored", told)
                self.run_program("convert", form, "back", "--tokenizer", "bytes", "--force")
                texts = [self.run_program("generate", "--model", model, "--prompt", "entry", "--tokens", "20").stdout for model in ("run", "back")]
                self.assertEqual(*texts)
        self.assertIn("give --force", self.run_program("convert", "published", "back", code=1).stderr.decode())
        for arguments, code, part in [(["published", "x", "--format", "published"], 1, "already"), (["run", "x", "--format", "gguf"], 2, "gguf"),
                                      (["run", "x", "--format", "hub"], 1, "transformer"), (["run", "x", "--shard-gb", "0"], 2, "shard-gb"),
                                      (["corpus", "x"], 1, "expected a model folder"), (["published/consolidate_config.json", "x"], 1, "JAX")]:
            with self.subTest(arguments=arguments):
                self.assertIn(part, self.run_program("convert", *arguments, code=code).stderr.decode())
        self.assertFalse((self.path / "x").exists(), "refused, it leaves nothing")

    def test_a_hugging_face_folder_is_compared_with_the_logits_beside_it(self):
        source = Path(__file__).parent / "golden" / "transformer" / "hf_llama_gqa_sharded_bf16"
        told = self.run_program("convert", str(source), "ours").stdout.decode()
        self.assertIn("(Hugging Face folder to model folder)", told)
        self.assertRegex(told, r"stored beside the source: .* at 80 of 80 positions")
        self.run_program("convert", "ours", "hub", "--shard-gb", "2e-5")
        self.assertTrue((self.path / "hub" / "model.safetensors.index.json").exists())
        config = json.loads((self.path / "hub" / "config.json").read_text())
        for key, value in json.loads((source / "config.json").read_text()).items():
            if key in config:
                self.assertEqual(config[key], value, key)
        # Its norms have 32 bits, but for which its type is that of its matrices.
        self.assertEqual(json.loads(self.run_program("inspect", "ours", "--json").stdout)["matrices"], "BF16")
        shutil.copytree(self.path / "ours", self.path / "mixed")
        file = self.path / "mixed" / "model.safetensors"
        data = bytearray(file.read_bytes())
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:begin])
        header["layers.0.attention.wo.weight"]["dtype"] = "F16"
        header = json.dumps(header).encode().ljust(begin - 8)
        file.write_bytes(len(header).to_bytes(8, "little") + header + data[begin:])
        self.assertEqual(json.loads(self.run_program("inspect", "mixed", "--json").stdout)["matrices"], "mixed")
        file.write_bytes(struct.pack("<Q", 2) + b"{}")
        message = self.run_program("inspect", "mixed", code=1).stderr.decode()
        self.assertIn("[mixed]", message)
        self.assertIn("missing embed.weight [48, 32]", message)
        shutil.copytree(source, self.path / "copy", copy_function=shutil.copyfile)
        logits = self.path / "copy" / "logits.safetensors"
        data = bytearray(logits.read_bytes())
        begin = 8 + int.from_bytes(data[:8], "little")
        end = begin + json.loads(data[8:begin])["out.logits"]["data_offsets"][1]
        data[end - 4:end] = struct.pack("<f", 100)
        logits.write_bytes(data)
        message = self.run_program("convert", "copy", "x", code=1).stderr.decode()
        self.assertIn("those stored beside the source", message)
        self.assertFalse((self.path / "x").exists())
        self.assertIn("not checked", self.run_program("convert", "copy", "x", "--no-check").stdout.decode())

    def train_briefly(self, run="run", seed=1):
        self.run_program("train", "run.toml", "--train.steps=2", "--train.eval_every=0", f"--train.out={run}", f"--train.seed={seed}")

    def test_a_saved_stream_goes_on_within_a_character_and_with_another_seed(self):
        self.prepare()
        self.train_briefly()

        def generate(*options):
            return self.run_program("generate", "--model", "run", *options).stdout

        def draw(byte, *options):
            return generate("--tokens", "1", "--logit-bias", f"{byte}=1e6", *options)
        euro, bad = "€".encode(), "\N{REPLACEMENT CHARACTER}".encode()
        self.assertEqual(draw(euro[0], "--prompt", "a"), bad + b"\n")
        self.assertEqual(draw(euro[0], "--prompt", "a", "--save-state", "s"), b"\n")
        self.assertEqual(draw(euro[1], "--load-state", "s", "--save-state", "s"), b"\n")
        self.assertEqual(draw(euro[2], "--load-state", "s"), euro + b"\n")
        self.assertEqual(draw(ord("a"), "--load-state", "s"), bad + b"a\n")
        self.assertEqual(draw(euro[2], "--load-state", "s", "--prompt", "b"), bad + bad + b"\n", "the prompt is between them")
        self.assertEqual(draw(ord("a"), "--load-state", "s", "--prompt", "b", "--echo"), bad + b"ba\n")

        whole = generate("--prompt", "entry", "--tokens", "45", "--seed", "3")
        begun = generate("--prompt", "entry", "--tokens", "5", "--seed", "3", "--save-state", "s")
        rest = generate("--load-state", "s", "--tokens", "40")
        self.assertEqual(begun[:-1] + rest, whole)
        self.assertEqual(generate("--load-state", "s", "--tokens", "40", "--seed", "3"), rest)
        self.assertNotEqual(generate("--load-state", "s", "--tokens", "40", "--seed", "4"), rest)

    def chat(self, *lines, **more):
        return self.run_program("chat", "--model", "run", "--max-tokens", "30", "--seed", "3", stdin="".join(f"{line}\n" for line in lines), **more)

    def test_chat(self):
        self.prepare()
        self.train_briefly()
        only_first = self.chat("one").stdout
        only_first.decode("utf-8")  # strict
        with_second, with_third = self.chat("one", "two").stdout, self.chat("one", "", "third").stdout
        self.assertTrue(with_second.startswith(only_first) and with_third.startswith(only_first))
        third = with_third[len(only_first):]
        self.assertNotEqual(with_second[len(only_first):], third)

        # One text, which generate would write too.
        prompt = self.run_program("generate", "--model", "run", "--prompt", "User: one\nAssistant:", "--tokens", "30", "--seed", "3").stdout
        self.assertEqual(only_first, prompt)

        undone = self.chat("one", "two", "/undo", "third").stdout
        position = len("User: one\nAssistant:") + 30
        self.assertEqual(undone, with_second + f"at token {position}\n".encode() + third)

        # Nothing that goes wrong is of any consequence.
        self.train_briefly("other", seed=2)
        self.run_program("generate", "--model", "other", "--prompt", "x", "--tokens", "1", "--save-state", "other.st")
        (self.path / "damaged.st").write_bytes((self.path / "other.st").read_bytes()[:300])
        failed = self.chat("one", "/load absent.st", "/load other.st", "/load damaged.st", "/load", "/undo it", "/sav x", "/xyz", "/save nowhere/x", "third")
        self.assertEqual(failed.stdout, with_third)
        messages = failed.stderr.decode().splitlines()
        parts = ["absent.st", "another model", "damaged.st", "/load expects FILE", "/undo expects nothing", "did you mean /save?", "no command /xyz", "nowhere/x"]
        self.assertEqual(len(messages), len(parts), messages)
        for message, part in zip(messages, parts):
            self.assertIn(part, message)

        # A saved one goes on, here and in generate, and the other way round.
        self.assertEqual(self.chat("one", "/save s", "/quit", "two").stdout, only_first + f"at token {position}\n".encode())
        loaded = self.chat("/load s", "/stats", "third", "/undo").stdout.decode()
        self.assertIn(f"stream   {position} tokens, {position % 32} of them in the open chunk of 32", loaded)
        self.assertIn("prompt   0 tokens evaluated", loaded)
        self.assertTrue(loaded.encode().endswith(third + f"at token {position}\n".encode()), loaded)
        more = self.run_program("generate", "--model", "run", "--load-state", "s", "--prompt", "\nUser: third\nAssistant:", "--tokens", "30").stdout
        self.assertTrue(more.endswith(third), "before it, what of the first reply's last character had not come")
        self.run_program("generate", "--model", "run", "--prompt", "User: one\nAssistant:", "--tokens", "30", "--seed", "3", "--save-state", "s")
        self.assertTrue(self.chat("/load s", "third").stdout.endswith(third))

        self.assertIn(b"nothing", self.chat("/save s").stderr)
        self.assertIn(b"/undo", self.chat("/help").stdout)
        self.assertNotEqual(self.chat("//help").stdout, self.chat("/help").stdout)
        plain = self.run_program("chat", "--model", "run", "--max-tokens", "30", "--seed", "3", "--user-prefix", "", "--assistant-prefix", "",
                                 "--system", "User: one\\nAss", stdin="istant:").stdout
        self.assertEqual(plain, prompt)

    def test_chat_is_stopped_but_not_ended_by_an_interrupt(self):
        self.prepare()
        self.train_briefly()
        command = [PROGRAM, "chat", "--model", "run", "--max-tokens", "1000000000", "--user-prefix", "\\n\\n\\nUser:"]
        pipes = dict(cwd=self.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process = subprocess.Popen(command, **pipes)
        for _ in range(3):
            process.stdin.write(b"go on\n")
            process.stdin.flush()
            process.stdout.read(100)
            process.send_signal(signal.SIGINT)
            process.stdin.write(b"/stats\n")
            process.stdin.flush()
            while not process.stdout.readline().startswith(b"replies "):
                pass  # until the reply has ended: the next signal is not the second of one
        output, errors = process.communicate(b"/stats\n/undo\n/undo\n/undo\n/undo\n", timeout=60)
        self.assertEqual((process.returncode, len(errors.splitlines())), (0, 1), errors)
        self.assertIn(b"no exchange to undo", errors)
        self.assertTrue(output.endswith(b"at token 0\n"), output[-200:])

        process = subprocess.Popen(command, **pipes)
        process.stdin.write(b"go on\n")
        process.stdin.flush()
        process.stdout.read(1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 128 + signal.SIGTERM)

    def test_chat_at_a_terminal_tells_whose_turn_it_is(self):
        self.prepare()
        self.train_briefly()
        ours, theirs = pty.openpty()
        process = subprocess.Popen([PROGRAM, "chat", "--model", "run", "--max-tokens", "3", "--logit-bias", "97=1e6"], cwd=self.path,
                                   stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.close(theirs)
        os.write(ours, b"hello\n\x04")  # and the end of the input
        output, errors = process.communicate(timeout=60)
        os.close(ours)
        self.assertEqual(process.returncode, 0, errors)
        self.assertTrue(output.endswith(b"User: Assistant:aaa\nUser: \n"), output)
        self.assertIn(b"--max-tokens", errors)

    def test_an_interrupted_run_continues_bit_for_bit(self):
        self.prepare()
        self.run_program("train", "run.toml", "--train.out=whole")
        self.run_program("train", "run.toml", "--train.steps=20", "--train.out=parts", "--train.stop_after=7")
        self.run_program("train", "run.toml", "--train.out=parts", "--resume", "auto")
        self.assertEqual(self.losses("whole"), self.losses("parts"))
        def weights(run):
            latest = (self.path / run / "checkpoints" / "latest").read_text().strip()
            return (self.path / run / "checkpoints" / latest / "model.safetensors").read_bytes()
        self.assertEqual(weights("whole"), weights("parts"))

    def test_sigterm_saves_and_resumes(self):
        self.prepare()
        process = subprocess.Popen([PROGRAM, "train", "run.toml", "--train.steps=100000", "--train.save_every=0", "--train.eval_every=0"],
                                   cwd=self.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        metrics = self.path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while (not metrics.exists() or len(metrics.read_text().splitlines()) < 3) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 75, output)
        self.assertTrue((self.path / "run" / "checkpoints" / "latest").exists(), output)

    def test_json_lines_are_prepared_and_described(self):
        lines = [json.dumps({"text": f"entry {i % 70}"}) for i in range(100)]
        (self.path / "a.jsonl").write_text("\n".join(lines[:50] + ["{}"] + lines[50:]))
        stopped = self.run_program("data", "prepare", "a.jsonl", "--output", "lines", code=1)
        self.assertIn(b"a.jsonl:51", stopped.stderr)
        done = self.run_program("data", "prepare", "*.jsonl", "--output", "lines", "--bad-lines", "skip", "--dedupe", "--shuffle", "--threads", "2")
        self.assertIn("lines: 70 documents", done.stdout.decode())
        self.assertIn("a.jsonl:51", done.stdout.decode())
        report = json.loads(self.run_program("data", "info", "lines", "--json", "--show", "2").stdout)
        self.assertEqual(report["documents"], 70)
        self.assertTrue(all(sample["text"].startswith("entry ") for sample in report["samples"]), report)

    def test_words_of_texts_are_a_tokenizer(self):
        (self.path / "a.txt").write_text("the sea , the  whale\nthe sea\n")
        done = self.run_program("data", "words", "a.txt", "--eos", "--unk", "--max-words", "4", "--output", "lists/sea.words")
        self.assertEqual((self.path / "lists" / "sea.words").read_text(), "<unk>\n<eos>\nthe\nsea\n")
        self.assertIn("4 words", done.stdout.decode())
        self.assertIn("2 are not listed", done.stdout.decode())
        self.run_program("data", "prepare", "a.txt", "--tokenizer", "lists/sea.words", "--output", "sea")
        report = json.loads(self.run_program("data", "info", "sea", "--json", "--show", "1", "--tokenizer", "lists/sea.words").stdout)
        self.assertEqual([report["tokens"], report["samples"][0]["text"]], [9, "the sea <unk> the <unk>\nthe sea\n"])
        refused = self.run_program("data", "words", "a.txt", "--max-words", "2", "--output", "b.words", code=1)
        self.assertIn(b"--unk", refused.stderr)
        self.assertFalse((self.path / "b.words").exists())

    def test_examples_of_texts(self):
        (self.path / "a.csv").write_text("text,label\n" + "".join(f'"{i} {word}, {word}",{word}\n' for i in range(30) for word in ("good", "bad")))
        (self.path / "b.csv").write_text("text,label\nfine,good\n,bad\n")
        done = self.run_program("data", "examples", "text", "--label", "label", "--valid", "0.3", "--test", "b.csv", "--text", "text", "a.csv",
                                "--tokenizer", "words", "--output", "sets/mine").stdout.decode()
        for part in ("sets/mine/test: 1 examples, 1 steps", "classes: 2 (bad, good)", "left out: 1 empty examples"):
            self.assertIn(part, done)
        reports = {part: json.loads(self.run_program("data", "info", f"sets/mine/{part}", "--json", "--show", "1").stdout) for part in ("train", "valid", "test")}
        self.assertEqual(reports["train"]["examples"] + reports["valid"]["examples"], 60)
        self.assertEqual(reports["test"]["classes"], [{"name": "bad", "examples": 0}, {"name": "good", "examples": 1}])
        self.assertEqual(reports["test"]["samples"][0]["sequences"][0]["text"], "<unk>")
        text = self.run_program("data", "info", "sets/mine/train.safetensors", "--show", "1").stdout.decode()
        self.assertRegex(text, r"example 0, (good|bad) \(3 steps\): \"\d+ (good|bad), (good|bad)\"\n")
        child = subprocess.Popen(["true"])
        child.wait()
        (self.path / "sets/mine" / f".train.safetensors.values-0.tmp-{child.pid}").write_text("half")
        (self.path / "sets/mine" / f".tokenizer.words.tmp-{child.pid}").write_text("half")
        again = self.run_program("data", "examples", "text", "a.csv", "--text=1", "--label=2", "--header", "--classes", "good,bad,none", "--test=.5", "--output", "sets/mine").stdout.decode()
        self.assertIn("removed: 2 temporary files", again)
        self.assertIn("classes without examples: none\n", again)
        self.assertEqual({p.name for p in (self.path / "sets/mine").iterdir()}, {"train.safetensors", "test.safetensors", "tokenizer.words"})

    def test_examples_of_images(self):
        (self.path / "a.bin").write_bytes(bytes([1, 255, 0, 0, 255, 0, 0]) + bytes(7))
        self.run_program("data", "examples", "records", "a.bin", "--pixels", "2", "--rgb", "keep", "--classes", "dark,light", "--output", "images")
        text = self.run_program("data", "info", "images", "--show", "1").stdout.decode()
        for part in ("vectors of 3, U8", "classes    2: dark 1, light 1", "example 0, light (2 steps): 1 0 0 0 1 0\n"):
            self.assertIn(part, text)
        whole = (self.path / "images.safetensors").read_bytes()
        for damaged, reason in ((whole[:-1], b"[safetensors] images.safetensors"), (whole.replace(b"cpp examples", b"cpp exemples"), b"cpp exemples")):
            (self.path / "images.safetensors").write_bytes(damaged)
            for name in ("images", "images.safetensors"):
                self.assertIn(reason, self.run_program("data", "info", name, code=1).stderr)
        (self.path / "images.bin").write_bytes(b"")
        self.assertIn(b"images.idx", self.run_program("data", "info", "images", code=1).stderr)

    def test_a_fresh_run_never_overwrites_one(self):
        self.prepare()
        self.run_program("train", "run.toml", "--train.steps=2")
        done = self.run_program("train", "run.toml", "--train.steps=2", "--resume", "never", code=1)
        self.assertIn(b"--resume", done.stderr)

    def test_wrong_command_lines(self):
        cases = [
            ([], 2, "expected a command: train, compare, generate, chat"), (["data"], 2, "prepare, get"), (["trian", "run.toml"], 2, "'trian'; did you mean 'train'?"),
            (["eval", "pl"], 2, "did you mean 'ppl'?"), (["eval", "nonsense"], 2, "there are ppl"), (["generate", "--modle", "x"], 2, "'--modle'; did you mean '--model'?"),
            (["generate", "--model", "x", "--temprature=1"], 2, "'--temprature=1'; did you mean '--temperature'?"), (["data", "info", "x", "y"], 2, "did not expect 'y'"),
            (["train", "--data.batch=2"], 2, "run_file is required"), (["generate"], 2, "--model"), (["generate", "--model", "nowhere", "--prompt", "x"], 1, "nowhere"),
            (["chat"], 2, "--model"), (["chat", "--model", "nowhere"], 1, "nowhere"), (["chat", "--model", "x", "--max-tokens", "0"], 2, "1 or more, got 0"),
            (["train", "missing.toml"], 1, "missing.toml"), (["train", "run.toml", "--optim.lrr=1"], 2, "optim.lr"),
            (["train", "run.toml", "--optim.lr=fast"], 2, "optim.lr"), (["train", "run.toml", "--train.precision=float16"], 2, "float16"),
            (["train", "run.toml", "--model.z_dim=15"], 2, "z_dim"), (["train", "run.toml", "--model.preset=mega8B"], 2, "mega7"),
            (["train", "run.toml", "--data.train=absent"], 1, "absent"), (["data", "prepare", "absent.txt", "--output", "x"], 1, "absent.txt"),
            (["data", "words", "a.txt", "--output", "a.txt"], 2, "ends in .words"), (["data", "get", "webster"], 2, "gcide"), (["data", "info", "run.toml"], 1, "run.toml"),
            (["data", "info", "."], 1, "is a folder"), (["data", "prepare", ".", "--output", "x/y", "--tokenizer", "no.model"], 1, "'no.model' does not exist"),
            (["data", "prepare", ".", "--output", "x/y", "--tokenizer", "sentencepiece"], 2, "expected bytes"),
            (["data", "prepare", ".", "--output", "x/y", "--valid", "1.5"], 2, "got 1.5"), (["generate", "--model", "x", "--prompt", "x", "--temperature", "-1"], 2, "got -1"),
            (["eval", "ppl", "--model", "nowhere", "--data", "x"], 1, "nowhere"),
            (["eval", "ppl", "--model", "x"], 2, "--text"), (["eval", "ppl", "--model", "x", "--data", "y", "--batch", "2"], 2, "--published"), (["inspect", "mega2000M"], 2, "mega200M"),
            (["convert", "nowhere", "there"], 1, "nowhere"), (["generate", "--model", "x", "--prompt", "x", "--top-p", "2"], 2, "top-p"),
            (["--threads", "-3", "generate", "--model", "x", "--prompt", "x"], 2, "threads"),
            (["generate", "--model", "x", "--prompt", "x", "--min-p", "2"], 2, "min-p"), (["generate", "--model", "x", "--prompt", "x", "--logit-bias", "5"], 2, "got '5'"),
            (["generate", "--model", "x", "--prompt", "x", "--logprobs-file", "x"], 2, "--logprobs"), (["generate", "--model", "x", "--prompt", "x", "--logprobs", "-1"], 2, "got -1"),
            (["generate", "--model", "x", "--prompt", "x", "--tokens", "-5"], 2, "-1 or more, got -5"),
            (["generate", "--model", "x", "--prompt", "x", "--tokens", "1e3"], 2, "got 1e3"),
            (["eval", "ppl", "--model", "x", "--data", "y", "--documents", "-3"], 2, "--documents"),
            (["eval", "ppl", "--model", "x", "--data", "y", "--max-tokens", "-1"], 2, "--max-tokens"),
            (["eval", "ppl", "--model", "x", "--data", "y", "--stretch", "0"], 2, "1 or more, got 0"),
            (["eval", "ppl", "--model", "x", "--data", "y", "--stretch", "64", "--published-long-inference"], 2, "excludes"),
            (["train", "run.toml", "--optim.lr=nan"], 2, "got nan"),
            (["bench", "train", "--preset", "mega8B"], 2, "byte11m, mega200M"), (["bench", "ops", "fft"], 2, "fft"),
            (["bench", "train", "--seq", "48", "--tokens", "64"], 2, "no multiple"), (["bench", "train", "--precision", "float16"], 2, "float16"),
        ]
        for arguments, code, part in cases:
            with self.subTest(arguments=arguments):
                done = self.run_program(*arguments, code=code)
                message = done.stderr.decode()
                self.assertIn(part, message)
                self.assertEqual(done.stdout, b"")
                self.assertEqual(len(message.strip().splitlines()), 1, message)
        self.assertFalse((self.path / "x").exists(), "refused, it leaves nothing")

    def test_bench_prints_one_object_a_case(self):
        train = self.run_program("bench", "train", "--seq", "32,64", "--precision", "float32", "--steps", "1", "--warmup", "0", "--json")
        for line, length in zip(train.stdout.splitlines(), (32, 64), strict=True):
            case = json.loads(line)
            self.assertEqual((case["case"], case["seq"], case["batch"], case["precision"], case["params"]), ("train", length, 1, "float32", 11359104))
            for key in ("tok_s", "gemm_share", "peak_mb"):
                self.assertGreater(case[key], 0, key)
        ops = self.run_program("bench", "ops", "dropout", "rotary", "--seconds", "0", "--json").stdout.splitlines()
        self.assertEqual({json.loads(line)["op"] for line in ops}, {"dropout", "rotary"})
        self.assertIn(b"| bfloat16", self.run_program("bench", "train", "--seq", "32", "--tokens", "64", "--steps", "1", "--precision", "bfloat16").stdout)

    def test_help_tells_every_field(self):
        text = self.run_program("train", "--help").stdout.decode()
        for key in ("optim.lr", "model.chunk_size", "data.seq_len", "train.save_every", "optim.schedule.warmup", "--resume"):
            self.assertIn(key, text)

    def test_help_of_generate_tells_the_order_of_sampling(self):
        text = " ".join(self.run_program("generate", "--help").stdout.decode().split())
        self.assertIn("in this order: logit-bias; repetition-penalty;", text)
        for option in ("--min-p", "--typical-p", "--penalty-last-n", "--mirostat-tau", "--logit-bias", "--logprobs-file"):
            self.assertIn(option, text)

    def test_help_of_chat_tells_its_commands_and_options(self):
        text = " ".join(self.run_program("chat", "--help").stdout.decode().split())
        for part in ("/undo take the last exchange back", "/load FILE", "in this order: logit-bias", "--mirostat-tau", "--system"):
            self.assertIn(part, text)
        self.assertRegex(text, r"--user-prefix TEXT ?[=\[]\\nUser:")  # CLI11 2.2 and 2.4 show defaults in their own ways

    def test_help_tells_threads_where_they_count(self):
        for command in (["data", "prepare"], ["generate"], ["eval", "ppl"], ["train"], []):
            with self.subTest(command=command):
                self.assertIn("--threads", self.run_program(*command, "--help").stdout.decode())
        (self.path / "a.txt").write_text("text")
        self.run_program("--threads", "2", "data", "prepare", "a.txt", "--output", "a")
        self.run_program("data", "prepare", "a.txt", "--output", "a", "--threads", "2")

    def test_another_split_replaces_the_whole_of_the_first(self):
        self.prepare()
        self.assertTrue((self.path / "corpus" / "test.idx").exists())
        self.run_program("data", "prepare", "text*.txt", "--output", "corpus", "--valid", "0.2", "--seed", "5")
        self.assertEqual({p.name for p in (self.path / "corpus").iterdir()}, {f"{part}.{kind}" for part in ("train", "valid") for kind in ("bin", "idx", "json")})

    def test_a_killed_prepare_is_cleaned_up_after(self):
        child = subprocess.Popen(["true"])
        child.wait()
        (self.path / f".corpus.bin.tmp-{child.pid}").write_text("half")
        (self.path / f".other.bin.tmp-{child.pid}").write_text("half")
        done = self.run_program("data", "prepare", "text*.txt", "--output", "corpus")
        self.assertIn("removed: 1 temporary files", done.stdout.decode())
        self.assertEqual([p.name for p in self.path.glob(".*")], [f".other.bin.tmp-{child.pid}"])

    def test_presets_have_the_published_sizes(self):
        text = self.run_program("inspect", "mega7.3B").stdout.decode()
        self.assertIn("7,385,817,088", text)


if __name__ == "__main__":
    unittest.main()
