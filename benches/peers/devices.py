"""Where the peers compute: on the CPU, or by CUDA."""
import subprocess

import torch


def moved(inputs, device):
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def finish(device):
    """Waits until all that was asked for is done: a CPU is done when a call returns."""
    if device == "cuda":
        torch.cuda.synchronize()


def release(device):
    """Gives back what PyTorch keeps for itself, for another process to have."""
    if device == "cuda":
        torch.cuda.empty_cache()


def cuda_peak_beyond(function):
    """By PyTorch's allocator: the bytes of tensors, not of what it reserves."""
    release("cuda")
    finish("cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    answer = function()
    finish("cuda")
    peak = torch.cuda.max_memory_allocated() - before
    del answer  # until here the gradients are held
    return peak


def described(device):
    """Of a GPU: its name, its driver and PyTorch's CUDA."""
    if device == "cpu":
        return {}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return {"gpu": torch.cuda.get_device_name(), "driver": driver, "cuda": torch.version.cuda}
