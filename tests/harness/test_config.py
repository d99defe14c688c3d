"""What a run was asked to do, from flags and a file, and every way to ask wrongly."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgebench.adapters.backbone import SCALES
from hedgebench.harness.cli import make_parser
from hedgebench.harness.config import (
    CHOICES,
    RunConfig,
    config_of,
    flag_arguments,
    make_config,
    parse_overrides,
    parse_seeds,
    read_config_file,
    split_list,
    split_models,
)
from hedgebench.harness.suites import SUITES
from hedgebench.results.names import UsageError

ASKED: dict[str, Any] = {"models": ("elu",), "tasks": ("stdlib",)}


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    def read(text: str) -> dict[str, Any]:
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return read_config_file(path)

    return read


def test_nothing_given_is_the_quickstart() -> None:
    config = make_config({})
    suite = SUITES["quickstart"]
    assert (config.suite, config.models, config.tasks) == ("quickstart", suite.models, tuple(suite.tasks))
    assert config.task_scales == dict(suite.tasks)


def test_what_runs_code_or_leaves_something_out_has_to_be_asked_for() -> None:
    config = make_config({"models": ("softmax",), "tasks": ("stdlib",)})
    off = ("fresh", "offline", "no_gate", "audit", "log_samples", "trust_remote_code")
    assert [name for name in off if getattr(config, name)] == []
    assert (config.limit, config.timeout_s, config.log) == (None, None, ())
    assert (config.workers, config.devices) == (1, 1)


def test_a_scale_that_is_given_holds_for_every_task_of_a_suite() -> None:
    config = make_config({"suite": "quickstart", "scale": "paper"})
    assert (config.scale, config.task_scales) == ("paper", {})


def test_models_that_are_given_replace_those_of_the_suite() -> None:
    config = make_config({"suite": "quickstart", "models": ("relu",)})
    assert (config.models, config.tasks) == (("relu",), tuple(SUITES["quickstart"].tasks))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": ("elu",)}, "no tasks given: pass --tasks"),
        ({"models": (), "tasks": ()}, "models is an empty list"),
        ({**ASKED, "tasks": ()}, "tasks is an empty list"),
        ({"suite": "quikstart"}, "unknown suite 'quikstart'; did you mean quickstart?"),
        ({**ASKED, "scale": "smok"}, "unknown scale 'smok'; did you mean smoke?"),
        ({**ASKED, "device": "gpu"}, "unknown device 'gpu'"),
        ({**ASKED, "dtype": "float16"}, "unknown dtype 'float16'; did you mean .*bfloat16"),
        ({**ASKED, "executor": "cloud"}, r"unknown executor 'cloud' .*local, ray, slurm"),
        ({**ASKED, "recipe": "scrach"}, "unknown recipe 'scrach'; did you mean scratch?"),
        ({**ASKED, "seeds": ()}, "at least one"),
        ({**ASKED, "seeds": (-1,)}, "whole numbers from 0"),
        ({**ASKED, "seeds": (2**32,)}, "whole numbers from 0 to 4294967295"),
        ({**ASKED, "batch_size": "0"}, "batch size is '0'; allowed: a whole number from 1, or auto"),
        ({**ASKED, "batch_size": "²"}, "batch size"),
        ({**ASKED, "limit": 0}, "limit is 0; allowed: a number above 0"),
        ({**ASKED, "workers": -1}, "workers is -1"),
        ({**ASKED, "timeout_s": 0.0}, "timeout is 0; allowed"),
        ({**ASKED, "timeout_s": float("nan")}, "timeout is nan"),
        ({**ASKED, "timeout_s": float("inf")}, "timeout is inf"),
        ({**ASKED, "mirror": "/nowhere/at/all"}, "mirror '/nowhere/at/all' is not a folder"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": "2"}, "^workers is '2'; allowed: int$"),
        ({"timeout": "long"}, "^timeout is 'long'; allowed: float$"),
        ({"log_samples": "yes"}, "^log_samples is 'yes'; allowed: bool$"),
        ({"set": 3}, "^set is 3; it must be a table$"),
        ({"seeds": "1.5"}, "^seeds are '1.5'; allowed"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused_with_its_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_of({"models": "elu", "tasks": "stdlib", **values})


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=5, unique=True))
def test_seeds_are_read_back_as_written(seeds: list[int]) -> None:
    assert parse_seeds(",".join(map(str, seeds))) == tuple(seeds)


@pytest.mark.parametrize("text", ["", "x", "1,x", "-1", "1.5", "1,1", "²", " , "])
def test_seeds_that_are_no_whole_numbers_or_given_twice_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="seeds are"):
        parse_seeds(text)


def test_lists_drop_spaces_and_empty_parts() -> None:
    assert split_list(" a, b,,c ,") == ("a", "b", "c")


def test_overrides_keep_everything_after_the_first_equals_sign() -> None:
    assert parse_overrides(["train.lr=0.1", "tokenizer=a=b", "empty="]) == {
        "train.lr": "0.1",
        "tokenizer": "a=b",
        "empty": "",
    }


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(["steps"], "KEY=VALUE"), (["=1"], "KEY=VALUE"), (["a=1", "a=2"], "gives a twice")],
)
def test_overrides_of_another_form_are_refused(pairs: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_overrides(pairs)


def test_a_file_gives_the_same_configuration_as_flags(toml: Callable[[str], dict[str, Any]]) -> None:
    values = toml(
        'models = "softmax, elu"\ntasks = ["stdlib"]\nseeds = [0, 1]\n'
        "timeout = 60\nbatch-size = 4\nlog_samples = true\n"
        "[set]\nlength = 8\n[set.train]\nlr = 0.5\nbetas = [1, 2]\nnesterov = false\n"
    )
    config = make_config(values)
    assert config == RunConfig(
        models=("softmax", "elu"),
        tasks=("stdlib",),
        seeds=(0, 1),
        timeout_s=60,
        batch_size="4",
        log_samples=True,
        overrides={"length": "8", "train.lr": "0.5", "train.betas": "1,2", "train.nesterov": "false"},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = [", "cannot read configuration"),
        ("modles = 'elu'", "unknown key 'modles'; did you mean models"),
        ("task_scales = {}", "unknown key 'task_scales'"),
        ("set = 3", "set is 3; it must be a table"),
        ("fresh = 'false'", "fresh is 'false'; allowed: bool"),
        ("limit = '5'", "limit is '5'; allowed: int"),
        ("limit = true", "limit is True; allowed: int"),
        ("workers = 1.5", "workers is 1.5; allowed: int"),
        ("timeout = 'long'", "timeout is 'long'; allowed: float"),
        ("output = 3", "output is 3; allowed: str"),
        ("scale = ['smoke']", r"scale is \['smoke'\]; allowed: str"),
        ("seeds = 1.5", "seeds are '1.5'"),
        ("seeds = [0, 0]", "each may be given once"),
        ("set = [1]", "--set '1' is not of the form KEY=VALUE"),
    ],
)
def test_a_file_with_a_mistake_says_which(toml: Callable[[str], dict[str, Any]], text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        toml(text)


def test_a_file_may_begin_and_end_its_lines_as_editors_of_windows_do(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b'\xef\xbb\xbfscale = "small"\r\n[set]\r\nlength = 8\r\n')
    assert read_config_file(tmp_path / "run.toml") == {"scale": "small", "set": {"length": "8"}}


def test_a_folder_below_the_users_home_is_no_folder_named_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert config_of({"models": "elu", "tasks": "stdlib", "output": "~/runs/x"}).output == "/home/me/runs/x"


def test_options_win_over_a_file_a_suite_over_its_models_and_tasks_and_false_over_true(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('models = "softmax"\ntasks = "stdlib"\nfresh = true\nlimit = 3\n', encoding="utf-8")
    config = config_of({"config": path, "suite": "icl", "fresh": False})
    assert (config.models, config.tasks) == (SUITES["icl"].models, tuple(SUITES["icl"].tasks))
    assert (config.fresh, config.limit) == (False, 3)
    assert config_of({"config": path, "models": "elu"}).tasks == ("stdlib",)


def test_a_setting_of_python_is_written_as_after_a_flag() -> None:
    given_in_python = {"metric": None, "train": {"steps": 2, "betas": (1, 2)}, "flags": [True]}
    settings = config_of({"models": "elu", "tasks": "stdlib", "set": given_in_python}).overrides
    assert settings == {"metric": "none", "train.steps": "2", "train.betas": "1,2", "flags": "true"}


def test_a_file_that_is_not_there_or_not_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_config_file(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot read configuration"):
        read_config_file(tmp_path / "binary.toml")


def test_flags_of_several_values_are_read_as_text() -> None:
    options = make_parser().parse_args(["run", "--seeds", "0,1", "--log", "wandb", "--workers", "2", "--timeout", "1"])
    assert (options.seeds, options.log, options.workers, options.timeout) == ("0,1", ["wandb"], 2, 1.0)


def test_every_field_has_a_flag_and_every_flag_a_field() -> None:
    (commands,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    own = {"help", "config", "quiet", "details", "caller"}
    flags = {action.dest for action in commands.choices["run"]._actions} - own
    renamed = {"set": "overrides", "timeout": "timeout_s"}
    assert {renamed.get(flag, flag) for flag in flags} == {f.name for f in fields(RunConfig)} - {
        *("task_scales", "task_recipes", "task_settings"),
        "save_to",
    }


def test_choices_are_those_of_the_floors_below() -> None:
    assert CHOICES["scale"] is SCALES


def test_a_comma_in_the_path_of_a_checkpoint_separates_no_models(tmp_path: Path) -> None:
    (tmp_path / "a,b,c").mkdir()
    assert split_models(f"elu, softmax@hf:{tmp_path}/a,b,c,relu") == ("elu", f"softmax@hf:{tmp_path}/a,b,c", "relu")
    assert split_models(f"softmax@hf:{tmp_path},relu") == (f"softmax@hf:{tmp_path}", "relu")
    assert split_models("softmax@gpt2,relu") == ("softmax@gpt2", "relu")


def test_every_flag_that_takes_a_value_says_its_default() -> None:
    silent = {flag for flag, how in flag_arguments().items() if "action" not in how and "(default: " not in how["help"]}
    assert silent == set()
    assert flag_arguments()["--scale"]["help"].endswith("(default: smoke)")
    assert flag_arguments()["--seeds"]["help"].endswith("(default: 0)")
