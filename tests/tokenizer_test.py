"""Compares `megalodon data tokenize` with Debian's python3-sentencepiece: ids and decoded text must be the same.

    tokenizer_test.py path/to/megalodon [folder of data]

Models are trained here, on text made here, in every variety that changes ids. With a folder of data (the second
argument, MEGALODON_DATA_DIR, or shared/data beside the project) the Llama-2 model, its recorded cases and the corpora
there are compared too.
"""

import base64
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import tempfile

import sentencepiece

PROGRAM = sys.argv[1]
PIECES = [
    "a", "b", "A", "B", "c", " ", "  ", "\u2581", "\n", "\t", "\0", "\x01", "\x7f", "\u0300", "\u00a0", "é", "\ufffd",
    "\u3000", "世界", "😀", "👩\u200d👩\u200d👧", "ﬁ", "１", "①", "℡", "ｶﾞ", "\u200b", "\ufeff", "\u00ad", "<s>", "</s>",
    "<unk>", "<0x41>", "the ", "and ", "ing", "[INST] ", "\r\n", "\u0085", "\u2028", "क्षि", "한국어", "שלום", "12", "'s",
]


def find_data():
    given = sys.argv[2] if len(sys.argv) > 2 else os.environ.get("MEGALODON_DATA_DIR")
    folder = pathlib.Path(given) if given else pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if given and not folder.is_dir():
        sys.exit(f"{folder}: no such folder of data")
    return folder if folder.is_dir() else None


def run(model, lines, *options):
    text = b"\n".join(lines) + b"\n"
    done = subprocess.run([PROGRAM, "data", "tokenize", "--tokenizer", str(model), *options], input=text,
                          stdout=subprocess.PIPE, check=True)
    return done.stdout.rstrip(b"\n").split(b"\n")


def encode(model, texts):
    return [json.loads(line) for line in run(model, [json.dumps(text).encode() for text in texts], "--json")]


def encode_bytes(model, texts):
    return [json.loads(line) for line in run(model, texts)]


def decode(model, sequences):
    lines = run(model, [json.dumps(ids).encode() for ids in sequences], "--decode", "--json")
    return [json.loads(line) for line in lines]


def expect_equal(label, inputs, expected, got):
    if len(expected) != len(got):
        sys.exit(f"{label}: expected {len(expected)} results, got {len(got)}")
    for i, (a, b) in enumerate(zip(expected, got)):
        if a != b:
            sys.exit(f"{label}: {str(inputs[i])[:200]!r}\n  expected {str(a)[:500]!r}\n  got      {str(b)[:500]!r}")


def compare(label, model, texts):
    library = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids = library.encode(texts)
    expect_equal(f"{label}, ids", texts, ids, encode(model, texts))
    numbers = random.Random(1)
    size = library.vocab_size()
    sequences = ids + [[numbers.randrange(min(size, limit)) for _ in range(numbers.randrange(12))]
                       for limit in (size, 300) for _ in range(300)]
    expect_equal(f"{label}, text", sequences, [library.decode(s) for s in sequences], decode(model, sequences))
    print(f"{label}: {len(texts)} texts, {sum(map(len, ids))} ids")


def made_texts():
    numbers = random.Random(7)
    texts = ["".join(numbers.choice(PIECES) for _ in range(numbers.randrange(30))) for _ in range(1500)]
    return ["", " ", "  ", *PIECES, *texts]


def long_texts():
    return [unit * (1_000_000 // len(unit.encode())) for unit in ("a", " ", "ab", "世界", "x ", "\u2581")]


def invalid_texts():
    numbers = random.Random(3)
    bad = [b"\xff", b"\x80", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"a", b" b", "é".encode()]
    return [b"".join(numbers.choice(bad) for _ in range(numbers.randrange(1, 8))) for _ in range(300)]


def compare_trained(folder):
    texts = made_texts()
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(text for text in texts if not set(text) & set("\n\r\0\u0085\u2028")), newline="\n")
    varieties = [
        {},
        {"byte_fallback": True},
        {"user_defined_symbols": ["ab", "<sep>", "\u2581\u2581", "世"]},
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"treat_whitespace_as_suffix": True},
        {"add_dummy_prefix": False},
        {"split_by_whitespace": False},
        {"normalization_rule_name": "nfkc_cf", "byte_fallback": True, "remove_extra_whitespaces": False},
    ]
    for number, variety in enumerate(varieties):
        for kind in ("bpe", "unigram"):
            prefix = folder / f"{kind}{number}"
            sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(prefix), model_type=kind,
                                                     vocab_size=450, hard_vocab_limit=False, minloglevel=2, **variety)
            compare(f"{kind} {variety}", prefix.with_suffix(".model"), texts)
    compare("bpe, long lines", folder / "bpe0.model", [text[:200_000] for text in long_texts()])


def compare_script(folder):
    """scripts/train_tokenizer.py, on text and on the same text as a corpus of bytes."""
    text = "".join(f"The meaning of word {i * i}\tis {i % 7}, nœud.\n" for i in range(3000))
    (folder / "words.txt").write_text(text, encoding="utf-8", newline="\n")
    subprocess.run([PROGRAM, "data", "prepare", str(folder / "words.txt"), "--output", str(folder / "words")],
                   stdout=subprocess.DEVNULL, check=True)
    script = [sys.executable, str(pathlib.Path(__file__).resolve().parents[1] / "scripts" / "train_tokenizer.py")]
    models = []
    for name in ("words.txt", "words"):
        models.append(folder / f"trained_{name}.model")
        subprocess.run([*script, str(folder / name), "--output", str(models[-1]), "--vocabulary", "320"],
                       stdout=subprocess.DEVNULL, check=True)
    expect_equal("models of text and of its corpus", ["bytes"], [models[0].read_bytes()], [models[1].read_bytes()])
    compare("a model of the script", models[0], made_texts())
    texts = [*made_texts(), text]
    expect_equal("text there and back", texts, [t.replace("\u2581", " ") for t in texts],
                 decode(models[0], encode(models[0], texts)))
    size = sentencepiece.SentencePieceProcessor(model_file=str(models[0])).vocab_size()
    expect_equal("pieces", ["320"], [320], [size])

    subprocess.run([PROGRAM, "data", "prepare", str(folder / "words.txt"), "--output", str(folder / "pieces"),
                    "--tokenizer", str(models[0])], stdout=subprocess.DEVNULL, check=True)
    refused = subprocess.run([*script, str(folder / "pieces"), "--output", str(folder / "x.model")], capture_output=True, text=True)
    if refused.returncode != 1 or "expected bytes" not in refused.stderr:
        sys.exit(f"a corpus of pieces was taken for bytes: {refused}")

    # A description without a tokenizer, and a disk that takes only the first bytes: one line each, and the old model stays.
    described = folder / "pieces.json"
    description = json.loads(described.read_text())
    del description["tokenizer"]
    described.write_text(json.dumps(description))
    old = models[0].read_bytes()
    for name, part in (("pieces", "expected bytes"), ("words.txt", "cannot write")):
        refused = subprocess.run([*script, str(folder / name), "--output", str(models[0]), "--vocabulary", "320"],
                                 capture_output=True, text=True,
                                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
        if refused.returncode != 1 or part not in refused.stderr or "Traceback" in refused.stderr:
            sys.exit(f"expected to be refused with '{part}': {refused}")
    expect_equal("the model that was there", ["bytes"], [old], [models[0].read_bytes()])
    expect_equal("what else is left", ["names"], [[]], [[path.name for path in folder.glob(".*")]])


def unpacked(path):
    return subprocess.run(["zstd", "-dcq", str(path)], stdout=subprocess.PIPE, check=True).stdout


def compare_recorded(data):
    model = data / "tokenizer" / "tokenizer.model"
    cases = [json.loads(line) for line in unpacked(data / "tokenizer" / "encode_dev.jsonl.zst").split(b"\n") if line]
    texts = [case for case in cases if "text" in case]
    expect_equal("recorded ids", texts, [case["ids"] for case in texts],
                 encode(model, [case["text"] for case in texts]))
    invalid = [case for case in cases if "text_b64" in case]
    expect_equal("recorded ids of ill-formed text", invalid, [case["ids"] for case in invalid],
                 encode_bytes(model, [base64.b64decode(case["text_b64"]) for case in invalid]))
    cases += [json.loads(line) for line in (data / "tokenizer" / "decode_dev.jsonl").read_bytes().split(b"\n") if line]
    expect_equal("recorded texts", cases, [case["decoded"] for case in cases],
                 decode(model, [case["ids"] for case in cases]))
    print(f"recorded: {len(texts)} + {len(invalid)} texts, {len(cases)} sequences of ids")


def compare_corpora(data):
    model = data / "tokenizer" / "tokenizer.model"
    compare("made texts", model, made_texts())
    compare("lines of 1 MB", model, long_texts())
    library = sentencepiece.SentencePieceProcessor(model_file=str(model))
    invalid = invalid_texts()
    expect_equal("ill-formed text", invalid, [library.encode(text) for text in invalid], encode_bytes(model, invalid))
    files = sorted((data / "lm").glob("*valid*.zst")) + [data / "books" / "books_valid.txt.zst"]
    for path in files:
        lines = unpacked(path)[:2_000_000].split(b"\n")
        expected = [library.encode(line) for line in lines]
        expect_equal(path.name, lines, expected, encode_bytes(model, lines))
        print(f"{path.name}: {len(lines)} lines, {sum(map(len, expected))} ids")


def main():
    with tempfile.TemporaryDirectory() as folder:
        compare_trained(pathlib.Path(folder))
        compare_script(pathlib.Path(folder))
    data = find_data()
    if data is None:
        print("no folder of data: the recorded cases and corpora were left out (MEGALODON_DATA_DIR)")
        return
    compare_recorded(data)
    compare_corpora(data)


main()
