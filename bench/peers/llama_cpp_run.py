#!/usr/bin/env python3
"""Speed and memory of llama.cpp with one GGUF file, decoding behind a filled context or reading a prompt, as a line of JSON.

llama_cpp.py writes the file and calls this once for each measurement, in a process of its own. llama.cpp's C interface is
called from its prebuilt libraries: the structs below are those of release v0.5.0 and of no other.
"""
from __future__ import annotations

import argparse
import ctypes
import json
import pathlib
import re
import struct
import sys
import time
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

import numpy
from numpy import ndarray

RELEASE = "v0.5.0"
BATCH = 2048  # tokens of a call, llama.cpp's default; it computes 512 of them at once
CHECKED = 32  # tokens whose logits are compared before anything is timed
# Of the largest magnitude of the logits. llama.cpp rounds what it multiplies quantized weights with to 8 bits.
TOLERANCE = {"f16": 3e-3, "q8_0": 3e-2, "q4_0": 3e-2}
ATTENTION = {"flash": 1, "plain": 0}  # llama_flash_attn_type
CPU, F16, LOG_ERROR = 0, 1, 4  # of the enumerations of ggml


class ModelParams(ctypes.Structure):
    _fields_ = [("devices", c_void_p), ("tensor_buft_overrides", c_void_p), ("n_gpu_layers", c_int32),
                ("split_mode", c_int), ("load_mode", c_int), ("lazy_mode", c_int), ("main_gpu", c_int32),
                ("tensor_split", c_void_p), ("progress_callback", c_void_p), ("progress_callback_user_data", c_void_p),
                ("kv_overrides", c_void_p), ("vocab_only", c_bool), ("check_tensors", c_bool),
                ("use_extra_bufts", c_bool), ("no_host", c_bool), ("no_alloc", c_bool), ("load_mtp", c_bool)]


class ContextParams(ctypes.Structure):
    _fields_ = [("n_ctx", c_uint32), ("n_batch", c_uint32), ("n_ubatch", c_uint32), ("n_seq_max", c_uint32),
                ("n_rs_seq", c_uint32), ("n_outputs_max", c_uint32), ("n_outputs_max_per_seq", c_uint32),
                ("n_threads", c_int32), ("n_threads_batch", c_int32), ("ctx_type", c_int), ("rope_scaling_type", c_int),
                ("pooling_type", c_int), ("attention_type", c_int), ("flash_attn_type", c_int),
                ("rope_freq_base", c_float), ("rope_freq_scale", c_float), ("yarn_ext_factor", c_float),
                ("yarn_attn_factor", c_float), ("yarn_beta_fast", c_float), ("yarn_beta_slow", c_float),
                ("yarn_orig_ctx", c_uint32), ("defrag_thold", c_float), ("cb_eval", c_void_p),
                ("cb_eval_user_data", c_void_p), ("type_k", c_int), ("type_v", c_int), ("abort_callback", c_void_p),
                ("abort_callback_data", c_void_p), ("embeddings", c_bool), ("offload_kqv", c_bool), ("no_perf", c_bool),
                ("op_offload", c_bool), ("swa_full", c_bool), ("kv_unified", c_bool), ("samplers", c_void_p),
                ("n_samplers", c_size_t), ("ctx_other", c_void_p)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", c_int32), ("token", POINTER(c_int32)), ("embd", POINTER(c_float)), ("pos", POINTER(c_int32)),
                ("n_seq_id", POINTER(c_int32)), ("seq_id", c_void_p), ("logits", POINTER(c_int8))]


class ThreadpoolParams(ctypes.Structure):
    _fields_ = [("cpumask", c_bool * 512), ("n_threads", c_int), ("prio", c_int), ("poll", c_uint32),
                ("strict_cpu", c_bool), ("paused", c_bool)]


SIGNATURES = {  # result, arguments
    "llama_version": (c_char_p,),
    "llama_log_set": (None, c_void_p, c_void_p),
    "llama_backend_init": (None,),
    "llama_model_default_params": (ModelParams,),
    "llama_context_default_params": (ContextParams,),
    "llama_model_load_from_file": (c_void_p, c_char_p, ModelParams),
    "llama_init_from_model": (c_void_p, c_void_p, ContextParams),
    "llama_attach_threadpool": (None, c_void_p, c_void_p, c_void_p),
    "llama_model_get_vocab": (c_void_p, c_void_p),
    "llama_vocab_n_tokens": (c_int32, c_void_p),
    "llama_model_n_params": (c_uint64, c_void_p),
    "llama_get_memory": (c_void_p, c_void_p),
    "llama_memory_seq_rm": (c_bool, c_void_p, c_int32, c_int32, c_int32),
    "llama_memory_seq_pos_max": (c_int32, c_void_p, c_int32),
    "llama_batch_get_one": (Batch, POINTER(c_int32), c_int32),
    "llama_decode": (c_int32, c_void_p, Batch),
    "llama_synchronize": (None, c_void_p),
    "llama_get_logits_ith": (POINTER(c_float), c_void_p, c_int32),
    "llama_state_seq_get_size": (c_size_t, c_void_p, c_int32),
    "llama_state_seq_get_data": (c_size_t, c_void_p, c_void_p, c_size_t, c_int32),
    "llama_state_seq_set_data": (c_size_t, c_void_p, c_void_p, c_size_t, c_int32),
    "ggml_backend_load_all_from_path": (None, c_char_p),
    "ggml_backend_dev_by_type": (c_void_p, c_int),
    "ggml_backend_dev_backend_reg": (c_void_p, c_void_p),
    "ggml_backend_reg_get_proc_address": (c_void_p, c_void_p, c_char_p),
    "ggml_threadpool_params_init": (None, POINTER(ThreadpoolParams), c_int),
}


@ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
def print_errors(level: int, text: bytes, _: None) -> None:
    if level == LOG_ERROR:
        print(text.decode().rstrip(), file=sys.stderr)


class Library:
    """llama.cpp's functions by their names."""

    def __init__(self, folder: pathlib.Path):
        parts = [ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
                 for name in ("libggml-base.so", f"libggml.{RELEASE}.so", f"libllama.{RELEASE}.so")]
        for name, (result, *arguments) in SIGNATURES.items():
            function = next(getattr(part, name) for part in reversed(parts) if hasattr(part, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.llama_log_set(print_errors, None)
        self.check_layout()
        self.ggml_backend_load_all_from_path(str(folder).encode())  # of the CPU's variants, the best that runs here
        self.llama_backend_init()

    def check_layout(self) -> None:
        """The defaults, read through the structs, are the documented ones."""
        context, model = self.llama_context_default_params(), self.llama_model_default_params()
        found = (context.n_ctx, context.n_batch, context.n_ubatch, context.yarn_beta_fast, context.type_k, context.type_v,
                 context.n_samplers, context.ctx_other, model.use_extra_bufts, model.vocab_only)
        if found != (512, 2048, 512, -1.0, F16, F16, 0, None, True, False):
            raise ValueError(f"[llama.cpp] its structs are not those of {RELEASE}: this is {self.llama_version().decode()}, "
                             f"whose defaults read {found}")

    def threadpool(self, threads: int) -> int:
        """Threads that stay from one token to the next; without one, llama.cpp starts threads for each."""
        cpu = self.ggml_backend_dev_backend_reg(self.ggml_backend_dev_by_type(CPU))
        address = self.ggml_backend_reg_get_proc_address(cpu, b"ggml_threadpool_new")
        create = ctypes.CFUNCTYPE(c_void_p, POINTER(ThreadpoolParams))(address)
        params = ThreadpoolParams()
        self.ggml_threadpool_params_init(params, threads)
        return create(params)


class Model:
    """One sequence of a model's tokens, with room for `length` of them."""

    def __init__(self, library: Library, path: pathlib.Path, length: int, attention: str, threads: int):
        self.library = library
        self.model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
        if not self.model:
            raise ValueError(f"[llama.cpp] {path}: not a model that it loads")
        params = library.llama_context_default_params()
        params.n_ctx, params.n_batch = length, BATCH
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = ATTENTION[attention]
        self.context = library.llama_init_from_model(self.model, params)
        if not self.context:
            raise ValueError(f"[llama.cpp] {path}: no context of {length} tokens")
        library.llama_attach_threadpool(self.context, library.threadpool(threads), None)
        self.memory = library.llama_get_memory(self.context)
        self.vocab_size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))

    def read(self, tokens: ndarray, at_once: int = BATCH) -> None:
        """Appends int32 tokens, and computes the logits after the last one of each part of `at_once`."""
        for start in range(0, len(tokens), at_once):
            part = tokens[start:start + at_once]
            batch = self.library.llama_batch_get_one(part.ctypes.data_as(POINTER(c_int32)), len(part))
            status = self.library.llama_decode(self.context, batch)
            if status != 0:
                raise ValueError(f"[llama.cpp] llama_decode of {len(part)} tokens returned {status}")
        self.library.llama_synchronize(self.context)

    def logits(self) -> ndarray:
        """[vocabulary], after the last token read; raises ValueError where one is not finite."""
        logits = numpy.ctypeslib.as_array(self.library.llama_get_logits_ith(self.context, -1), (self.vocab_size,)).copy()
        if not numpy.isfinite(logits).all():
            raise ValueError("[llama.cpp] logits are not finite")
        return logits

    def truncate(self, length: int) -> None:
        """Forgets all tokens after the first `length`."""
        self.library.llama_memory_seq_rm(self.memory, 0, length, -1)

    def length(self) -> int:
        return self.library.llama_memory_seq_pos_max(self.memory, 0) + 1

    def state(self) -> ndarray:
        state = numpy.empty(self.library.llama_state_seq_get_size(self.context, 0), numpy.uint8)
        self.library.llama_state_seq_get_data(self.context, state.ctypes.data, state.size, 0)
        return state

    def restore(self, state: ndarray) -> None:
        if self.library.llama_state_seq_set_data(self.context, state.ctypes.data, state.size, 0) != state.size:
            raise ValueError("[llama.cpp] it does not take the state of a repeated context")


def repeated_state(state: ndarray, length: int) -> ndarray:
    """The state of a sequence whose keys and values are those of `state` over and over, `length` tokens long.

    A state is: magic, sequence, streams (1), number of cells; position, number of sequences (1) and sequence of each cell;
    whether values are transposed (they are without flash attention), number of layers; for the keys of each layer: type,
    bytes of a row (uint64), [cell, row]; for the values of each layer the same or, transposed: type, bytes of a number,
    numbers of a row, [number, cell].
    """
    cells, = struct.unpack_from("<I", state, 12)
    repeated = numpy.arange(length) % cells
    layout = numpy.dtype([("position", "<i4"), ("sequences", "<i4"), ("sequence", "<i4")])
    offset = 16 + cells * layout.itemsize
    places = state[16:offset].view(layout)[repeated]
    places["position"] = numpy.arange(length)
    transposed, layers = struct.unpack_from("<II", state, offset)
    parts = [state[:12], numpy.array([length], "<u4"), places, state[offset:offset + 8]]
    offset += 8
    for layer in range(2 * layers):
        if transposed and layer >= layers:
            width, rows = struct.unpack_from("<II", state, offset + 4)
        else:
            (width,), rows = struct.unpack_from("<Q", state, offset + 4), 1
        size = rows * cells * width
        numbers = state[offset + 12:offset + 12 + size].reshape(rows, cells, width)
        parts += [state[offset:offset + 12], numbers[:, repeated]]
        offset += 12 + size
    if offset != len(state):
        raise ValueError(f"[llama.cpp] a state of {len(state)} bytes, where {offset} were expected")
    return numpy.concatenate([part.reshape(-1).view(numpy.uint8) for part in parts])


def fill(model: Model, tokens: ndarray) -> None:
    """The context of these tokens, of which the first BATCH are read, and their keys and values repeated for the rest: time
    and memory do not depend on the values."""
    model.read(tokens[:BATCH])
    if len(tokens) > BATCH:
        state = model.state()
        if not numpy.array_equal(repeated_state(state, BATCH), state):
            raise ValueError("[llama.cpp] a state repeated once is not the same")
        model.restore(repeated_state(state, len(tokens)))
    if model.length() != len(tokens):
        raise ValueError(f"[llama.cpp] a context of {model.length()} tokens, expected {len(tokens)}")


def check(model: Model, expected: pathlib.Path, tolerance: float) -> float:
    """Compares logits after a few tokens, read at once and one by one, with the expected ones; returns the largest
    difference by the largest magnitude."""
    with numpy.load(expected) as file:
        tokens, wanted = file["tokens"], file["logits"]
    worst = 0.0
    for at_once in (len(tokens), 1):
        model.truncate(0)
        model.read(tokens, at_once)
        worst = max(worst, float(numpy.abs(model.logits() - wanted).max() / numpy.abs(wanted).max()))
    model.truncate(0)
    if not worst <= tolerance:
        raise ValueError(f"[llama.cpp] logits differ by {worst:.1e} of their largest magnitude, at most {tolerance:.1e} "
                         "were expected: this is no model to measure")
    return worst


def time_reading(model: Model, kept: int, at_once: int, options: argparse.Namespace) -> list[float]:
    """Tokens/s of each repetition of reading random tokens behind the first `kept`, after one that does not count."""
    count = options.gen if options.case == "decode" else options.prompt
    rates = []
    for _ in range(1 + options.repeats):
        tokens = numpy.random.default_rng(len(rates)).integers(model.vocab_size, size=count, dtype=numpy.int32)
        start = time.perf_counter()
        model.read(tokens, at_once)
        rates.append(count / (time.perf_counter() - start))
        model.logits()
        model.truncate(kept)
    return rates[1:]


def resident_bytes() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s*(\d+) kB", status)[1])


def cpu_variant() -> str:
    """Of ggml's libraries for a CPU, the one that was loaded."""
    return re.search(r"libggml-cpu-(\w+)\.so", pathlib.Path("/proc/self/maps").read_text())[1]


def measure(options: argparse.Namespace) -> dict[str, object]:
    library = Library(options.libraries)
    decodes = options.case == "decode"
    kept = options.depth if decodes else 0
    length = kept + options.gen if decodes else options.prompt
    model = Model(library, options.file, max(length, CHECKED), options.attention, options.threads)
    difference = check(model, options.expected, TOLERANCE[options.type])
    start = time.perf_counter()
    if kept:
        fill(model, numpy.random.default_rng(0).integers(model.vocab_size, size=kept, dtype=numpy.int32))
    fill_seconds = time.perf_counter() - start
    rates = time_reading(model, kept, 1 if decodes else BATCH, options)
    p10, median, p90 = (round(float(rate), 2) for rate in numpy.percentile(rates, (10, 50, 90)))
    return {
        "case": options.case, "peer": "llama.cpp", "type": options.type, "attention": options.attention, "depth": kept,
        "prompt": 0 if decodes else options.prompt, "gen": options.gen if decodes else 0, "batch": 1,
        "threads": options.threads, "tok_s": median, "tok_s_p10": p10, "tok_s_p90": p90, "repeats": len(rates),
        "rss_mb": round(resident_bytes() / 1e6, 1), "file_mb": round(options.file.stat().st_size / 1e6, 1),
        "params": library.llama_model_n_params(model.model), "fill_s": round(fill_seconds, 1),
        "logits_difference": round(difference, 5), "cpu": cpu_variant(), "version": library.llama_version().decode(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path, help="GGUF")
    parser.add_argument("--libraries", type=pathlib.Path, required=True, help="the folder of libllama")
    parser.add_argument("--expected", type=pathlib.Path, required=True, help="npz: int32 tokens, float32 logits after them")
    parser.add_argument("--case", choices=("decode", "prefill"), required=True)
    parser.add_argument("--type", choices=tuple(TOLERANCE), required=True, help="of the matrices")
    parser.add_argument("--attention", choices=tuple(ATTENTION), required=True)
    parser.add_argument("--depth", type=int, default=0, help="decode: tokens of the context before it")
    parser.add_argument("--gen", type=int, default=32, help="decode: tokens of a repetition")
    parser.add_argument("--prompt", type=int, default=512, help="prefill: tokens of a repetition")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    try:
        print(json.dumps(measure(parser.parse_args())), flush=True)
    except (OSError, ValueError) as error:
        sys.exit(f"{sys.argv[0]}: {error}")


if __name__ == "__main__":
    main()
