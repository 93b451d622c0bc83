"""Finds the command that was asked for.

A command is a function of a module in `commands/`, with the arguments after its name; it returns the exit code. Each
module lists its own in COMMANDS, as name to (help, function); one without help is for glmbox's own use. A module may
have a function `section` as well, whose lines `glmboxctl status` shows.
"""

import importlib
import pkgutil
import sys
from types import ModuleType
from typing import Callable, Dict, Iterator, List, Tuple

from glmbox_ctl import CtlError, commands

Command = Tuple[str, Callable[[List[str]], int]]


def modules() -> Iterator[ModuleType]:
    """Return all modules of commands, in the order of their names."""
    for found in sorted(pkgutil.iter_modules(commands.__path__), key=lambda one: one.name):
        yield importlib.import_module("glmbox_ctl.commands." + found.name)


def known() -> Dict[str, Command]:
    """Return all commands by name."""
    return {name: command for module in modules() for name, command in getattr(module, "COMMANDS", {}).items()}


def main(arguments: List[str]) -> int:
    """Run one command; return the exit code."""
    found = known()
    name = arguments[0] if arguments else "help"
    if name in ("help", "--help", "-h"):
        print("usage: glmboxctl COMMAND [SERVICE]\n")
        print("\n".join("  %-10s%s" % (one, found[one][0]) for one in sorted(found) if found[one][0]))
        return 0
    if name not in found:
        print("glmboxctl knows no command %s; see `glmboxctl help`." % name, file=sys.stderr)
        return 2
    try:
        return found[name][1](arguments[1:])
    except CtlError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
