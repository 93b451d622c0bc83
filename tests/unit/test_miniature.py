"""The miniature's files fit together, and the stand-ins of the demos keep upstream's habits. Needs no torch."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import yaml

MINIATURE = Path(__file__).resolve().parents[2] / "local_box" / "miniature"
MODEL = MINIATURE / "model"
DEMOS = MINIATURE / "demos"
MODEL_ID = "THUDM/chatglm2-6b"
SERVERS = ["api.py", "openai_api.py"]
PAGES = ["web_demo.py", "web_demo2.py", "cli_demo.py"]
MAX_BYTES = 2_000_000


def read_json(name: str) -> dict:
    return json.loads((MODEL / name).read_text(encoding="utf-8"))


def parse(name: str) -> ast.Module:
    return ast.parse((DEMOS / name).read_text(encoding="utf-8"))


def find_calls(tree: ast.AST, function: str) -> list[ast.Call]:
    """Calls whose function, as written, is `function` or ends in `.function`."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if f".{ast.unparse(call.func)}".endswith(f".{function}")]


def main_block(tree: ast.Module) -> ast.If:
    """The statement `if __name__ == "__main__":`."""
    return next(node for node in tree.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test))


def imported_names(tree: ast.AST) -> set[str]:
    """Every `module` that is imported, and every `module.name` imported from one."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_model_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir() if path.is_file()) <= MAX_BYTES


def test_index_lists_exactly_the_shards() -> None:
    shards = {path.name for path in MODEL.glob("*.bin")}
    assert shards == {f"pytorch_model-{number:05d}-of-00003.bin" for number in (1, 2, 3)}
    index = read_json("pytorch_model.bin.index.json")
    assert set(index["weight_map"].values()) == shards
    assert 0 < index["metadata"]["total_size"] < sum((MODEL / shard).stat().st_size for shard in shards)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_auto_map_names_classes_that_exist(name: str) -> None:
    targets = []
    for target in read_json(name)["auto_map"].values():
        targets += target if isinstance(target, list) else [target]
    assert any(targets)
    for target in filter(None, targets):
        module, class_name = target.split(".")
        tree = ast.parse((MODEL / f"{module}.py").read_text(encoding="utf-8"))
        assert class_name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_config_is_float16_and_sized_by_the_vocabulary() -> None:
    config = read_json("config.json")
    assert config["torch_dtype"] == "float16"
    characters = read_json("vocabulary.json")["characters"]
    assert len(set(characters)) == len(characters)
    assert config["vocab_size"] == 4 + 256 + len(characters)


def test_vocabulary_covers_the_lesson() -> None:
    lesson = yaml.safe_load((MINIATURE / "questions.yml").read_text(encoding="utf-8"))
    characters = set(read_json("vocabulary.json")["characters"])
    texts = [lesson_round["answer"] for lesson_round in lesson["rounds"]]
    texts += [str(question) for lesson_round in lesson["rounds"] for question in lesson_round["ask"]]
    assert {c for text in texts for c in text if ord(c) > 127} <= characters
    assert max(map(len, texts)) >= 150


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("chat", "query history max_length num_beams do_sample top_p temperature logits_processor"),
        (
            "stream_chat",
            "query history past_key_values max_length do_sample top_p temperature logits_processor "
            "return_past_key_values",
        ),
    ],
)
def test_model_has_the_signatures_of_chatglm2(method: str, arguments: str) -> None:
    tree = ast.parse((MODEL / "modeling_miniature.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    names = [argument.arg for argument in functions[method].args.args]
    assert names == ["self", "tokenizer", *arguments.split()]
    assert functions[method].args.kwarg is not None
    assert "quantize" in functions


@pytest.mark.parametrize("name", [*SERVERS, *PAGES, "utils.py"])
def test_demo_says_what_it_is(name: str) -> None:
    docstring = ast.get_docstring(parse(name)) or ""
    assert docstring.startswith(f"glmbox's stand-in of the upstream file {name}, with the same interface")
    assert "\n" not in docstring


@pytest.mark.parametrize("name", [*SERVERS, *PAGES])
def test_demo_names_the_model_twice_and_moves_it_to_the_gpu(name: str) -> None:
    tree = parse(name)
    loads = find_calls(tree, "from_pretrained")
    assert [ast.literal_eval(call.args[0]) for call in loads] == [MODEL_ID, MODEL_ID]
    assert all("trust_remote_code=True" in ast.unparse(call) for call in loads)
    assert find_calls(tree, "cuda")


@pytest.mark.parametrize("name", SERVERS)
def test_server_loads_and_binds_only_as_main(name: str) -> None:
    tree = parse(name)
    block = main_block(tree)
    assert len(find_calls(block, "from_pretrained")) == len(find_calls(tree, "from_pretrained"))
    (run,) = find_calls(tree, "uvicorn.run")
    assert find_calls(block, "uvicorn.run") == [run]
    assert {word.arg: ast.literal_eval(word.value) for word in run.keywords} == {
        "host": "0.0.0.0",
        "port": 8000,
        "workers": 1,
    }


@pytest.mark.parametrize("name", ["web_demo.py", "cli_demo.py"])
def test_page_loads_at_module_level(name: str) -> None:
    loads = [node for node in parse(name).body if isinstance(node, ast.Assign)]
    assert sum(len(find_calls(node, "from_pretrained")) for node in loads) == 2


def test_habits_of_each_demo() -> None:
    web = parse("web_demo.py")
    assert {"utils.load_model_on_gpus", "mdtex2html"} <= imported_names(web)
    assert ast.unparse(web.body[-1]) == "demo.queue().launch(share=False, inbrowser=True)"
    assert find_calls(web, "style")
    assert "st.cache_resource" in ast.unparse(parse("web_demo2.py"))
    assert "readline" in imported_names(parse("cli_demo.py"))
    openai = parse("openai_api.py")
    (dump,) = find_calls(openai, "json")
    assert ast.unparse(dump).endswith(".json(exclude_unset=True, ensure_ascii=False)")
    assert "gpt-3.5-turbo" in ast.unparse(openai)
    handlers = [node for node in ast.walk(parse("api.py")) if isinstance(node, ast.AsyncFunctionDef)]
    assert len(handlers) == 1 and find_calls(handlers[0], "print")
