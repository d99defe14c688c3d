"""Which class of a task each output of a checkpoint's classification head stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SYNONYMS: Mapping[str, str] = {
    "neg": "negative",
    "pos": "positive",
    "entail": "entailment",
    "entailed": "entailment",
    "contradict": "contradiction",
    "contradictory": "contradiction",
    "nonentailment": "notentailment",
    "isduplicate": "duplicate",
    "paraphrase": "equivalent",
    "notparaphrase": "notequivalent",
    "grammatical": "acceptable",
    "ungrammatical": "unacceptable",
}
"""Other names of classes that published classifiers use, with only letters and digits."""

_MOST_TOLD = 20
"""Classes whose place in the head the record tells."""

_PLACEHOLDER = re.compile(r"label\d+|\d+")


@dataclass(frozen=True)
class Head:
    """How a task uses a checkpoint's classification head.

    Attributes:
        order: For each class of the task, the index of the head's output; None if the head has other classes.
        note: The same in words, for the record.
    """

    order: tuple[int, ...] | None
    note: str


def match_head(config: Mapping[str, Any], labels: Sequence[str], num_classes: int) -> Head:
    """Maps the outputs of a checkpoint's head to a task's classes, by name if both have names.

    Case, spaces and punctuation do not matter, and a few synonyms are known. Without names, outputs are taken in the
    order of the classes.

    Args:
        config: Content of config.json.
        labels: Names of the task's classes, in the order of their ids; empty if they have none.
        num_classes: Number of the task's classes; 1 for a regression.
    """
    by_place = tuple(range(num_classes))
    entries = config.get("id2label")
    names = [str(name) for _, name in sorted(entries.items(), key=lambda item: int(item[0]))] if entries else []
    if num_classes == 1:
        return Head(by_place, "")
    if not names or all(_PLACEHOLDER.fullmatch(_plain(name)) for name in names):
        return Head(by_place, "classes of the checkpoint's head are taken by place: its config.json does not name them")
    if not labels:
        return Head(by_place, f"classes of the checkpoint's head are taken by place: {', '.join(names)}")
    found, wanted = [[_plain(name) for name in side] for side in (names, labels)]
    if sorted(found) != sorted(wanted):
        theirs, ours = ", ".join(names), ", ".join(labels)
        return Head(None, f"the checkpoint's head is for the classes {theirs}; this task's are {ours}")
    order = _places(found, wanted)
    told = ", ".join(f"{name}={place}" for name, place in zip(labels[:_MOST_TOLD], order, strict=False))
    more = f", and {len(labels) - _MOST_TOLD} more" if len(labels) > _MOST_TOLD else ""
    return Head(order, f"classes of the checkpoint's head are matched by name: {told}{more}")


def _places(found: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """The place of each wanted name among those found; names that several classes have are matched in their order.

    ImageNet has two classes named crane, a bird and a machine.
    """
    places: dict[str, list[int]] = {}
    for place, name in reversed(list(enumerate(found))):
        places.setdefault(name, []).append(place)
    return tuple(places[name].pop() for name in wanted)


def _plain(name: str) -> str:
    letters = re.sub(r"[\W_]+", "", name.casefold())
    return _SYNONYMS.get(letters, letters)
