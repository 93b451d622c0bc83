"""The demo host's configuration: every problem is found, and all of them in one message."""

import json
from pathlib import Path
from typing import Any

import pytest
from demo_host.config import ConfigError, find_problems, read_config


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    model, code = tmp_path / "model", tmp_path / "code"
    model.mkdir()
    code.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (model / name).write_text("{}")
    for name in ("api.py", "web_demo.py"):
        (code / name).write_text("")
    return {
        "model_dir": str(model),
        "code_dir": str(code),
        "device": "cuda",
        "precision": "fp16",
        "health_port": 8100,
        "queue_limit": 8,
        "max_body_bytes": 1048576,
        "log_text": False,
        "scripts": [
            {"name": "api", "file": "api.py", "port": 8101, "ready_path": "/docs"},
            {"name": "web_demo", "file": "web_demo.py", "port": 8103},
        ],
    }


def test_a_good_file_is_read(good: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "demos.json"
    path.write_text(json.dumps(good))
    config = read_config(str(path))
    assert [(s.name, s.port, s.ready_path) for s in config.scripts] == [("api", 8101, "/docs"), ("web_demo", 8103, "/")]


def test_limits_may_be_left_out(good: dict[str, Any]) -> None:
    for key in ("queue_limit", "max_body_bytes", "log_text"):
        del good[key]
    assert find_problems(good) == []


def test_all_problems_stand_in_one_message(good: dict[str, Any], tmp_path: Path) -> None:
    good.update(device="tpu", queue_limit=-1, colour="red", model_dir="/nowhere")
    del good["health_port"]
    path = tmp_path / "demos.json"
    path.write_text(json.dumps(good))
    with pytest.raises(ConfigError) as caught:
        read_config(str(path))
    assert len(caught.value.problems) == 5
    for word in ("device", "queue_limit", "colour", "/nowhere", "health_port"):
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", '"x"'])
def test_a_file_that_is_no_object_is_one_problem(text: str, tmp_path: Path) -> None:
    path = tmp_path / "demos.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_config(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.json"):
        read_config(str(tmp_path / "no.json"))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("health_port", 80, "health_port must be a whole number"),
        ("health_port", True, "health_port must be a whole number"),
        ("health_port", "8100", "health_port must be a whole number"),
        ("health_port", 8101, "port 8101 is given more than once"),
        ("max_body_bytes", 1.5, "max_body_bytes"),
        ("log_text", "no", "log_text must be true or false"),
        ("precision", "fp32", "precision must be fp16 or int8 or int4 on device cuda"),
        ("precision", ["int4"], "precision must be"),
        ("device", "cpu", "precision must be fp32 on device cpu"),
        ("model_dir", "relative", "model_dir must be an absolute path"),
        ("scripts", [], "at least one script"),
        ("scripts", [7], "scripts[0] must be an object"),
    ],
)
def test_bad_values(good: dict[str, Any], key: str, value: Any, words: str) -> None:
    assert any(words in problem for problem in find_problems({**good, key: value}))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("name", "Api", "name must be"),
        ("name", "web_demo", "name web_demo is given more than once"),
        ("file", "../api.py", "file must be the name of a .py file"),
        ("file", "none.py", "there is no file"),
        ("port", 8103, "port 8103 is given more than once"),
        ("ready_path", "docs", "ready_path must be a path"),
        ("file", "a/b/api.py", "file must be the name of a .py file"),
        ("arguments", "--model x", "arguments must be a list of texts"),
        ("arguments", [1], "arguments must be a list of texts"),
        ("root_path", "page/", "root_path must be a slash and"),
        ("workers", 4, "workers is not a known key"),
    ],
)
def test_bad_scripts(good: dict[str, Any], key: str, value: Any, words: str) -> None:
    good["scripts"][0][key] = value
    assert any(words in problem for problem in find_problems(good))


def test_a_script_may_lie_in_a_folder_and_have_arguments(good: dict[str, Any], tmp_path: Path) -> None:
    Path(good["code_dir"], "ptuning").mkdir()
    Path(good["code_dir"], "ptuning", "web_demo.py").touch()
    more = {"name": "tuned", "file": "ptuning/web_demo.py", "port": 8105, "arguments": ["--a"], "root_path": "/ptuning"}
    path = tmp_path / "demos.json"
    path.write_text(json.dumps({**good, "scripts": [*good["scripts"], more]}))
    script = read_config(str(path)).scripts[-1]
    assert (script.file, script.arguments, script.root_path) == ("ptuning/web_demo.py", ("--a",), "/ptuning")


def test_a_model_folder_without_its_files(good: dict[str, Any]) -> None:
    Path(good["model_dir"], "config.json").unlink()
    assert find_problems(good) == [f"model_dir: there is no file {good['model_dir']}/config.json"]


def test_a_checkpoint_has_its_files_and_one_card(good: dict[str, Any], tmp_path: Path) -> None:
    assert find_problems({**good, "checkpoint": ""}) == []
    assert find_problems({**good, "checkpoint": str(tmp_path / "absent")}) == [
        f"checkpoint: there is no folder {tmp_path}/absent"
    ]
    folder = tmp_path / "checkpoint-20"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert find_problems({**good, "checkpoint": str(folder)}) == [
        f"checkpoint: there is no file {folder}/pytorch_model.bin"
    ]
    (folder / "pytorch_model.bin").write_text("")
    assert find_problems({**good, "checkpoint": str(folder)}) == []
    assert "checkpoint needs a copy on one card" in find_problems({**good, "checkpoint": str(folder), "gpus": 2})[0]
    assert find_problems({**good, "checkpoint": 7}) == ["checkpoint must be an absolute path"]
