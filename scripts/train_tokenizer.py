#!/usr/bin/python3
"""Trains a SentencePiece tokenizer on text: BPE with byte fallback, which gives back every byte of what it encodes; only
U+2581, SentencePiece's own mark of a space, comes back as one.

    train_tokenizer.py INPUT... --output FOLDER/NAME.model [--vocabulary 8192]

An INPUT is a file of text in UTF-8, or the prefix of a corpus whose tokens are bytes (corpora/gcide/train, as
`megalodon data get` and `megalodon data prepare` write it). Needs Debian's python3-sentencepiece.
"""
import argparse
import io
import json
import os
import pathlib
import sys

import sentencepiece

LONGEST = 1000  # characters of a line that the trainer sees at once


def read(name):
    """The bytes of a file of text or of a corpus."""
    described = pathlib.Path(name + ".json")
    if not pathlib.Path(name + ".bin").is_file():
        return pathlib.Path(name).read_bytes()
    description = json.loads(described.read_text()) if described.is_file() else {}
    kind = description.get("tokenizer", {}).get("type", "unknown")
    if kind != "bytes":
        sys.exit(f"{name}: the tokens of this corpus are of a tokenizer of type {kind}, expected bytes")
    return pathlib.Path(name + ".bin").read_bytes()


def lines(texts):
    for text in texts:
        for line in text.decode(errors="replace").splitlines():
            for begin in range(0, len(line), LONGEST):
                yield line[begin:begin + LONGEST]


def write(path, content):
    """All of it or nothing: where it cannot be written, what was there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sibling = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        sibling.write_bytes(content)
        sibling.replace(path)
    except OSError as error:
        sibling.unlink(missing_ok=True)
        sys.exit(f"{path}: cannot write: {error.strerror}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="the .model file")
    parser.add_argument("--vocabulary", type=int, default=8192, help="number of pieces (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.output.suffix != ".model":
        parser.error(f"--output: expected a name that ends in .model, got {arguments.output}")
    texts = [read(name) for name in arguments.inputs]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(texts), model_writer=model, model_type="bpe", vocab_size=arguments.vocabulary,
        byte_fallback=True, character_coverage=0.9995, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, max_sentence_length=4 * LONGEST, minloglevel=1)
    write(arguments.output, model.getvalue())
    print(f"{arguments.output}: {arguments.vocabulary} pieces")


if __name__ == "__main__":
    main()
