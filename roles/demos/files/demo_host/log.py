"""JSON lines on stdout: one for each generation, each refusal and each change of state.

No prompt and no answer is written unless ``log_text`` asks for it. The message of an exception is held
back too while the demos serve, since libraries like to quote their input in it.
"""

import datetime
import json
import logging
import sys
import threading
import traceback
from typing import Any, TextIO


class Log:
    """Writes one JSON object a line; safe from all threads."""

    def __init__(self, stream: TextIO, log_text: bool = False) -> None:
        self.log_text = log_text
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        """Write one line: the time (UTC, to the millisecond), the event, the fields that are not None."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        kept = {key: value for key, value in fields.items() if value is not None}
        line = json.dumps({"time": now, "event": event, **kept}, ensure_ascii=False)
        with self._lock:
            # A prompt may hold half a surrogate pair, which UTF-8 cannot write.
            self._stream.write(line.encode("utf-8", "replace").decode("utf-8") + "\n")
            self._stream.flush()

    def describe(self, error: BaseException) -> str:
        """Name an exception and where it was raised; its message only where that cannot hold a prompt."""
        message = str(error)
        frames = traceback.extract_tb(error.__traceback__)
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        # torch begins its own messages with these words, and they say what an operator must know.
        if self.log_text or message.startswith(("CUDA out of memory", "CUDA error")):
            return f"{type(error).__name__}: {message}{where}"
        return f"{type(error).__name__}{where}"


class LoggingHandler(logging.Handler):
    """Turns the warnings and errors of the libraries (uvicorn, transformers, asyncio) into our lines."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._log.write(
            "library",
            level=record.levelname.lower(),
            logger=record.name,
            message=record.getMessage().strip(),
            error=self._log.describe(error) if error else None,
        )


def take_stdout(log_text: bool) -> Log:
    """Keep stdout for our lines alone (what others print goes to stderr) and catch the libraries' logging."""
    log = Log(sys.stdout, log_text)
    sys.stdout = sys.stderr
    logging.basicConfig(level=logging.WARNING, handlers=[LoggingHandler(log)], force=True)
    return log
