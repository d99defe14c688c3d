from __future__ import annotations

import random
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hedgebench.adapters.training.checkpoint import (
    DamagedCheckpointError,
    is_damaged,
    load_checkpoint,
    save_checkpoint,
)


def trained(width: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(width, width)
    optimizer = torch.optim.AdamW(model.parameters())
    torch.autograd.backward(model(torch.ones(1, width)).sum())
    optimizer.step()
    return model, optimizer


class Attack:
    """A pickle that writes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    (model, optimizer), path = trained(), tmp_path / "new" / "folder" / "run.pt"
    state = {"step": 3, "loss": float("inf"), "best": {"weight": torch.arange(3)}, "curve": [(1, "train", 0.5)]}
    save_checkpoint(path, model, optimizer, state)
    drawn = torch.rand(3)
    other, other_optimizer = trained()
    loaded = load_checkpoint(path, other, other_optimizer)
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(loaded["best"].pop("weight"), torch.arange(3))
    assert loaded == {"step": 3, "loss": float("inf"), "best": {}, "curve": [(1, "train", 0.5)]}
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    for left, right in zip(
        optimizer.state_dict()["state"].values(), other_optimizer.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_a_machine_with_fewer_gpus_goes_on_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = [torch.full((16,), i, dtype=torch.uint8) for i in range(3)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    save_checkpoint(tmp_path / "run.pt", *trained(), {})
    put: dict[int, int] = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, index: put.update({index: int(state[0])}))
    load_checkpoint(tmp_path / "run.pt", *trained())
    assert put == {0: 0, 1: 1}


def test_a_write_that_fails_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model, optimizer), path = trained(), tmp_path / "run.pt"
    save_checkpoint(path, model, optimizer, {"step": 1})

    def fail(content: object, file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(path, model, optimizer, {"step": 2})
    assert load_checkpoint(path, model, optimizer) == {"step": 1}


def test_a_checkpoint_takes_the_place_of_the_one_before_and_leaves_no_other_file(tmp_path: Path) -> None:
    (model, optimizer), path = trained(), tmp_path / "run.pt"
    for step in (1, 2):
        save_checkpoint(path, model, optimizer, {"step": step})
    assert load_checkpoint(path, model, optimizer) == {"step": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    (model, optimizer), path, target = trained(), tmp_path / "run.pt", tmp_path / "attacked"
    torch.save({"model": Attack(target)}, path)
    with pytest.raises(DamagedCheckpointError, match=r"UnpicklingError: Weights only load failed\)$"):
        load_checkpoint(path, model, optimizer)
    assert not target.exists()


def as_they_are(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [value.clone() for value in (*model.state_dict().values(), *moments)]


def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, *trained(), {})
    other, optimizer = trained(4)
    before = as_they_are(other, optimizer)
    with pytest.raises(DamagedCheckpointError, match="size mismatch"):
        load_checkpoint(path, other, optimizer)
    assert all(map(torch.equal, before, as_they_are(other, optimizer)))


def test_a_checkpoint_that_lacks_what_is_needed_is_refused(tmp_path: Path) -> None:
    (model, optimizer), path = trained(), tmp_path / "run.pt"
    save_checkpoint(path, model, optimizer, {"step": 1})
    assert load_checkpoint(path, model, optimizer, needed=["step"]) == {"step": 1}
    with pytest.raises(DamagedCheckpointError, match="it lacks curves"):
        load_checkpoint(path, model, optimizer, needed=["step", "curves"])


def test_any_changed_or_missing_byte_is_noticed_and_changes_nothing(tmp_path: Path) -> None:
    (model, optimizer), path = trained(), tmp_path / "run.pt"
    save_checkpoint(path, *trained(), {"step": 1})
    whole, before = path.read_bytes(), as_they_are(model, optimizer)
    generator = random.Random(0)
    for _ in range(60):
        place = generator.randrange(len(whole) - len("\nsha256:") - 32)
        flipped = bytes([whole[place] ^ 1 << generator.randrange(8)])
        path.write_bytes(generator.choice((whole[:place] + flipped + whole[place + 1 :], whole[:place])))
        with pytest.raises(DamagedCheckpointError):
            load_checkpoint(path, model, optimizer)
        assert is_damaged(path)
    assert all(map(torch.equal, before, as_they_are(model, optimizer)))


def test_a_checkpoint_of_an_earlier_release_has_no_digest_and_is_read(tmp_path: Path) -> None:
    (model, optimizer), path = trained(), tmp_path / "run.pt"
    save_checkpoint(path, model, optimizer, {"step": 1})
    path.write_bytes(path.read_bytes().rpartition(b"\nsha256:")[0])
    assert load_checkpoint(path, model, optimizer) == {"step": 1}


@pytest.mark.parametrize("part", ["model", "optimizer", "cpu_random_state", "cuda_random_states", "state"])
def test_a_damaged_key_in_a_checkpoint_without_digest_is_refused_and_changes_nothing(tmp_path: Path, part: str) -> None:
    (model, optimizer), path = trained(), tmp_path / "run.pt"
    save_checkpoint(path, *trained(), {"step": 1})
    whole = torch.load(path, weights_only=True)
    torch.save({name if name != part else f"{name}x": value for name, value in whole.items()}, path)
    before = as_they_are(model, optimizer)
    with pytest.raises(DamagedCheckpointError, match=part):
        load_checkpoint(path, model, optimizer)
    assert all(map(torch.equal, before, as_they_are(model, optimizer)))


def test_what_the_system_refuses_is_its_own_error_and_leaves_no_file(tmp_path: Path) -> None:
    model, optimizer = trained()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(tmp_path / "run.pt", model, optimizer, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
