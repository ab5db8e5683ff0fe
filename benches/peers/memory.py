"""Peak memory of every candidate beyond its inputs, in a process of its own: memory.py CASE INPUTS THREADS DEVICE

By the resident set as Linux counts it; on a GPU, by PyTorch's allocator. Each does the work once before, so that libraries, compiled code and their buffers
are not counted; the gradients are. Prints a JSON object: bytes by name of the candidate, without those that fail.
"""
import contextlib
import ctypes
import gc
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file

from candidates import work_of
from cases import Case
from devices import cuda_peak_beyond, moved


def resident(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(field + ":")).split()[1])


def peak_beyond(function):
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    answer = function()
    peak = resident("VmHWM") - before
    del answer  # until here the gradients are held
    return peak


def main(case, inputs, threads, device):
    torch.set_num_threads(int(threads))
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    case = Case(**json.loads(case))
    work = work_of(case, moved(load_file(inputs), device))
    peak_of = cuda_peak_beyond if device == "cuda" else peak_beyond
    peaks = {}
    for name, candidate in work.candidates.items():
        with contextlib.suppress(Exception):
            work.forward_backward(candidate, work.start(candidate))
            start = work.start(candidate)
            peaks[name] = peak_of(lambda: work.forward_backward(candidate, start))
            del start
    print(json.dumps(peaks))


if __name__ == "__main__":
    main(*sys.argv[1:])
