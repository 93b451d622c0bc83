"""Running scripts: quiet print, patched libraries, ports, and what the end of a script means."""

import asyncio
import os
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from demo_host import patches, scripts
from demo_host.facade import Facade
from demo_host.middleware import Gate
from demo_host.one_model import LoadError, leave_planning_out, load, tell_progress
from demo_host.state import Host
from demo_host_fakes import API, WEB, log_lines, make_host


def module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, made)
    return made


@pytest.fixture
def as_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts._thread, "script", API, raising=False)


def run(tmp_path: Path, text: str, log_text: bool = False) -> Any:
    host = make_host(log_text=log_text, code_dir=str(tmp_path))
    (tmp_path / "api.py").write_text(text)
    started = scripts.start_script(host, API, seconds=10)
    assert not started
    return host


@pytest.mark.parametrize("log_text", [False, True])
def test_print_is_quiet_unless_text_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log_text: bool
) -> None:
    text = "def answer():\n    print('the prompt')\nif __name__ == '__main__':\n    answer()\n"
    run(tmp_path, text, log_text)
    assert ("the prompt" in capsys.readouterr().out) is log_text


def test_a_script_has_its_arguments_and_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["python", "config.json"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "beside_it.py").write_text("words = 'found'\n")
    text = "import sys\nfrom beside_it import words\nsys.exit(words + sys.argv[1])"
    (tmp_path / "tuned" / "page.py").write_text(text)
    host = make_host(code_dir=str(tmp_path))
    assert not scripts.start_script(host, replace(WEB, file="tuned/page.py", arguments=("--model",)), seconds=10)
    assert "found--model" in host.state.snapshot()["detail"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pass", "api.py came to its end"),
        ("1 / 0", "ZeroDivisionError"),
        # gradio makes its locks only where the thread has an event loop.
        ("import asyncio\nasyncio.get_event_loop()\n1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(1)", "SystemExit"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
    ],
)
def test_a_script_that_ends_fails_the_host(tmp_path: Path, text: str, words: str) -> None:
    snapshot = run(tmp_path, text).state.snapshot()
    assert (snapshot["state"], snapshot["scripts"]["api"]) == ("failed", "failed")
    assert words in snapshot["detail"]


def test_a_script_that_ends_while_serving_does_not_tell_its_message(tmp_path: Path) -> None:
    host = make_host(code_dir=str(tmp_path))
    host.state.set("ready", "")
    (tmp_path / "api.py").write_text("raise ValueError('a prompt')")
    thread = threading.Thread(target=scripts.run_script, args=(host, API))
    thread.start()
    thread.join(10)
    assert "a prompt" not in str(host.state.snapshot()) + str(log_lines(host))


def test_a_script_that_never_answers_fails_the_host(tmp_path: Path) -> None:
    host = make_host(code_dir=str(tmp_path))
    (tmp_path / "api.py").write_text("import threading\nthreading.Event().wait(3)")
    assert not scripts.start_script(host, API, seconds=0.2)
    assert "did not answer on port 8101" in host.state.snapshot()["detail"]


def test_only_a_scripts_thread_has_a_script() -> None:
    with pytest.raises(RuntimeError):
        scripts.current_script()


def test_taken_ports_are_found_before_anything_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert scripts.taken_ports([port]) == [port]
        assert scripts.listens(port)
    assert scripts.taken_ports([port]) == []
    assert not scripts.listens(port)


@pytest.mark.usefixtures("as_api")
def test_from_pretrained_gives_the_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = module(monkeypatch, "transformers", AutoModel=type("M", (), {}), AutoTokenizer=type("T", (), {}))
    model, tokenizer = SimpleNamespace(device="there"), object()
    patches.patch_transformers(make_host(), tokenizer, model)
    assert transformers.AutoTokenizer.from_pretrained("any/id", trust_remote_code=True) is tokenizer
    facade = transformers.AutoModel.from_pretrained("any/id", trust_remote_code=True).cuda()
    assert isinstance(facade, Facade)
    assert facade.device == "there"


class FakeConfig:
    def __init__(self, app: Any, **options: Any) -> None:
        self.app, self.options = app, options


@pytest.mark.usefixtures("as_api")
def test_uvicorn_serves_on_loopback_and_the_scripts_port(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []

    class Server:
        def __init__(self, config: Any) -> None:
            self.config = config

        async def startup(self) -> None:
            raise AssertionError("never served")

        def run(self) -> None:
            served.append(self.config)

    config = type("Config", (FakeConfig,), {})
    uvicorn = module(monkeypatch, "uvicorn", Config=config, Server=Server, run=None)
    patches.patch_uvicorn(make_host(max_body_bytes=5000))
    uvicorn.run("app", host="0.0.0.0", port=8000, workers=4)
    options = served[0].options
    assert (options["host"], options["port"], options["workers"]) == ("127.0.0.1", 8101, 1)
    assert (options["access_log"], options["ws_max_size"]) == (False, 5000)
    assert isinstance(served[0].app, Gate)


def test_the_host_can_close_the_ports_of_all_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Server:
        servers = (SimpleNamespace(close=lambda: done.append("closed")),)

        async def startup(self, sockets: Any = None) -> None:
            done.append(f"started with {sockets}")

    host = make_host()
    patches.note_listeners(SimpleNamespace(Server=Server), host)

    async def serve() -> None:
        await Server().startup(sockets=3)
        (stop,) = host.stop_listening
        threading.Thread(target=stop).start()
        while "closed" not in done:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(serve(), 10))
    assert done == ["started with 3", "closed"]


def test_gradio_serves_on_loopback_and_the_scripts_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts._thread, "script", WEB, raising=False)
    launched: list[dict[str, Any]] = []
    chat, other = type("Chatbot", (), {})(), SimpleNamespace(latex_delimiters=["$"])
    chat.latex_delimiters = [{"left": "$$", "right": "$$", "display": True}]
    members = {"launch": lambda self, **options: launched.append(options), "blocks": {1: chat, 2: other}}
    gradio = module(monkeypatch, "gradio", Blocks=type("Blocks", (), members), Chatbot=type(chat))
    queueing = module(monkeypatch, "gradio.queueing", traceback=None)
    module(monkeypatch, "gradio.routes", traceback=None)
    module(monkeypatch, "starlette")
    module(monkeypatch, "starlette.middleware", Middleware=lambda cls, **options: (cls, options))
    host = make_host()
    patches.patch_gradio(host)
    gradio.Blocks().launch(share=True, inbrowser=True, server_name="0.0.0.0", show_api=False)
    options = launched[0]
    assert (options["server_name"], options["server_port"]) == ("127.0.0.1", 8103)
    assert (options["share"], options["inbrowser"], options["show_api"]) == (False, False, False)
    assert options["app_kwargs"]["middleware"] == [(Gate, {"host": host, "script": WEB})]
    assert "root_path" not in options
    assert (chat.latex_delimiters, other.latex_delimiters) == ([], ["$"])
    monkeypatch.setattr(scripts._thread, "script", replace(WEB, root_path="/ptuning"), raising=False)
    gradio.Blocks().launch()
    assert launched[1]["root_path"] == "/ptuning"
    try:
        raise ValueError("secret")
    except ValueError:
        queueing.traceback.print_exc()
    assert log_lines(host)[0]["error"].startswith("ValueError at ")


def test_the_environment_keeps_everything_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_SERVER_NAME", "GRADIO_NUM_PORTS", "no_proxy"):
        monkeypatch.setenv(name, "")
    for name in ("TRANSFORMERS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("NO_PROXY", "10.0.0.1")
    patches.set_environment()
    assert os.environ["NO_PROXY"] == "10.0.0.1,127.0.0.1,localhost"
    assert os.environ["GRADIO_NUM_PORTS"] == "1"
    assert os.environ["GRADIO_SERVER_NAME"] == "127.0.0.1"


def with_config(**changes: Any) -> Host:
    host = make_host()
    host.config = replace(host.config, **changes)
    return host


def fake_loading(monkeypatch: pytest.MonkeyPatch, from_pretrained: Any, available: bool = True) -> None:
    cuda = SimpleNamespace(is_available=lambda: available)
    backends = SimpleNamespace(cuda=SimpleNamespace())  # torch 2.0 and 2.1 have no attention of cuDNN's
    module(monkeypatch, "torch", cuda=cuda, backends=backends, __version__="2.0.1")
    auto = SimpleNamespace(from_pretrained=from_pretrained)
    files = module(monkeypatch, "transformers.modeling_utils", load_state_dict=lambda file: file)
    utils = SimpleNamespace(logging=SimpleNamespace(disable_progress_bar=lambda: None))
    module(monkeypatch, "transformers", AutoModel=auto, AutoTokenizer=auto, modeling_utils=files, utils=utils)


def test_loading_errors_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("no file named pytorch_model.bin\nmany\nlines")

    fake_loading(monkeypatch, broken)
    with pytest.raises(LoadError) as caught:
        load(make_host())
    assert "OSError: no file named pytorch_model.bin" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_attention_that_plans_each_length_anew_is_switched_off_where_torch_has_it() -> None:
    said: list[bool] = []
    leave_planning_out(SimpleNamespace(backends=SimpleNamespace(cuda=SimpleNamespace(enable_cudnn_sdp=said.append))))
    assert said == [False]


def test_a_gpu_that_is_not_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_loading(monkeypatch, None, available=False)
    with pytest.raises(LoadError, match="no usable GPU"):
        load(with_config(device="cuda", precision="fp16"))


def test_loading_tells_how_much_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = {"pytorch_model-00001-of-00002.bin": 300, "pytorch_model-00002-of-00002.bin": 100}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    host = with_config(model_dir=str(tmp_path))
    fake_loading(monkeypatch, None)
    tell_progress(host)
    load_file = sys.modules["transformers.modeling_utils"].load_state_dict
    seen = []
    for name in sizes:
        assert load_file(str(tmp_path / name)) == str(tmp_path / name)
        seen.append((host.state.snapshot()["loaded_percent"], host.state.snapshot()["detail"]))
    assert seen == [(75, "the model is being loaded, 75 %"), (100, "the model is being loaded, 100 %")]
    assert [line["percent"] for line in log_lines(host)] == [75, 100]


def test_over_several_cards_upstreams_own_function_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    model = SimpleNamespace(eval=lambda: "the model")
    module(monkeypatch, "utils", load_model_on_gpus=lambda path, num_gpus: asked.append((path, num_gpus)) or model)
    fake_loading(monkeypatch, lambda *_, **__: "the tokenizer")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load(with_config(device="cuda", precision="fp16", gpus=2)) == ("the tokenizer", "the model")
    assert asked == [("/m", 2)]
