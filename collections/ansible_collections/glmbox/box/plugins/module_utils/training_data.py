"""What is wrong with a data set for fine-tuning, line by line and before anything is trained with it.

The training script drops lines without a prompt or a response in silence, cuts long ones, and dies of others after
minutes. Here everything is said at once, by line number. Runs on the box too: standard library alone, Python 3.8.
"""

from __future__ import annotations

import difflib
import json
import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of

# Beginnings of files that are something else.
MAGIC = (
    (b"\x1f\x8b", "is compressed by gzip. Unpack it first: gunzip"),
    (b"PK\x03\x04", "is a zip archive. Unpack it first: unzip"),
    (b"BZh", "is compressed by bzip2. Unpack it first: bunzip2"),
    (b"\xfd7zXZ", "is compressed by xz. Unpack it first: unxz"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd. Unpack it first: zstd -d"),
    (b"PAR1", "is a Parquet file. Write it as JSON lines first: pandas' to_json(orient='records', lines=True)"),
    (b"version https://git-lfs", "is a git-lfs pointer and not the file. Fetch the file itself: git lfs pull"),
)
UTF16 = (b"\xff\xfe", b"\xfe\xff")
BOM = b"\xef\xbb\xbf"
# A file with more kinds of trouble in one line than this is no data set at all.
NAMED_LINES = 8
MOST_LINE_BYTES = 8 * 2**20


class Columns(NamedTuple):
    """Names of the columns that are read; history may be empty."""

    prompt: str
    response: str
    history: str = ""


class Row(NamedTuple):
    """A line that can be trained with."""

    number: int
    prompt: str
    response: str
    history: List[List[str]]


class _DoubleKey(ValueError):
    """A JSON object names a key twice; the second would silently win."""


def numbers(lines: List[int]) -> str:
    """Return line numbers as one reads them: line 4; lines 4, 7 and 9; lines 1, 2, ... and 12 more."""
    if len(lines) == 1:
        return "line %d" % lines[0]
    shown = [str(line) for line in lines[:NAMED_LINES]]
    if len(lines) > NAMED_LINES:
        return "lines %s and %d more" % (", ".join(shown), len(lines) - NAMED_LINES)
    return "lines %s and %s" % (", ".join(shown[:-1]), shown[-1])


def file_problem(path: str, head: bytes, size: int) -> str:
    """Return why a file cannot be JSON lines at all, by its first bytes; nothing where it may be."""
    if size == 0:
        return "%s is empty." % path
    for magic, words in MAGIC:
        if head.startswith(magic):
            return "%s %s." % (path, words)
    if head.startswith(UTF16):
        return "%s is UTF-16 text. Write it as UTF-8: iconv -f UTF-16 -t UTF-8." % path
    if head.startswith(BOM):
        return "%s begins with a byte order mark. Remove it: sed -i '1s/^\\xef\\xbb\\xbf//'." % path
    start = head.lstrip()[:200]
    if start.lower().startswith((b"<!doctype", b"<html")):
        return "%s is an HTML page and not a data set." % path
    if start.startswith(b"["):
        return "%s is one JSON list. Write one object a line: jq -c '.[]'." % path
    if not start:
        return "%s holds blanks alone." % path
    if not start.startswith(b"{") and b"," in start.split(b"\n")[0]:
        return "%s looks like CSV. Write it as JSON lines: pandas' to_json(orient='records', lines=True)." % path
    return ""


def _once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DoubleKey
    return found


def _no_constant(word: str) -> None:
    raise ValueError("%s is no JSON" % word)


def _kind(value: Any) -> str:
    for types, name in (
        (bool, "true or false"), ((int, float), "a number"), (str, "text"), (list, "a list"), (dict, "an object"),
    ):  # fmt: skip
        if isinstance(value, types):
            return name
    return "null"


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in value
    )


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


class Reading:
    """Reads one file of JSON lines; holds its good rows, and the numbers of its bad lines by what is wrong."""

    def __init__(self, path: str, columns: Columns) -> None:
        self.path, self.columns = path, columns
        self.rows: List[Row] = []
        self.total = 0
        self._bad: Dict[str, List[int]] = {}
        self._seen: Dict[str, int] = {}
        self._kinds: Dict[str, Tuple[str, int]] = {}

    def _note(self, words: str, number: int) -> None:
        self._bad.setdefault(words, []).append(number)

    def line(self, number: int, raw: bytes) -> None:
        """Take in one line, without its end."""
        self.total = number
        if len(raw) > MOST_LINE_BYTES:
            return self._note("longer than %d MiB" % (MOST_LINE_BYTES // 2**20), number)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            return self._note("not UTF-8 (is it GBK? iconv -f GBK -t UTF-8 would mend that)", number)
        if not text.strip():
            return self._note("blank", number)
        try:
            value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        except _DoubleKey:
            return self._note("an object that names a key twice", number)
        except RecursionError:
            return self._note("nested too deeply", number)
        except ValueError:
            return self._note("no JSON", number)
        if not isinstance(value, dict):
            return self._note("no JSON object but %s" % _kind(value), number)
        return self._object(number, value)

    def _object(self, number: int, value: Dict[str, Any]) -> None:
        for key in value:
            self._seen[key] = self._seen.get(key, 0) + 1
            kind = _kind(value[key])
            first = self._kinds.setdefault(key, (kind, number)) if kind != "null" else (kind, number)
            if first[0] != kind and key not in self.columns:
                # The reader builds one table of all lines, and dies of such a column whether it is trained with or not.
                self._note("%s in %s, which is %s in line %d" % (kind, key, first[0], first[1]), number)
        good = self._text(number, value, self.columns.prompt) & self._text(number, value, self.columns.response)
        history: List[List[str]] = []
        if self.columns.history:
            good &= self._history(number, value)
            history = value.get(self.columns.history) or []
        if good:
            self.rows.append(Row(number, value[self.columns.prompt], value[self.columns.response], history))

    def _text(self, number: int, value: Dict[str, Any], column: str) -> bool:
        if column not in value:
            self._note("without the column %s" % column, number)
        elif not isinstance(value[column], str):
            self._note("with %s instead of text in %s" % (_kind(value[column]), column), number)
        elif not value[column].strip():
            self._note("with an empty %s" % column, number)
        elif not _is_encodable(value[column]):
            self._note("with a broken character (half a surrogate pair, or NUL) in %s" % column, number)
        else:
            return True
        return False

    def _history(self, number: int, value: Dict[str, Any]) -> bool:
        column = self.columns.history
        if column not in value:
            self._note("without the column %s" % column, number)
        elif not _is_history(value[column]):
            self._note("whose %s is no list of [question, answer] pairs" % column, number)
        elif not all(_is_encodable(text) for pair in value[column] for text in pair):
            self._note("with a broken character (half a surrogate pair, or NUL) in %s" % column, number)
        else:
            return True
        return False

    def problems(self) -> List[str]:
        """Return a sentence for each kind of trouble."""
        found = []
        absent = [column for column in self.columns if column and not self._seen.get(column)]
        if absent and self._seen:
            there = ", ".join(sorted(self._seen))
            for column in absent:
                near = difflib.get_close_matches(column, sorted(self._seen), n=1)
                hint = " Did you mean %s?" % near[0] if near else ""
                found.append("%s: no line has the column %s; there are %s.%s" % (self.path, column, there, hint))
        told = {"without the column %s" % column for column in absent}
        for words, lines in self._bad.items():
            if words not in told or not self._seen:
                found.append("%s, %s: %s." % (self.path, numbers(lines), words))
        if not found and not self.rows:
            found.append("%s: there is no line to train with." % self.path)
        return found

    def notes(self) -> List[str]:
        """Return a sentence for what is no error and yet worth a look."""
        seen: Dict[Tuple[str, str], int] = {}
        double = []
        for row in self.rows:
            if seen.setdefault((row.prompt, row.response), row.number) != row.number:
                double.append(row.number)
        return ["%s, %s: the same as a line before." % (self.path, numbers(double))] if double else []


def read(path: str, columns: Columns, shown: str = "") -> Reading:
    """Read a file of JSON lines whole. shown: how its problems name it, else its path. Problems are in the result."""
    reading = Reading(shown or path, columns)
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            reading.line(number, raw.rstrip(b"\r\n"))
    return reading


def check(path: str, columns: Columns, shown: str = "") -> Tuple[Optional[Reading], List[str]]:
    """Return the reading of a data file, None where it cannot be one, and everything that is wrong with it."""
    shown = shown or path
    if not os.path.exists(path):
        return None, ["%s does not exist." % shown]
    if not os.path.isfile(path):
        return None, ["%s is no file." % shown]
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        return None, ["%s cannot be read: %s." % (shown, error.strerror)]
    problem = file_problem(shown, head, os.path.getsize(path))
    if problem:
        return None, [problem]
    reading = read(path, columns, shown)
    return reading, reading.problems()


def look(paths: Dict[str, str], prompt: str, response: str, history: str) -> Dict[str, Any]:
    """Check the files of a data set, and return what a task returns: their hashes and lines, or all problems.

    paths: `train`, and maybe `validation`. The other arguments: names of columns.
    """
    data, problems, notes = {}, [], []
    for name, path in paths.items():
        reading, wrong = check(path, Columns(prompt, response, history), path)
        problems += wrong
        if reading and not wrong:
            notes += reading.notes()
            data[name] = {"path": path, "sha256": sha256_of(path), "lines": len(reading.rows)}
    if problems:
        count = "one problem" if len(problems) == 1 else "%d problems" % len(problems)
        listed = "\n".join("- " + problem for problem in problems)
        return {
            "failed": True,
            "problems": problems,
            "msg": "The data have %s; nothing was changed.\n%s" % (count, listed),
        }
    if len({one["sha256"] for one in data.values()}) < len(data):
        notes.append("Training and validation data are the same file: the scores will say little.")
    return {"changed": False, "data": data, "notes": notes}
