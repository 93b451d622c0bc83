"""Replaces the few library functions by which the scripts get their model and open their port."""

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from demo_host.config import Script
from demo_host.facade import Facade
from demo_host.lighter import leave_plotting_out
from demo_host.middleware import Gate
from demo_host.scripts import current_script
from demo_host.state import Host

LOOPBACK = "127.0.0.1"


def set_environment() -> None:
    """Set what the libraries read when they are imported: no telemetry, no hub, no port search, no proxy."""
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_SERVER_NAME=LOOPBACK,
        GRADIO_NUM_PORTS="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_OFFLINE="1",
    )
    os.environ.pop("GRADIO_WATCH_DIRS", None)
    # gradio asks its own page before it says that it runs; a provider's http_proxy cannot reach loopback.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), LOOPBACK, "localhost"]))


def patch_transformers(host: Host, tokenizer: Any, model: Any) -> None:
    """Make from_pretrained() of AutoTokenizer and AutoModel answer with the one copy, whatever it is asked for."""
    import transformers

    def one_tokenizer(*_: Any, **__: Any) -> Any:
        return tokenizer

    def one_model(*_: Any, **__: Any) -> Facade:
        return Facade(model, current_script().name, host)

    transformers.AutoTokenizer.from_pretrained = one_tokenizer
    transformers.AutoModel.from_pretrained = one_model


def patch_uvicorn(host: Host) -> None:
    """Make uvicorn.run() serve on loopback and the script's own port, behind the gate."""
    import uvicorn

    limit_websockets(uvicorn, host.config.max_body_bytes)
    note_listeners(uvicorn, host)

    def run(app: Any, *_: Any, **__: Any) -> None:
        script = current_script()
        config = uvicorn.Config(
            Gate(app, host, script),
            host=LOOPBACK,
            port=script.port,
            workers=1,
            log_config=None,  # ours is set up already
            access_log=False,
            server_header=False,
        )
        server = uvicorn.Server(config)
        # uvicorn up to 0.28 sets its signal handlers in any thread, where that raises.
        server.install_signal_handlers = lambda: None
        server.run()

    uvicorn.run = run


def limit_websockets(uvicorn: Any, max_bytes: int) -> None:
    """Bound the size of a websocket message for all servers of this process: gradio asks for a gigabyte."""
    original = uvicorn.Config.__init__

    def __init__(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **{**options, "ws_max_size": max_bytes})

    uvicorn.Config.__init__ = __init__


def note_listeners(uvicorn: Any, host: Host) -> None:
    """Let the host close all listening sockets of this process's servers (gradio's too), and nothing else of them."""
    original = uvicorn.Server.startup

    async def startup(self: Any, *args: Any, **options: Any) -> None:
        await original(self, *args, **options)
        loop = asyncio.get_running_loop()

        def close() -> None:
            for listening in self.servers:
                listening.close()

        host.stop_listening.append(lambda: loop.call_soon_threadsafe(close))

    uvicorn.Server.startup = startup


def patch_gradio(host: Host) -> None:
    """Make Blocks.launch() serve on loopback and the script's own port: not shared, no browser, not the next port.

    Its chats are shown without KaTeX.
    """
    leave_plotting_out()
    import gradio
    from starlette.middleware import Middleware

    original = gradio.Blocks.launch

    def launch(self: Any, *_: Any, **options: Any) -> Any:
        script = current_script()
        app_options = dict(options.get("app_kwargs") or {})
        app_options["middleware"] = [*app_options.get("middleware", []), Middleware(Gate, host=host, script=script)]
        forced = {
            "server_name": LOOPBACK,
            "server_port": script.port,
            "share": False,
            "inbrowser": False,
            "quiet": True,
            "show_error": True,  # else a user never learns that the line is full or the history too long
            "app_kwargs": app_options,
        }
        if script.root_path:
            # What the page asks for then begins with this path, which the gateway takes away again.
            forced["root_path"] = script.root_path
        # After the first piece of an answer gradio 3.50's page would look for formulas, remove the empty node before
        # which it puts the next piece, and show none. The scripts have made MathML of the formulas by then.
        for block in self.blocks.values():
            if isinstance(block, gradio.Chatbot):
                block.latex_delimiters = []
        return original(self, **{**options, **forced})

    gradio.Blocks.launch = launch
    for name in ("gradio.queueing", "gradio.routes"):
        # They print tracebacks with the exception's message, which may quote the user.
        if name in sys.modules:
            sys.modules[name].traceback = SimpleNamespace(print_exc=lambda: _log_error(host))  # type: ignore


def patch_sse() -> None:
    """Let event streams run in several event loops: sse-starlette's exit signal belongs to the first one."""
    from sse_starlette.sse import EventSourceResponse

    async def never() -> None:
        await asyncio.Event().wait()

    EventSourceResponse.listen_for_exit_signal = staticmethod(never)


def patch_for(host: Host, scripts: tuple[Script, ...], tokenizer: Any, model: Any) -> None:
    """Apply the patches that these scripts need; a library that none of them names is not imported."""
    patch_transformers(host, tokenizer, model)
    patch_uvicorn(host)
    text = "".join(Path(host.config.code_dir, script.file).read_text(encoding="utf-8") for script in scripts)
    if "gradio" in text:
        patch_gradio(host)
    if "sse_starlette" in text:
        patch_sse()


def _log_error(host: Host) -> None:
    error = sys.exc_info()[1]
    if error is not None:
        host.log.write("error", error=host.log.describe(error))
