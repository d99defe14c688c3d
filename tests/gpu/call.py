"""One forward and one backward pass of Hedgehog's attention, for tools that look at its kernels; see visit.py."""

import argparse
from typing import Any

import torch

from hedgebench.kernels.hedgehog import chunk_hedgehog_attn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    for name, default in (("batch", 8), ("heads", 16), ("tokens", 4096), ("dim", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--maps", default="softmax,exp")
    asked = parser.parse_args()
    size = (asked.batch, asked.tokens, asked.heads, asked.dim)
    generator = torch.Generator(asked.device).manual_seed(0)
    q, k, v = (
        torch.randn(size, generator=generator, device=asked.device, dtype=torch.bfloat16)
        .transpose(1, 2)
        .requires_grad_()
        for _ in range(3)
    )
    weight = torch.eye(asked.dim, dtype=torch.bfloat16, device=asked.device).repeat(asked.heads, 1, 1)

    profiler: Any = torch.cuda.profiler

    def run(feature_map: str) -> None:
        result = chunk_hedgehog_attn(q, k, v, weight, weight, feature_map=feature_map)
        torch.autograd.grad(result.output.float().sum(), (q, k, v))

    for feature_map in asked.maps.split(","):
        run(feature_map)  # compiles
        if asked.device == "cuda":
            torch.cuda.synchronize()
            profiler.start()
        run(feature_map)
        if asked.device == "cuda":
            torch.cuda.synchronize()
            profiler.stop()
    print("done")


if __name__ == "__main__":
    main()
