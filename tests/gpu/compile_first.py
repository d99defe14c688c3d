"""Compiles in several processes what is timed next, so that the timing process finds each kernel in Triton's cache.

Peers tune over a hundred configurations for each head dimension, which one process would compile one after another.
Here each process compiles its share of them, and runs the first; the timing process then tunes alone on the device.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Any

WORKS = ("forward", "backward", "decode")
TUNED = ("fla", "fla-compiled-map")
OTHERS = ("hedgehog", "hedgehog-exp")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", required=True)
    parser.add_argument("--processes", type=int, default=14)
    parser.add_argument("--share", type=int, default=-1, help="that of this process; none starts them all")
    asked = parser.parse_args()
    if asked.share >= 0:
        return compile_share(asked.device, asked.shapes, asked.share, asked.processes)
    start = time.monotonic()
    running = [subprocess.Popen([sys.executable, *sys.argv, "--share", str(share)]) for share in range(asked.processes)]
    codes = [process.wait() for process in running]
    print(f"{len(codes)} processes, {time.monotonic() - start:.1f} s, exit codes {codes}")
    return int(any(codes))


def compile_share(device: str, shapes: list[str], share: int, processes: int) -> int:
    """Runs each contender's calls once: ours in one process, peers in all, each with its share of configurations."""
    import torch

    from hedgebench.tasks.kernel_speed.shapes import parse_shapes
    from hedgebench.tasks.kernel_speed.workloads import WORKLOADS

    if device == "cuda":
        compile_only_a_share(share, processes)
    found = parse_shapes("+".join(shapes))
    units = [(work, name, shape) for work in WORKS for name in OTHERS for shape in found]
    tuned = [(work, name, shape) for work in WORKS for name in TUNED for shape in found]
    failed = 0
    for work, name, shape in (*units[share::processes], *tuned):
        try:
            calls = WORKLOADS[work][name](shape, torch.device(device), torch.bfloat16)
            for call in calls.values():
                call()
        except Exception as error:  # the timing itself says what cannot run
            failed += name in OTHERS
            print(f"{work}, {name}, {shape.name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
    return int(failed > 0)


def compile_only_a_share(share: int, processes: int) -> None:
    """Replaces tuning by the compilation of every n-th configuration and a run of the first."""
    from triton.runtime.autotuner import Autotuner

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        configs = self.prune_configs(kwargs)
        for config in configs[share::processes]:
            try:
                self.fn.run(*args, **{**kwargs, "warmup": True}, **config.all_kwargs())
            except Exception as error:  # a configuration that does not fit is no configuration when tuning, either
                print(f"{self.base_fn.__name__}, {config}: {type(error).__name__}", flush=True)
        return self.fn.run(*args, **kwargs, **configs[0].all_kwargs())

    setattr(Autotuner, "run", run)  # noqa: B010


if __name__ == "__main__":
    sys.exit(main())
