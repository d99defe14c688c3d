"""Cells as runs of Weights & Biases, in one group, with one more run for the leaderboard, the report and the plots.

W&B's own environment variables name the place: `WANDB_PROJECT` (`hedgebench` unless set), `WANDB_ENTITY`,
`WANDB_API_KEY`. With `WANDB_MODE=offline` everything goes to files in the run's folder, or in `WANDB_DIR`, which
`wandb sync` sends later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..record import Record
from .tracker_payload import cell_name, conditions, curve_name, measurements, parameters, record_digest, record_json

if TYPE_CHECKING:
    from wandb import Run

_STEP = "training_step"
_SENT = "sent"
"""Name of the file that marks the folder of a W&B run as sent."""


class WandbTracker:
    """One run of hedgebench at Weights & Biases.

    The id of a cell's run contains the hash of its record, and the folder of the run is marked once all is sent, so
    nothing is sent twice.
    """

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb = wandb
        self._name = folder.resolve().name
        self._folder = Path(os.environ.get("WANDB_DIR") or folder)
        self._project = os.environ.get("WANDB_PROJECT", "hedgebench")
        self._mode = wandb.setup().settings.mode
        if self._mode == "online" and not wandb.login(prompt=False):
            raise PermissionError("no API key; run wandb login, or set WANDB_MODE=offline")

    def send_cell(self, record: Record) -> None:
        """Sends one cell's parameters, metrics, curves and record."""
        facts = {**parameters(record), **conditions(record)}
        failed = record.status not in ("ok", "oom")
        run_id = f"{record.cell_id}-{record_digest(record)}"
        with self._run(run_id, cell_name(record), record.task, facts, failed) as run:
            if run is None:
                return
            for split in sorted({point.split for point in record.curves}):
                run.define_metric(f"{split}/*", step_metric=_STEP)
            for point in record.curves:
                run.log({_STEP: point.step, curve_name(point): point.value})
            for key, value in measurements(record).items():
                run.summary[key] = value
            artifact = self._wandb.Artifact(f"record-{record.cell_id}", type="record")
            with artifact.new_file("record.json") as file:
                file.write(record_json(record))
            run.log_artifact(artifact)

    def send_files(self, files: Mapping[str, Path]) -> None:
        """Sends the run's files, as an artifact of a run of its own."""
        content = hashlib.sha256(b"".join(name.encode() + path.read_bytes() for name, path in files.items()))
        name = f"report-{content.hexdigest()[:16]}"
        with self._run(name, f"{self._name} / report", "report", {}) as run:
            if run is None:
                return
            artifact = self._wandb.Artifact(name, type="report")
            for relative, path in files.items():
                artifact.add_file(str(path), relative)
            run.log_artifact(artifact)

    def close(self) -> str:
        """Returns the project's group, or the command that sends the offline files."""
        if self._mode == "offline":
            return f"wandb sync {self._folder / 'wandb'}/offline-run-*"
        return f"project {self._project!r}, group {self._name!r}"

    @contextmanager
    def _run(
        self, run_id: str, name: str, job: str, config: Mapping[str, Any], failed: bool = False
    ) -> Iterator[Run | None]:
        """A run to write to, which ends with the block; None if it was sent before."""
        if any((self._folder / "wandb").glob(f"*run-*-{run_id}/{_SENT}")):
            yield None
            return
        settings = self._wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
        run = self._wandb.init(
            project=self._project,
            group=self._name,
            name=name,
            id=run_id,
            job_type=job,
            config=dict(config),
            dir=str(self._folder),
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
        try:
            yield run
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish(exit_code=int(failed))
        (Path(run.settings.sync_dir) / _SENT).touch()
