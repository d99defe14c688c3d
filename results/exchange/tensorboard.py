"""Cells as event files of TensorBoard: `tensorboard --logdir RUN/tensorboard` shows them.

The files are written with TensorBoard's own writer, without TensorFlow or torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..record import Record
from ..run_folder import RunFolder
from .tracker_payload import conditions, curve_name, folder_name, measurements, parameters

Summary: TypeAlias = Any
"""A protobuf message of TensorBoard, whose classes exist only once they are imported."""


class TensorboardTracker:
    """The run's folder `tensorboard`, with one folder for each cell, which replaces any earlier one."""

    def __init__(self, folder: Path) -> None:
        self._run = RunFolder(folder)
        self._folder = folder / "tensorboard"

    def send_cell(self, record: Record) -> None:
        """Writes one cell's parameters as hyper-parameters, and its metrics and curves as scalars."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        facts = {**parameters(record), **conditions(record)}
        summaries = [(0, hparams_pb(facts, trial_id=record.cell_id))]
        summaries += [(0, scalar_pb(key, value)) for key, value in measurements(record).items()]
        summaries += [(point.step, scalar_pb(curve_name(point), point.value)) for point in record.curves]
        self._write(self._folder / folder_name(record), summaries)

    def send_files(self, files: Mapping[str, Path]) -> None:
        """Writes the leaderboard as text and the plots as images; TensorBoard shows no other files."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        summaries = []
        for name, path in files.items():
            if name == "leaderboard.md":
                summaries.append((0, text_pb(name, path.read_text(encoding="utf-8"))))
            elif path.suffix == ".png":
                summaries.append((0, _image(name, path.read_bytes())))
        self._write(self._folder / "report", summaries)

    def close(self) -> str:
        """Returns the command that shows the folder."""
        return f"tensorboard --logdir {self._folder}"

    def _write(self, folder: Path, summaries: Sequence[tuple[int, Summary]]) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._run.remove(folder)
        writer = EventFileWriter(str(folder))
        for step, summary in summaries:
            writer.add_event(_message("event_pb2").Event(step=step, summary=summary))
        writer.close()


def _image(name: str, png: bytes) -> Summary:
    """An image; its width and height are read from the PNG's header."""
    message = _message("summary_pb2").Summary
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    image = message.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    return message(value=[message.Value(tag=name, image=image)])


def _message(module: str) -> Any:
    return importlib.import_module(f"tensorboard.compat.proto.{module}")
