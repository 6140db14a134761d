#!/usr/bin/python3
"""Writes the seeds of the fuzz targets whose formats are not text: tests/fuzz/corpus/NAME/*.

The text seeds beside them are written by hand. Needs python3-torch for the files of torch.save.
"""
import io
import json
import pickle
import struct
import zipfile
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


if __name__ == "__main__":
    write_safetensors()
    write_token_indexes()
    write_torch_files()
