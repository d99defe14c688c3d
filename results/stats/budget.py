"""Budgets: what the trainings of a task's models were given, stage by stage, and whether it was the same for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..record import TRAINING_SPLIT, Record
from .statistics import seed_mean

Item: TypeAlias = tuple[str, str]
"""What is counted: a stage and a quantity, such as `("train", "tokens")`, or one of `PARAMETERS` and `STATE`."""

TOKENS, SECONDS = ("all stages", "tokens"), ("all stages", "seconds")
PARAMETERS, STATE = ("parameters", ""), ("state_bytes", "")
GIVEN = ("steps", "tokens")
"""Quantities of a stage that an equal budget has in common."""

_OF_STAGE = (*GIVEN, "trained_parameters", "seconds")
_TEACHES = ("train", "teacher")
"""Stages that train the softmax model once for all models that are converted from it."""
_MOST_NAMES = 2

_Spent: TypeAlias = Mapping[Item, float | None]


@dataclass(frozen=True)
class Budgets:
    """What the trainings of a task's models were given.

    Attributes:
        stages: Stages in which some model was trained, in order.
        spent: By model, for each seed the number of each item; None if the record does not state it.
        stopped: Cells of which a training was stopped early.
    """

    stages: tuple[str, ...]
    spent: Mapping[str, tuple[_Spent, ...]]
    stopped: int

    @property
    def items(self) -> list[Item]:
        """What is not 0 or unknown in all records: items of stages, totals of several stages, parameters, the state."""
        totals = (TOKENS, SECONDS) if len(self.stages) > 1 else ()
        every = (*((stage, name) for stage in self.stages for name in _OF_STAGE), *totals, PARAMETERS, STATE)
        return [item for item in every if any(number for _, number in self._numbers(item))]

    def amount(self, model: str, item: Item) -> tuple[float, float | None] | None:
        """An item's mean over seeds and its standard error; None unless the model's records all state it."""
        numbers = [one[item] for one in self.spent.get(model, ())]
        known = [number for number in numbers if number is not None]
        return seed_mean(known) if known and len(known) == len(numbers) else None

    def told(self) -> str:
        """A sentence, without its subject and full stop, that says whether the models were given the same.

        A stage differs if its steps or its tokens do, in any two trainings; one without a stage has no steps of it.
        """
        differ = [next(filter(None, (self._range((stage, name)) for name in GIVEN)), "") for stage in self.stages]
        if any(differ):
            cells = sum(map(len, self.spent.values()))
            early = f"early stopping in {self.stopped} of {cells} cells" if self.stopped else ""
            found = ["models were not given equal budgets: " + ", ".join(filter(None, differ)), early]
        elif not all(self._is_known((stage, "steps")) for stage in self.stages):
            found = ["whether budgets are equal is not known, as steps are not in every record"]
        elif not all(self._is_known((stage, "tokens")) for stage in self.stages):
            steps = ", ".join(self._given("steps"))
            found = [f"models were given equal steps: {steps}; tokens are not in every record"]
        else:
            each = (" and ".join(self._given(name)) for name in GIVEN)
            found = [f"models were given equal budgets: {' on '.join(each)}"]
        return "; ".join(filter(None, (*found, self._range(PARAMETERS))))

    def _given(self, name: str) -> Iterator[str]:
        """What every training was given, such as `3,000 train steps`."""
        for stage in self.stages:
            (number, *_) = (number for _, number in self._numbers((stage, name)))
            yield f"{number:,.0f} {stage} {name}"

    def _is_known(self, item: Item) -> bool:
        return all(number is not None for _, number in self._numbers(item))

    def _range(self, item: Item) -> str:
        """The least and the most of an item and who had it; empty if it is the same in all records, or not in all."""
        having: dict[float, dict[str, None]] = {}
        for model, number in self._numbers(item):
            if number is None:
                return ""
            having.setdefault(number, {})[model] = None
        ends = (f"{number:,.0f} ({_named(list(having[number]))})" for number in (min(having), max(having)))
        return f"{' '.join(filter(None, item))} from {' to '.join(ends)}" if len(having) > 1 else ""

    def _numbers(self, item: Item) -> Iterator[tuple[str, float | None]]:
        return ((model, one[item]) for model, seeds in self.spent.items() for one in seeds)


def budgets_of(models: Mapping[str, Sequence[Record]]) -> Budgets | None:
    """The budgets of a task's models, from the records of each, one for each seed; None if none was trained."""
    records = [record for own in models.values() for record in own]
    stages = list(dict.fromkeys(stage for record in records for stage in _stages(record)))
    spent = {model: tuple(_spent(record, stages, records) for record in own) for model, own in models.items()}
    trained = tuple(s for s in stages if any(one[s, "steps"] != 0 for seeds in spent.values() for one in seeds))
    stopped = sum(any("stopped early after" in note for note in record.notes) for record in records)
    return Budgets(trained, spent, stopped) if trained else None


def _stages(record: Record) -> Iterator[str]:
    """Stages that a record was planned to go through, and went through."""
    names = (name.removesuffix(".steps") for name in record.settings if name.endswith(".steps"))
    return (name for name in names if name in record.timings_s)


def _spent(record: Record, stages: Sequence[str], peers: Sequence[Record]) -> _Spent:
    stated = {metric.name: metric.value for metric in record.metrics if not metric.at}
    spent: dict[Item, float | None] = {}
    for stage in stages:
        numbers = {name: stated.get(f"{stage}_{name}") for name in _OF_STAGE}
        numbers["steps"] = stated.get(f"{stage}_steps", _steps_of_curve(record, stage))
        numbers["seconds"] = _seconds(record, stage, peers)
        spent |= {(stage, name): 0.0 if numbers["steps"] == 0 else numbers[name] for name in _OF_STAGE}
    for total in (TOKENS, SECONDS):
        parts = [spent[stage, total[1]] for stage in stages]
        spent[total] = None if None in parts else sum(part or 0.0 for part in parts)
    return spent | {item: stated.get(item[0]) for item in (PARAMETERS, STATE)}


def _steps_of_curve(record: Record, stage: str) -> float | None:
    """Steps by the last validation, which ends a training: earlier releases stated no steps. 0 without training."""
    name = "loss" if stage == "train" else f"{stage} loss"
    points = [point for point in record.curves if point.name == name]
    validated = [float(point.step) for point in points if point.split != TRAINING_SPLIT]
    return max(validated, default=None) if points else 0.0


def _seconds(record: Record, stage: str, peers: Sequence[Record]) -> float | None:
    """Seconds of a stage; of weights taken from another cell, those of the one cell of the seed that trained them."""
    if not _is_taken(record, stage):
        return record.timings_s.get(stage)
    makers = [peer for peer in peers if peer.seed == record.seed and not _is_taken(peer, stage)]
    return makers[0].timings_s.get(stage) if stage in _TEACHES and len(makers) == 1 else None


def _is_taken(record: Record, stage: str) -> bool:
    return any(note.startswith(f"{stage}: weights taken from") for note in record.notes)


def _named(models: Sequence[str]) -> str:
    others = len(models) - _MOST_NAMES
    return ", ".join(models[:_MOST_NAMES]) + (f" and {others} other{'s' if others > 1 else ''}" if others > 0 else "")
