"""Weights of a teacher or of distilled feature maps, which a stage keeps for later cells.

An artifact's key is the hash of everything that its weights depend on, so a cell that needs the same weights finds
them, whichever cell made them first. Of two cells that need one at the same time, the second waits for the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.foreign import convert, parse_json
from ...results.record import CurvePoint, Metric
from ...results.run_folder import RunFolder, StoreError

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS, _ABOUT, _DIGEST = "weights.safetensors", "about.json", "weights_sha256"


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
    text = json.dumps(made_from, sort_keys=True)
    kept = folder / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    run = RunFolder(folder.parent)
    run.make(folder)
    with (folder / f"{kept.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        damaged = ""
        if os.path.lexists(kept):
            try:
                result = _read(kept, put)
            except _DamagedError as error:
                damaged = f"{stage}: {kept.name} made earlier in this run is damaged ({error}), so it was made again"
                run.set_aside(kept)
            else:
                note = f"{stage}: weights taken from {kept.name}, made earlier in this run"
                return result + StageResult(notes=(note,))
        weights, result = make()
        notes = [damaged] if damaged else []
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f"{kept.name}."))
        try:
            about = json.dumps(
                {"made_from": made_from, **asdict(result), _DIGEST: _write(temporary, weights)}, indent=1
            )
            run.write(temporary / _ABOUT, about.encode())
            run.move(temporary, kept)
        except (
            OSError,
            StoreError,
        ) as error:  # such as a full disk: this cell has its weights, and others make their own
            notes.append(f"{stage}: weights could not be kept for other cells: {error}")
        finally:
            run.remove(temporary)
        return result + StageResult(notes=tuple(notes))


class _DamagedError(Exception):
    """What an earlier cell kept cannot be used; the cell's model was not changed."""


def _write(folder: Path, weights: Mapping[str, Tensor]) -> str:
    """Writes weights into a new folder; returns the digest of their file.

    Raises:
        OSError: They cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    file = folder / _WEIGHTS
    try:
        save_file({name: value.contiguous() for name, value in weights.items()}, file)
    except SafetensorError as error:  # the library's name for what the system refused
        raise OSError(str(error)) from error
    return _digest(file)


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read(kept: Path, put: Callable[[Mapping[str, Tensor]], None]) -> StageResult:
    """The kept result; its weights are put into the cell's model.

    Raises:
        _DamagedError: A file is missing or damaged, or the weights are another model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        about = parse_json((kept / _ABOUT).read_bytes())
        digest = _digest(kept / _WEIGHTS)
        if about.get(_DIGEST, digest) != digest:  # earlier releases wrote none
            raise _DamagedError(f"the digest of {_WEIGHTS} is another")
        parts = {name: value for name, value in about.items() if name not in ("made_from", _DIGEST)}
        result = convert(parts, StageResult, kept.name)
        put(load_file(kept / _WEIGHTS))
    except (OSError, ValueError, AttributeError, SafetensorError, RuntimeError) as error:
        raise _DamagedError(str(error).partition("\n")[0]) from error
    return result
