"""Attention fidelity on images: the test pictures of a task that classifies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...adapters.base import Adapter, Settings, UnsupportedError
from ...results.record import DataIdentity, Metric
from ..base import Row, Sources, TaskData, TaskInfo
from ..heavy import np
from ..images.protocol import EvaluationPictures, ImageClassification
from ..settings import check_ranges, parse_settings
from .measures import MIN_KEYS
from .protocol import Measured, metrics_of, rows_of
from .rows import CorpusWindows, Window


@dataclass(frozen=True, kw_only=True)
class PictureFidelitySettings:
    """How many pictures are compared; all other settings are those of the task that trains the model.

    Attributes:
        windows: Windows; standard errors are taken over them.
        pictures: Pictures in a window.
        sample_positions: Most positions of a picture whose weights are kept for plots; the first picture is kept if it
            has no more, patches and class token together. 0 for none.

    Raises:
        ValueError: There is no window, or no picture in one.
    """

    windows: int = 8
    pictures: int = 16
    sample_positions: int = 65

    def __post_init__(self) -> None:
        check_ranges(self, {"windows": (1, None), "pictures": (1, None), "sample_positions": (0, None)})


@dataclass(frozen=True)
class PictureFidelity:
    """The task; see `attention_fidelity.py`. Pictures are measured in the order of the test split.

    Attributes:
        info: The declaration.
        corpus: Name of the pictures in metrics; empty for that of the data set.
        task: The task that models are trained and distilled by.
    """

    info: TaskInfo
    corpus: str
    task: ImageClassification

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """The data of the task that trains the model."""
        return self.task.identify(_split(settings)[1], sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """The pictures; `limit` keeps that many windows.

        Raises:
            DataUnavailableError: The data are not available.
        """
        chosen, of_task = _split(settings)
        data = self.task.load(of_task, sources)
        test: EvaluationPictures = data.test
        windows = chosen.windows if limit is None else min(limit, chosen.windows)
        kept = min(len(test.labels), windows * chosen.pictures)
        starts = range(0, kept, chosen.pictures)
        parts = (np.array(test.pixels[start : min(kept, start + chosen.pictures)]) for start in starts)
        return replace(data, test=tuple(Window(part, pixels=test.inputs) for part in parts), wants_teacher=True)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The measures of each window, layer and head; then the weights of a few heads.

        Raises:
            UnsupportedError: Nothing could be measured, or the model cuts pictures into too few patches.
        """
        windows: tuple[Window, ...] = data.test
        positions, corpus = adapter.shape.context_length, self.corpus or str(settings["dataset"])
        if positions < MIN_KEYS:
            raise UnsupportedError(
                f"the model has {positions} positions in a picture; measures need {MIN_KEYS}: set a smaller "
                "backbone.patch_size or a larger image_size"
            )
        is_small = positions <= _split(settings)[0].sample_positions
        sample = Window(windows[0].inputs[:1], pixels=windows[0].pixels) if is_small else None
        return rows_of(adapter, Measured((CorpusWindows(corpus, positions, windows, "there is none"),), sample))

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:  # noqa: ARG002
        """As `metrics_of`."""
        return metrics_of(rows)


def _split(settings: Settings) -> tuple[PictureFidelitySettings, Settings]:
    """The settings of the comparison, and those of the task that trains the model."""
    own = vars(PictureFidelitySettings()).keys()
    chosen = parse_settings(PictureFidelitySettings, {name: settings[name] for name in own if name in settings})
    return chosen, {name: value for name, value in settings.items() if name not in own}
