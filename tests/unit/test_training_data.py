"""Data sets for fine-tuning: what is wrong with them is said at once, each kind in a sentence, by line number."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest
from ansible_collections.glmbox.box.plugins.module_utils import training_data
from ansible_collections.glmbox.box.plugins.module_utils.training_data import (
    Columns,
    check,
    numbers,
)

COLUMNS = Columns("content", "summary")
CHAT = Columns("prompt", "response", "history")
GOOD = '{"content": "类型#上衣", "summary": "宽松的上衣"}\n'


def chat(history: object) -> str:
    return json.dumps({"prompt": "95", "response": "好", "history": history}) + "\n"


# name: (content, columns, what the sentences have to say)
BAD: dict[str, tuple[str | bytes, Columns, list[str]]] = {
    "empty": ("", COLUMNS, ["is empty"]),
    "blanks": (" \n \n", COLUMNS, ["holds blanks alone"]),
    "blank line": (GOOD + "\n" + GOOD, COLUMNS, ["line 2: blank"]),
    "gbk": (GOOD.encode("gbk"), COLUMNS, ["line 1: not UTF-8", "iconv -f GBK"]),
    "utf-16": (GOOD.encode("utf-16"), COLUMNS, ["is UTF-16 text"]),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD.encode(), COLUMNS, ["begins with a byte order mark"]),
    "gzip": (gzip.compress(GOOD.encode()), COLUMNS, ["is compressed by gzip"]),
    "zip": (b"PK\x03\x04....", COLUMNS, ["is a zip archive"]),
    "parquet": (b"PAR1....", COLUMNS, ["is a Parquet file"]),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", COLUMNS, ["is a git-lfs pointer"]),
    "page": ("<!DOCTYPE html><html>", COLUMNS, ["is an HTML page"]),
    "list": ("[" + GOOD + "]", COLUMNS, ["is one JSON list", "jq -c"]),
    "csv": ("content,summary\na,b\n", COLUMNS, ["looks like CSV"]),
    "no JSON": (GOOD + GOOD[:20] + "\n" + GOOD, COLUMNS, ["line 2: no JSON."]),
    "cut at the end": (GOOD + GOOD[:-6], COLUMNS, ["line 2: no JSON."]),
    "single quotes": ("{'content': 'a', 'summary': 'b'}\n", COLUMNS, ["line 1: no JSON."]),
    "constant": ('{"content": "a", "summary": "b", "score": NaN}\n', COLUMNS, ["line 1: no JSON."]),
    "no object": (GOOD + "3\n", COLUMNS, ["line 2: no JSON object but a number"]),
    "key twice": (
        '{"content": "a", "content": "c", "summary": "b"}\n',
        COLUMNS,
        ["line 1: an object that names a key"],
    ),
    "other columns": (
        '{"contents": "a", "summary": "b"}\n',
        COLUMNS,
        ["no line has the column content", "mean contents?"],
    ),
    "column missing": (GOOD + '{"content": "a"}\n', COLUMNS, ["line 2: without the column summary"]),
    "prompt a number": (
        GOOD + '{"content": 5, "summary": "b"}\n',
        COLUMNS,
        ["line 2: with a number instead of text in c"],
    ),
    "response null": (
        GOOD + '{"content": "a", "summary": null}\n',
        COLUMNS,
        ["line 2: with null instead of text in s"],
    ),
    "prompt empty": (GOOD + '{"content": " ", "summary": "b"}\n', COLUMNS, ["line 2: with an empty content"]),
    "response empty": (GOOD + '{"content": "a", "summary": ""}\n', COLUMNS, ["line 2: with an empty summary"]),
    "surrogate": ('{"content": "\\ud800", "summary": "b"}\n', COLUMNS, ["line 1: with a broken character"]),
    "nul": ('{"content": "a", "summary": "b\\u0000"}\n', COLUMNS, ["line 1: with a broken character"]),
    "mixed column": (
        '{"content": "a", "summary": "b", "id": 1}\n{"content": "a", "summary": "c", "id": "x"}\n',
        COLUMNS,
        ["line 2: text in id, which is a number in line 1"],
    ),
    "history no list": (chat([]) + chat("95"), CHAT, ["line 2: whose history is no list"]),
    "history of threes": (chat([["a", "b", "c"]]), CHAT, ["line 1: whose history is no list"]),
    "history missing": (chat([]) + '{"prompt": "a", "response": "b"}\n', CHAT, ["line 2: without the column history"]),
    "history broken": (chat([["\ud800", "b"]]), CHAT, ["line 1: with a broken character"]),
    "deep": ('{"content": ' + "[" * 200000 + "\n", COLUMNS, ["line 1: n"]),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_data_set_has_its_sentence(name, tmp_path):
    content, columns, words = BAD[name]
    path = tmp_path / "train.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    _, problems = check(str(path), columns)
    assert len(problems) == 1
    for said in words:
        assert said in problems[0]


def test_there_are_more_than_twenty_kinds():
    assert len(BAD) >= 20


def test_what_is_no_file_is_said(tmp_path):
    assert check(str(tmp_path / "absent.json"), COLUMNS)[1] == [f"{tmp_path}/absent.json does not exist."]
    assert check(str(tmp_path), COLUMNS, "data")[1] == ["data is no file."]


def test_a_line_that_is_too_long_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(training_data, "MOST_LINE_BYTES", 10)
    (tmp_path / "train.json").write_text(GOOD)
    assert "line 1: longer than 0 MiB" in check(str(tmp_path / "train.json"), COLUMNS)[1][0]


def test_all_problems_are_said_at_once(tmp_path):
    lines = [
        GOOD.strip(),
        "",
        "{",
        '{"content": "", "summary": ""}',
        "7",
        GOOD.strip(),
        '{"content": "a", "summary": "b"',
    ]
    (tmp_path / "train.json").write_text("\n".join(lines) + "\n")
    reading, problems = check(str(tmp_path / "train.json"), COLUMNS, "train.json")
    assert problems == [
        "train.json, line 2: blank.",
        "train.json, lines 3 and 7: no JSON.",
        "train.json, line 4: with an empty content.",
        "train.json, line 4: with an empty summary.",
        "train.json, line 5: no JSON object but a number.",
    ]
    assert [row.number for row in reading.rows] == [1, 6]
    assert reading.total == 7
    assert reading.notes() == ["train.json, line 6: the same as a line before."]


@pytest.mark.parametrize("content", [GOOD * 3, GOOD.replace("\n", "\r\n"), GOOD.strip()])
def test_a_good_data_set_has_none(content, tmp_path):
    (tmp_path / "train.json").write_bytes(content.encode())
    reading, problems = check(str(tmp_path / "train.json"), COLUMNS)
    assert problems == []
    assert reading.rows[0].response == "宽松的上衣"


def test_histories_are_read(tmp_path):
    (tmp_path / "train.json").write_text(chat([]) + chat([["长城", "多少"]]))
    reading, problems = check(str(tmp_path / "train.json"), CHAT)
    assert problems == []
    assert [row.history for row in reading.rows] == [[], [["长城", "多少"]]]


def test_bad_lines_are_named_by_number():
    assert numbers([4]) == "line 4"
    assert numbers([4, 7, 9]) == "lines 4, 7 and 9"
    assert numbers(list(range(1, 21))) == "lines 1, 2, 3, 4, 5, 6, 7, 8 and 12 more"


def test_the_box_can_run_it():
    """It travels to boxes with Python 3.8: no syntax, and no module, that is newer."""
    import ast

    source = Path(training_data.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    roots = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert roots <= set(sys.stdlib_module_names) | {"ansible_collections"}


def test_what_a_task_returns(tmp_path):
    train, dev = tmp_path / "train.json", tmp_path / "dev.json"
    train.write_text(GOOD * 2)
    dev.write_text(GOOD)
    found = training_data.look({"train": str(train), "validation": str(dev)}, "content", "summary", "")
    assert found["data"]["train"]["lines"] == 2
    assert len(found["data"]["validation"]["sha256"]) == 64
    dev.write_text(GOOD * 2)
    same = training_data.look({"train": str(train), "validation": str(dev)}, "content", "summary", "")
    assert same["notes"][-1].startswith("Training and validation data are the same file")
    dev.write_text("{")
    train.write_text("")
    bad = training_data.look({"train": str(train), "validation": str(dev)}, "content", "summary", "")
    assert bad["failed"]
    assert "2 problems; nothing was changed" in bad["msg"]
