"""Prints the static roofline of the kernels, by count, not measured: `make roofline`.

PYTHONPATH=.pyroot:tests python -m kernels.roofline [--maps softmax,exp] [--dims 64,128] [--masked] [--json]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from .count import BATCH, HEADS, Roofline, Variant, rooflines

LIMITS = """By count, not measured. Ceiling: issue slots, tensor cores and HBM alone, which no schedule beats. Replay:
stalls and barriers in order, without caches and bank conflicts. On a plain FlashAttention-2 kernel such a replay was
1.4 to 1.6 times as fast as what is published; times with these factors are in brackets."""
OPTIMISTIC = (1.4, 1.6)


def as_row(found: Roofline) -> dict[str, Any]:
    """One operator as plain data."""
    kernels = [
        {
            "kernel": each.kernel.name, "programs": each.programs, "turns": each.turns, "occupancy": each.occupancy,
            "registers": each.kernel.registers, "spill_bytes": each.kernel.spill_bytes,
            "cycles": {pipe: round(value) for pipe, value in each.cycles.items()},
            "cycles_per_token_head": {
                pipe: round(value * each.programs / found.variant.token_heads, 2) for pipe, value in each.cycles.items()
            },
            "local_bytes_per_token_head": each.local_bytes * each.programs / found.variant.token_heads,
            "replayed_cycles": round(each.replayed), "replayed_ms": 1e3 * each.replayed_s,
            "ceiling_ms": 1e3 * each.ceiling_s, "products_left_out": each.products_left_out,
        }
        for each in found.kernels
    ]  # fmt: skip
    return {
        "map": found.variant.feature_map, "dim": found.variant.dim, "tokens": found.variant.tokens,
        "masked": found.variant.masked, "work": found.work, "form": found.form, "roofline_ms": 1e3 * found.least_s,
        "ceiling_percent": found.ceiling_percent, "ceiling_ms": 1e3 * found.ceiling_s,
        "replayed_ms": 1e3 * found.replayed_s, "kernels": kernels,
    }  # fmt: skip


def lines(row: dict[str, Any]) -> list[str]:
    """One operator as lines of a table in Markdown, its kernels first."""
    call = f"{row['map']}, d={row['dim']}, {row['work']}{', masked' if row['masked'] else ''}"
    low, high = (factor * row["replayed_ms"] for factor in OPTIMISTIC)
    per_kernel = [
        f"| {call} | `{each['kernel']}` | {each['occupancy']} | "
        + " | ".join(f"{each['cycles_per_token_head'][pipe]:.1f}" for pipe in PIPES)
        + f" | {each['local_bytes_per_token_head']:.0f} | {each['replayed_ms']:.2f} | |"
        for each in row["kernels"]
    ]
    whole = (
        f"| **{call}** | {row['form']} | | " + " | ".join("" for _ in PIPES) + f" | | {row['replayed_ms']:.2f} "
        f"({low:.2f} to {high:.2f}) | {row['ceiling_percent']:.0f}% |"
    )
    return [*per_kernel, whole]


PIPES = ("issue", "SHFL", "ALU", "MUFU", "FMA", "SMEM", "HGMMA")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m kernels.roofline", description="The static roofline of the kernels"
    )
    parser.add_argument("--maps", default="softmax,exp")
    parser.add_argument("--dims", default="64,128")
    parser.add_argument("--works", default="forward,backward,decode")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--masked", action="store_true", help="with a padding mask, biases and grouped queries")
    parser.add_argument("--json", action="store_true", help="all counts, one operator a line")
    asked = parser.parse_args()
    variants = [
        Variant(name, int(dim), asked.tokens, asked.masked)
        for name in asked.maps.split(",")
        for dim in asked.dims.split(",")
    ]
    if not asked.json:
        sizes = f"Batch {BATCH}, {HEADS} heads, {asked.tokens} tokens, bfloat16"
        print(f"{LIMITS}\n{sizes}; cycles of a multiprocessor per token and head.\n")
        print(f"| call | kernel | programs per SM | {' | '.join(PIPES)} | local B | replay ms | ceiling |")
        print("|" + "---|" * (len(PIPES) + 6))
    for found in rooflines(variants, asked.works.split(",")):
        row = as_row(found)
        print(json.dumps(row) if asked.json else "\n".join(lines(row)), flush=True)


if __name__ == "__main__":
    main()
