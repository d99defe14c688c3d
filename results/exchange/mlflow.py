"""Cells as runs of MLflow, nested in one run that holds the leaderboard, the report and the plots.

MLflow's own environment variables name the server: `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME` (`hedgebench` unless
set), and those of authentication.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..record import Record
from .tracker_payload import cell_name, conditions, curve_name, measurements, parameters, record_digest, record_json

if TYPE_CHECKING:
    from mlflow.entities import Run

_DEFAULTS: Mapping[str, str] = {
    # A server that does not answer delays a run by seconds, not by the minutes of MLflow's own defaults.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_MAX_LENGTH = 6000
"""MLflow's limit of a parameter's length."""
_FORBIDDEN = re.compile(r"[^/\w.\- :]")


class MlflowTracker:
    """One run of hedgebench in MLflow.

    A cell's run is found by the hash of its record, so a record that is sent twice is stored once. A run that is still
    `RUNNING` was interrupted, and its record is sent again.
    """

    def __init__(self, folder: Path) -> None:
        for key, value in _DEFAULTS.items():
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "hedgebench")
        known = self._client.get_experiment_by_name(self._experiment)
        self._experiment_id = known.experiment_id if known else self._client.create_experiment(self._experiment)
        self._name = folder.resolve().name
        self._parent = self._run(self._name, {"hedgebench.run": self._name.replace("'", "_")}).info.run_id

    def send_cell(self, record: Record) -> None:
        """Sends one cell's parameters, metrics, curves and record."""
        tags = {"hedgebench.cell": record.cell_id, "hedgebench.record": record_digest(record)}
        run = self._run(cell_name(record), tags, {"mlflow.parentRunId": self._parent})
        if run.info.status != "RUNNING":
            return
        self._log(run.info.run_id, record)
        self._client.log_text(run.info.run_id, record_json(record), "record.json")
        self._client.set_terminated(run.info.run_id, "FINISHED" if record.status in ("ok", "oom") else "FAILED")

    def send_files(self, files: Mapping[str, Path]) -> None:
        """Sends the run's files, as artifacts of the run around the cells."""
        for name, path in files.items():
            self._client.log_artifact(self._parent, str(path), str(Path(name).parent) if "/" in name else None)

    def close(self) -> str:
        """Ends the run around the cells; returns its experiment and name."""
        self._client.set_terminated(self._parent, "FINISHED")
        return f"experiment {self._experiment!r}, run {self._name!r}"

    def _run(self, name: str, tags: Mapping[str, str], more: Mapping[str, str] | None = None) -> Run:
        """The run that has these tags; it is made if there is none, with `more` tags."""
        same = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        for run in self._client.search_runs([self._experiment_id], same, max_results=1):
            return run
        return self._client.create_run(self._experiment_id, tags={**tags, **(more or {})}, run_name=name)

    def _log(self, run_id: str, record: Record) -> None:
        """Logs parameters, conditions as tags, measurements, and curves at their steps; the client splits requests."""
        from mlflow.entities import Metric, Param, RunTag

        now_ms = int(time.time() * 1000)
        metrics = [Metric(_name(key), value, now_ms, 0) for key, value in measurements(record).items()]
        metrics += [Metric(_name(curve_name(p)), p.value, now_ms, p.step) for p in record.curves]
        params = [Param(_name(key), str(value)[:_MAX_LENGTH]) for key, value in parameters(record).items()]
        tags = [RunTag(_name(key), str(value)) for key, value in conditions(record).items()]
        self._client.log_batch(run_id, metrics, params, tags)


def _name(text: str) -> str:
    """The text with `_` for each character that MLflow forbids in a name."""
    return _FORBIDDEN.sub("_", text)
