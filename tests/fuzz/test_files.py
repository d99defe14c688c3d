"""Whatever a file or a text holds, its reader ends in a value or a documented error, soon and in little memory.

`make faults INPUTS=100000` tries more inputs than the tests do.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import registry
from hedgebench.harness.commands.comparing import parse_tolerances
from hedgebench.harness.commands.sharing import read_records
from hedgebench.harness.config import config_of, parse_overrides, parse_seeds, read_config_file
from hedgebench.harness.settings import parse_value
from hedgebench.harness.task_spec import parse_task_specs
from hedgebench.results.compare.snapshot import read_snapshot
from hedgebench.results.exchange.export import write_parquet
from hedgebench.results.foreign import parse_json
from hedgebench.results.names import UsageError
from hedgebench.results.record import from_json, record_text
from hedgebench.results.store import RunStore
from hedgebench.tasks.lm_eval.foreign_code import code_in

from .damaging import damaged, ends, every_input, odd_json, odd_text, write

DATA = Path(__file__).parents[1] / "results" / "data"
BASELINE = Path(__file__).parents[2] / "results" / "baselines" / "embedded.json"


@cache
def record() -> Any:
    return json.loads((DATA / "record-v1.json").read_text(encoding="utf-8"))


@cache
def baseline() -> bytes:
    whole = json.loads(BASELINE.read_text(encoding="utf-8"))
    whole["cells"] = whole["cells"][:1]
    samples = whole["cells"][0]["samples"]
    whole["cells"][0]["samples"] = {name: values[:3] for name, values in samples.items()}
    return json.dumps(whole).encode()


JSON_FILES = {"record": lambda: record(), "lm-eval": lambda: json.loads((DATA / "lm_eval-0.4.13.json").read_bytes())}


@pytest.mark.parametrize("kind", JSON_FILES)
@every_input
def test_records_and_results_of_lm_eval(kind: str, place: Path, chance: Random) -> None:
    whole = JSON_FILES[kind]()
    content = odd_json(chance, whole) if chance.random() < 0.5 else damaged(chance, json.dumps(whole).encode())
    for found in ends(lambda: read_records(write(place / "a.json", content), "run"), UsageError) or ():
        assert from_json(parse_json(record_text(found))).cell_id == found.cell_id


@every_input
def test_cells_and_their_predictions(place: Path, chance: Random) -> None:
    store = RunStore(place / "run")
    write(store.cells / "00c0ffee00c0ffee.json", odd_json(chance, record()))
    rows = b'{"a": 1, "b": "x"}\n{"a": NaN}\n'
    content = damaged(chance, chance.choice((rows, gzip.compress(rows, mtime=0))))
    for name in ("x.jsonl", "x.jsonl.gz"):
        (store.samples / name).unlink(missing_ok=True)
    write(store.samples / chance.choice(("x.jsonl", "x.jsonl.gz")), content)
    loaded = store.records()
    assert len(loaded.records) + len(loaded.corrupt) == 1
    kept = list(store.kept_samples("x"))
    of_x = [replace(from_json(record()), cell_id="x")]
    assert not (kept and store.damaged_samples(of_x))


@every_input
def test_baselines(place: Path, chance: Random) -> None:
    content = odd_json(chance, json.loads(baseline())) if chance.random() < 0.5 else damaged(chance, baseline())
    ends(lambda: read_snapshot(write(place / "baseline.json", content)), UsageError)


@cache
def parquet(folder: Path) -> bytes:
    write_parquet([from_json(record())], folder / "whole.parquet")
    return (folder / "whole.parquet").read_bytes()


@every_input
def test_parquet(place: Path, chance: Random) -> None:
    content = damaged(chance, parquet(place))
    ends(lambda: read_records(write(place / "a.parquet", content), "run"), UsageError)


TOML = 'models = "softmax,elu"\ntasks = ["stdlib", "lra/*"]\nseeds = [0, 1]\nlimit = 3\n[set]\ntrain.lr = 0.1\n'
TASKS = '[tickets]\ntask = "classification"\nfile = "tickets.jsonl"\ntext = "subject+body"\n'


@every_input
def test_toml(place: Path, chance: Random) -> None:
    pieces = 'a = "x" 1 0x10 1979-05-27 [set] [[a]] {a=1} \n \n """ nan inf true models tasks seeds'
    whole = chance.choice((TOML, TASKS, None))
    content = _utf8(odd_text(chance, pieces)) if whole is None else damaged(chance, whole.encode())
    file = write(place / "a.toml", content)
    ends(lambda: config_of({"config": str(file)}) and read_config_file(file), UsageError)
    ends(lambda: parse_task_specs(str(file)), UsageError)


YAML = (
    "task: own\ninclude: b.yaml\nmetric_list:\n  - metric: acc\ndoc_to_text: '{{a}}'\nx: !function u.f\ny: &a [1, *a]\n"
)


@every_input
def test_yaml_of_tasks(place: Path, chance: Random) -> None:
    pieces = "a: b - ? | > & * ! !! %TAG --- ... {a: 1} !function \n \n \t task: metric_list: include:"
    content = damaged(chance, YAML.encode()) if chance.random() < 0.5 else _utf8(odd_text(chance, pieces))
    write(place / "b.yaml", b"{}")
    file = write(place / "a.yaml", content)
    ends(lambda: code_in(file), UsageError)
    ends(lambda: registry.tasks().get(f"lm_eval/{file}"), UsageError)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


WORDS = "hedgehog softmax map window feature_dim 64 1 gpt hf: stdlib glue/* train.lr 0.1 true none %"
TEXTS: dict[str, Callable[[str], Any]] = {
    "model": lambda text: parse_spec(text, registry.mechanisms().get),
    "task": lambda text: [registry.task_names(spec.name) for spec in parse_task_specs(text)],
    "seeds": parse_seeds,
    "overrides": lambda text: parse_overrides([text]),
    "tolerances": lambda text: parse_tolerances([text]),
    **{
        f"a value like {default!r}": partial(parse_value, "key", default=default)
        for default in (1, 0.5, True, None, ())
    },
}


@pytest.mark.parametrize("kind", TEXTS)
@every_input
def test_texts_of_the_command_line(kind: str, chance: Random) -> None:
    text = odd_text(chance, WORDS)
    ends(lambda: TEXTS[kind](text), UsageError)


def test_what_is_whole_is_read(place: Path) -> None:
    """Otherwise the others would try only what is refused at once."""
    (found,) = read_records(write(place / "a.json", json.dumps(record()).encode()), "run")
    assert found.cell_id == record()["cell_id"]
    assert read_snapshot(write(place / "baseline.json", baseline())).records
    assert read_records(write(place / "a.parquet", parquet(place)), "run")
