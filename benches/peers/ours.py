"""the `measure` tool as a contestant: a process per round, which reads the inputs that the others have."""
import json
import os
import statistics
import subprocess

from safetensors.torch import load_file


class Measure:
    def __init__(self, executable, implementation, threads, device):
        self.executable, self.implementation = executable, implementation
        self.device = ["--device", device] if device != "cpu" else []
        self.environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}

    def _run(self, case, folder, *arguments):
        command = [self.executable, *case.arguments(), "--implementation", self.implementation, *self.device, "--inputs", folder]
        run = subprocess.run([*command, *arguments], env=self.environment, text=True, capture_output=True)
        if run.returncode:
            raise RuntimeError((run.stderr or run.stdout).strip())
        return json.loads(run.stdout)

    def answer(self, case, folder):
        """What it computes, by name, and the JSON object that it prints."""
        printed = self._run(case, folder, "--repeat", "1", "--outputs", folder)
        return load_file(folder / "outputs.safetensors"), printed

    def seconds(self, case, folder):
        """Of the forward pass, and of forward and backward together."""
        printed = self._run(case, folder, "--repeat", str(case.repeats))
        return tuple(statistics.median(printed[what]) for what in ("forward_s", "forward_backward_s"))
