"""Weights of a teacher or of distilled feature maps, which a stage keeps for later cells.

An artifact's key is the hash of everything that its weights depend on, so a cell that needs the same weights finds
them, whichever cell made them first. Of two cells that need one at the same time, the second waits for the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.foreign import convert, parse_json
from ...results.record import CurvePoint, Metric

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StageResult:
    """The result of a stage besides weights.

    Attributes:
        curves: Its training curves.
        metrics: Its measurements.
        notes: Remarks for the record.
    """

    curves: tuple[CurvePoint, ...] = ()
    metrics: tuple[Metric, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: StageResult) -> StageResult:
        return StageResult(self.curves + other.curves, self.metrics + other.metrics, self.notes + other.notes)


def get_or_make(
    folder: Path,
    stage: str,
    made_from: Mapping[str, Any],
    make: Callable[[], tuple[dict[str, Tensor], StageResult]],
    put: Callable[[Mapping[str, Tensor]], None],
) -> StageResult:
    """The result of a stage, which runs only if no cell of the run has run it before.

    Args:
        folder: Folder of the run's artifacts; it need not exist.
        stage: Name of the stage.
        made_from: Everything that its weights depend on, JSON-ready.
        make: Runs the stage on the cell's model; returns the weights that it changed, and its result.
        put: Puts kept weights into the cell's model.
    """
    from safetensors.torch import load_file, save_file

    text = json.dumps(made_from, sort_keys=True)
    kept = folder / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{kept.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (kept / "about.json").is_file():
            put(load_file(kept / "weights.safetensors"))
            about = parse_json((kept / "about.json").read_bytes())
            del about["made_from"]
            note = f"{stage}: weights taken from {kept.name}, made earlier in this run"
            return convert(about, StageResult, kept.name) + StageResult(notes=(note,))
        weights, result = make()
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f"{kept.name}."))
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary / "weights.safetensors")
        about = {"made_from": made_from, **asdict(result)}
        (temporary / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        shutil.rmtree(kept, ignore_errors=True)
        temporary.replace(kept)
        return result
