#!/usr/bin/env python3
"""Ours beside PyTorch, TRL and Liger on this machine's CPU or NVIDIA GPU: installs them, builds `measure`, compares. See README.md."""
import argparse
import os
import pathlib
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--features", default="cuda", help="to build for a GPU with; cuda-cpp builds without LLVM")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything works; docs/ is left alone")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant is timed")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for ours and theirs alike")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--implementations", default="fast,portable,naive", help="which of ours")
    parser.add_argument("--venv", type=pathlib.Path, default=TARGET / "peers-venv", help="made if it is not there")
    parser.add_argument("--measure", type=pathlib.Path, help="a `measure` that is built already")
    parser.add_argument("--out", type=pathlib.Path, help="for the page, the chart and the figures")
    return parser.parse_args()


def python_of(folder):
    """The interpreter of the virtual environment, which has what requirements.txt asks for."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt"], check=True)
    return python


def built(args):
    features = ["--features", args.features] if args.device == "cuda" else []
    subprocess.run(["cargo", "build", "--release", "-p", "burn-dpo-tools", "--bin", "measure", *features], cwd=ROOT, check=True)
    return TARGET / "release" / "measure"


def main():
    args = arguments()
    out = args.out or (TARGET / "peers" if args.quick else ROOT / "docs")
    compare = [python_of(args.venv), HERE / "compare.py", "--measure", args.measure or built(args), "--out", out]
    compare += ["--scratch", TARGET / "peers", "--rounds", str(args.rounds), "--threads", str(args.threads)]
    compare += ["--device", args.device, "--only", args.only, "--implementations", args.implementations, *(["--quick"] if args.quick else [])]
    # PyTorch asks for the number of threads once, and would leave processes that compile beside those that are timed.
    once = {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    once["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.run(compare, env=os.environ | once).returncode


if __name__ == "__main__":
    sys.exit(main())
