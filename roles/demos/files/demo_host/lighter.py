"""Keeps out of memory what gradio imports and the demos never use: libraries that plot, and pyarrow.

Together they are 115 MiB of the 150 that the page adds to a process; see docs/benchmarks.md, "Serving".
"""

import importlib
import sys
from types import ModuleType
from typing import Any

# What gradio calls at each event, answered as a process without a screen would.
ANSWERS: dict[str, dict[str, Any]] = {
    "altair": {},
    "matplotlib": {"get_backend": lambda: "agg", "use": lambda *_, **__: None},
    "matplotlib.pyplot": {},
    "matplotlib.animation": {},
}


class Later(ModuleType):
    """A library that is imported when something of it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        # inspect and pickle look at such names of every module there is, and want nothing of them.
        if name.startswith("__"):
            raise AttributeError(name)
        for stand_in in ANSWERS:
            sys.modules.pop(stand_in, None)
        return getattr(importlib.import_module(self.__name__), name)


def leave_plotting_out() -> None:
    """Let gradio be imported without the libraries above; whoever does plot gets the real ones then."""
    # pandas takes None for "not installed" and does without.
    sys.modules.setdefault("pyarrow", None)  # type: ignore[arg-type]
    for name, answers in ANSWERS.items():
        if name not in sys.modules:
            sys.modules[name] = Later(name)
            vars(sys.modules[name]).update(answers)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, sys.modules[name])
