#!/usr/bin/python3
"""Writes the seeds of the fuzz targets whose formats are not text: tests/fuzz/corpus/NAME/*.

The text seeds beside them are written by hand. Needs python3-torch for the files of torch.save.
"""
import io
import json
import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import torch

CORPUS = Path(__file__).resolve().parent / "corpus"


def put(target, name, content):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(content)


def safetensors(header, data):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def write_safetensors():
    def tensor(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    put("safetensors", "one", safetensors({"w": tensor("F32", [1], 0, 4)}, b"\0\0\xc0\x3f"))
    put("safetensors", "empty", safetensors({}, b""))
    put("safetensors", "several", safetensors({
        "__metadata__": {"format": "pt", "note": "é\n"},
        "layers.0.weight": tensor("F64", [2, 1], 0, 16), "b": tensor("BF16", [3], 16, 22), "mask": tensor("BOOL", [2], 22, 24),
        "scalar": tensor("U8", [], 24, 25), "none": tensor("C64", [0, 4], 25, 25)}, bytes(22) + b"\1\0\7"))


def write_examples():
    def examples(input, values, shape, ends, labels, **metadata):
        metadata = {"format": "megalodon.cpp examples", "format_version": "1", "input": input, **metadata}
        tensors = [("ends", "I64", [len(ends)], struct.pack(f"<{len(ends)}q", *ends)),
                   ("labels", "I32", [len(labels)], struct.pack(f"<{len(labels)}i", *labels)), ("values", *shape, values)]
        header, data = {"__metadata__": metadata}, b""
        for name, dtype, size, content in tensors:
            header[name] = {"dtype": dtype, "shape": size, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
        return safetensors(header, data)

    tokenizer = '{"type":"bytes"}'
    put("examples", "bytes", examples("tokens", b"abcde", ("U8", [5]), [2, 5], [1, 0], classes='["no","yes"]',
                                      tokenizer=tokenizer, largest_token="101"))
    put("examples", "pairs", examples("tokens", struct.pack("<4H", 1, 300, 2, 3), ("U16", [4]), [1, 2, 3, 4], [0, 2], classes="3",
                                      tokenizer=tokenizer, largest_token="300"))
    put("examples", "sound", examples("vectors", struct.pack("<3h", -1, 0, 32767), ("I16", [3]), [1, 3], [0, 0], classes="1"))
    put("examples", "colours", examples("vectors", bytes(range(6)), ("U8", [2, 3]), [2], [9], classes="10"))
    put("examples", "floats", examples("vectors", struct.pack("<4f", 0, 1, -1, 1e9), ("F32", [2, 2]), [1, 2], [0, 1], classes="2"))


def write_sounds():
    def wav(samples, format=1, before_data=b"", more=b""):
        data = struct.pack(f"<{len(samples)}h", *samples)
        described = struct.pack("<HHIIHH", format, 1, 16000, 32000, 2, 16) + more
        chunks = b"fmt " + struct.pack("<I", len(described)) + described + before_data + b"data" + struct.pack("<I", len(data)) + data
        return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks

    put("wav", "plain", wav([0, 1, -1]))
    put("wav", "odd-chunk", wav([5], before_data=b"LIST\3\0\0\0abc\0"))
    put("wav", "extensible", wav([7], format=0xFFFE, more=struct.pack("<HHIH14x", 22, 16, 4, 1)))


def write_images():
    def png(width, height, bits, rows, colours=0, interlaced=0, before_data=b""):
        def chunk(name, data):
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before_data + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    # A row is the number of its filter, then its pixels.
    put("png", "gray", png(3, 2, 8, bytes([0, 0, 128, 255, 2, 1, 2, 3])))
    put("png", "one-bit", png(9, 1, 1, bytes([0, 0b10101010, 0b10000000])))
    put("png", "interlaced", png(2, 2, 8, bytes([0, 10, 0, 20, 0, 30, 40]), interlaced=1))
    put("png", "colours", png(1, 1, 8, bytes([0, 1, 2, 3]), colours=2))


def snapshot(tokens, more):
    """Of the model of src/models/testing.h, with numbers near zero: layers of 16 features, 4 groups, chunks of 8."""
    tensors = [("logits", "F32", [19])]
    for slot in range(3):
        tensors += [(f"state.{slot}.0", "I64", [1]), (f"state.{slot}.1", "F64", [1, 4]), (f"state.{slot}.2", "F64", [1, 4])]
        if slot < 2:
            tensors.append((f"state.{slot}.3", "C64", [1, 16, 4]))
    for slot in range(2 if tokens % 8 else 0):
        tensors += [(f"keys.{slot}", "F32", [tokens % 8, 2, 4]), (f"values.{slot}", "F32", [tokens % 8, 2, 12])]
    header = {"__metadata__": {"content": "megalodon.cpp stream", "content_version": "1", "model": "0" * 16, "tokens": str(tokens),
                               "more": json.dumps(more, separators=(",", ":"))}}
    data = b""
    for name, dtype, shape in tensors:
        size = {"F32": 4, "I64": 8, "F64": 8, "C64": 8}[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += struct.pack("<q", tokens) if dtype == "I64" else bytes(size)
    return safetensors(header, data)


def write_snapshots():
    text = {"tokenizer": {"type": "bytes"}, "pending": [0xE2, 0x82], "turn": "\nUser:",
            "sampler": {"seed": 3, "draws": 5, "mirostat_mu": 10.0, "penalty_window": [97, 98, 97]}}
    put("snapshot", "end-of-a-chunk", snapshot(8, text))
    put("snapshot", "within-a-chunk", snapshot(11, text))
    put("snapshot", "no-text", snapshot(1, "note"))


def token_index(code, lengths, offsets, documents, modes=b""):
    file = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(lengths), len(documents))
    for kind, values in (("i", lengths), ("q", offsets), ("q", documents)):
        file += struct.pack(f"<{len(values)}{kind}", *values)
    return file + modes


def write_token_indexes():
    for name, bin_bytes, index in [
        ("u16", 8, token_index(8, [3, 1], [0, 6], [0, 1, 2])),
        ("u8-empty-documents", 5, token_index(1, [0, 2, 0, 3], [0, 0, 2, 2], [0, 1, 2, 3, 4])),
        ("i32-two-sequences-a-document", 16, token_index(4, [2, 1, 1], [4, 0, 12], [0, 2, 3])),
        ("i64-modes", 24, token_index(5, [2, 1], [0, 16], [0, 2], b"\0\1")),
        ("nothing", 0, token_index(1, [], [], [0])),
    ]:
        put("token_index", name, struct.pack("<H", bin_bytes) + index)


def write_torch_files():
    shared = torch.arange(24, dtype=torch.float32)
    state = OrderedDict(w=shared.view(2, 3, 4), t=shared.view(6, 4).t(), s=shared[9:12], p=torch.nn.Parameter(shared))
    state._metadata = OrderedDict([("", {"version": 1})])
    for name, value in [("tied", state), ("int64", {"n": torch.tensor(5)}), ("nothing", OrderedDict())]:
        file = io.BytesIO()
        torch.save(value, file)
        put("torch_file", name, file.getvalue())
        with zipfile.ZipFile(file) as archive:
            put("pickle", name, archive.read("archive/data.pkl"))
    put("pickle", "refused", pickle.dumps(eval, protocol=2))


def varint(number):
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number, value):
    """One field of a protobuf message: an integer, a float, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece(pieces, kind, charsmap=b"", byte_fallback=False):
    model = b"".join(
        field(1, field(1, text.encode()) + field(2, score) + field(3, type)) for text, score, type in pieces)
    trainer = field(3, kind) + field(35, int(byte_fallback)) + field(44, " ⁇ ".encode())
    normalizer = field(1, b"fuzz") + (field(2, charsmap) if charsmap else b"") + field(3, 1) + field(4, int(bool(charsmap)))
    return model + field(2, trainer) + field(3, normalizer)


def charsmap():
    """A trie with one rule, A -> a, in darts-clone's layout: label in the low byte, offset from bit 10, leaf at bit 8."""
    units = [0] * 256
    units[0] = 1 << 10                # the root's children are at place 0 ^ 1 ^ label
    place = 1 ^ ord("A")
    units[place] = (2 << 10) | 0x100 | ord("A")
    units[place ^ 2] = 0x80000000     # its value: the replacement at 0
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + b"a\0"


def with_text(text, file):
    text = text.encode()
    return bytes([len(text)]) + text + file


def write_sentencepiece():
    special = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    words = [("▁a", -1.0, 1), ("▁", -2.0, 1), ("a", -3.0, 1), ("b", -4.0, 1), ("ab", -5.0, 1), ("é", -6.0, 1)]
    single_bytes = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    text = "ab a  é\n€A"
    put("sentencepiece", "bpe", with_text(text, sentencepiece(special + words + [("[x]", 0.0, 4)], 2)))
    put("sentencepiece", "bpe-bytes", with_text(text, sentencepiece(special + single_bytes + words, 2, byte_fallback=True)))
    put("sentencepiece", "unigram", with_text(text, sentencepiece(special + words, 1, charsmap())))


def write_tokenizer_json():
    vocabulary = {"<unk>": 0, "<s>": 1, **{f"<0x{byte:02X}>": 2 + byte for byte in range(256)}}
    for token in ("▁", "a", "b", "▁a", "ab"):
        vocabulary[token] = len(vocabulary)
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    put("tokenizer_json", "llama", with_text("ab a é", json.dumps({
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}, {"id": 1, "content": "<s>", "special": True}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocabulary,
                  "merges": ["▁ a", "a b"]}}, ensure_ascii=False, separators=(",", ":")).encode()))
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    vocabulary = {chr(code): id for id, code in enumerate(printable + list(range(0x100, 0x144)))}
    for token in ("Ġa", "ab"):
        vocabulary[token] = len(vocabulary)
    put("tokenizer_json", "gpt2", with_text("ab a's  é\n12", json.dumps({
        "added_tokens": [{"id": len(vocabulary), "content": "<|end|>", "special": False}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": ["Ġ a", ["a", "b"]]}},
        ensure_ascii=False, separators=(",", ":")).encode()))


def write_words():
    put("words", "eos", with_text("the  sea\n<unk> é", "<eos>\nthe\nsea\n".encode()))
    put("words", "letters", with_text("é a\n", "a\né".encode()))


if __name__ == "__main__":
    write_words()
    write_sentencepiece()
    write_tokenizer_json()
    write_safetensors()
    write_examples()
    write_sounds()
    write_images()
    write_snapshots()
    write_token_indexes()
    write_torch_files()
