"""The memory that a cell needs on the CPU, by count, before it starts."""

from __future__ import annotations

from ..cell import PlannedCell
from ..costs.training import row_cost, stage_settings
from ..recipes import RECIPES

LIBRARY_BYTES = 72 * 2**20
"""What a process takes for modules, threads and workspaces besides what is counted."""

READER_BYTES = 124 * 2**20
"""What the library takes that reads data sets from files, or scikit-learn, which has the digits."""

BACKWARD = 0.5
"""What a backward pass makes, as a share of what autograd kept for it. These three are measured on small models."""

_READ_PLAINLY = ("generated", "python-stdlib")
"""Sources and ids of data that no library reads."""


def memory_need(planned: PlannedCell, devices: int = 1) -> int | None:
    """Bytes that a cell's process needs above what it begins with: libraries, and the largest of its stages.

    If several processes on the CPU share its training, each is counted as if it were alone. None if the need is not
    known: on CUDA, where the device's memory is what counts, for sweeps, which look for the end of the memory, and for
    models or data whose sizes are known only once they are loaded.
    """
    cell = planned.cell
    model = None if planned.problem else row_cost(planned)
    if cell.device != "cpu" or planned.task.info.own_device or model is None:
        return None
    element = 2 if cell.dtype == "bfloat16" else 4
    stages = (
        max(
            model.stage_bytes(stage, settings, cell.settings, element)
            + BACKWARD * settings.batch_size / settings.accumulate * model.kept_bytes(stage, element),
            settings.eval_batch_size * model.read_bytes(element),
        )
        for stage, settings in stage_settings(planned)
    )
    batch = cell.settings["task"].get("batch_size")
    rows = batch if isinstance(batch, int) else 1
    read = 4 * model.sizes.weights + rows * model.read_bytes(element)
    libraries = LIBRARY_BYTES
    if not {cell.data.source, cell.data.id} & {*_READ_PLAINLY}:
        libraries += READER_BYTES
    processes = devices if RECIPES[cell.recipe].trains else 1
    return processes * (libraries + round(max((read, *stages))))
