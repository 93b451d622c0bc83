"""The facade that the scripts get for a model: turns, outcomes, lengths, and logs without prompts."""

import threading
from types import SimpleNamespace

import pytest
from demo_host.facade import Facade
from demo_host.one_model import first_generation, place
from demo_host.request import CURRENT, ClientGone, Refused, Request
from demo_host.turns import TurnLost
from demo_host_fakes import FakeModel, FakeTokenizer, log_lines, make_host

TOKENIZER = FakeTokenizer()


def test_placing_the_model_does_nothing_and_the_rest_is_the_models() -> None:
    model = FakeModel()
    facade = Facade(model, "api", make_host())
    assert facade.half().quantize(4).float().to("cuda").cuda().eval() is facade
    assert facade.device == "fake"
    with pytest.raises(AttributeError):
        facade.no_such_thing  # noqa: B018


def test_chat_answers_and_frees_its_place() -> None:
    host, model = make_host(), FakeModel()
    answer, history = Facade(model, "api", host).chat(TOKENIZER, "hi", history=[["q", "a"]], top_p=0.5)
    assert (answer, history) == ("abc", [["q", "a"], ("hi", "abc")])
    assert model.asked[0]["top_p"] == 0.5
    assert host.turns.counts() == (0, 0)
    line = log_lines(host)[0]
    assert (line["script"], line["outcome"], line["prompt_chars"], line["answer_chars"]) == ("api", "ok", 2, 3)


def test_stream_yields_as_the_model_does_and_never_keeps_the_cache() -> None:
    host, model = make_host(), FakeModel("ab")
    facade = Facade(model, "web_demo", host)
    assert list(facade.stream_chat(TOKENIZER, "hi", [])) == [("a", [("hi", "a")]), ("ab", [("hi", "ab")])]
    triples = list(facade.stream_chat(TOKENIZER, "hi", [], past_key_values=object(), return_past_key_values=True))
    assert triples[-1] == ("ab", [("hi", "ab")], None)
    assert "past_key_values" not in model.asked[1]
    assert "return_past_key_values" not in model.asked[1]


def test_no_prompt_and_no_answer_in_the_log_unless_asked_for() -> None:
    for log_text in (False, True):
        host = make_host(log_text=log_text)
        Facade(FakeModel("secret answer"), "api", host).chat(TOKENIZER, "secret prompt")
        with pytest.raises(ValueError, match="secret"):
            Facade(FakeModel(error=ValueError("secret: secret prompt")), "api", host).chat(TOKENIZER, "secret prompt")
        assert ("secret" in str(log_lines(host))) is log_text


def test_an_error_of_the_model_is_raised_logged_and_frees_the_place() -> None:
    host = make_host()
    with pytest.raises(RuntimeError):
        list(Facade(FakeModel(error=RuntimeError("CUDA out of memory: 2 GB")), "api", host).stream_chat(TOKENIZER, "q"))
    assert host.turns.counts() == (0, 0)
    assert log_lines(host)[0]["outcome"] == "error"
    assert "out of memory" in log_lines(host)[0]["error"]
    assert host.state.snapshot()["state"] == "loading"


def test_a_broken_gpu_fails_the_host() -> None:
    host = make_host()
    with pytest.raises(RuntimeError):
        error = RuntimeError("CUDA error: device-side assert triggered\nmore")
        Facade(FakeModel(error=error), "api", host).chat(TOKENIZER, "q")
    snapshot = host.state.snapshot()
    assert (snapshot["state"], snapshot["scripts"]["api"]) == ("failed", "failed")
    assert "device-side assert" in snapshot["detail"]


def test_a_closed_stream_frees_its_place_and_the_models_generator() -> None:
    host, model = make_host(), FakeModel()
    stream = Facade(model, "api", host).stream_chat(TOKENIZER, "q")
    next(stream)
    assert host.turns.counts() == (1, 0)
    stream.close()  # type: ignore[attr-defined]
    assert (host.turns.counts(), model.closed) == ((0, 0), 1)
    assert log_lines(host)[0]["outcome"] == "cancelled"


def test_a_stream_nobody_reads_loses_its_turn() -> None:
    host, model = make_host(), FakeModel()
    stream = Facade(model, "web_demo", host).stream_chat(TOKENIZER, "q")
    next(stream)
    assert host.turns.expel_stalled(0)
    assert model.closed == 1
    with pytest.raises(TurnLost):
        next(stream)
    assert log_lines(host)[0]["outcome"] == "stalled"


def test_a_request_brings_its_ticket_and_a_client_that_left_ends_the_generation() -> None:
    host, model = make_host(), FakeModel()
    request = Request(host.turns.join())
    token = CURRENT.set(request)
    try:
        stream = Facade(model, "openai_api", host).stream_chat(TOKENIZER, "q")
        next(stream)
        assert host.turns.counts() == (1, 0)  # the request's own ticket, no second one
        request.client_left()
        with pytest.raises(ClientGone):
            next(stream)
    finally:
        CURRENT.reset(token)
    assert (host.turns.counts(), model.closed) == ((0, 0), 1)


def test_chat_asks_after_each_token_whether_the_client_is_there() -> None:
    host, model = make_host(), FakeModel()
    request = Request(host.turns.join())
    token = CURRENT.set(request)
    try:
        Facade(model, "api", host).chat(TOKENIZER, "q")
        (stop,) = model.asked[0]["stopping_criteria"]
        assert stop(None, None) is False
        request.client_left()
        assert stop(None, None, extra=1) is True
    finally:
        CURRENT.reset(token)


def test_max_length_is_kept_within_the_models_positions() -> None:
    host, model = make_host(), FakeModel()
    facade = Facade(model, "web_demo", host)
    for asked, given in ((50, 50), (100000, 100), (64.0, 64), (None, 100)):
        facade.chat(TOKENIZER, "q", max_length=asked)
        assert model.asked[-1]["max_length"] == given


@pytest.mark.parametrize(("prompt", "max_length"), [("x" * 100, None), ("x" * 10, 10), ("x", 0), ("x" * 5000, 32768)])
def test_a_text_that_leaves_no_room_is_refused(prompt: str, max_length: int | None) -> None:
    host, model = make_host(), FakeModel()
    request = Request(host.turns.join())
    token = CURRENT.set(request)
    try:
        with pytest.raises(Refused, match="leaves no room") as caught:
            Facade(model, "api", host).chat(TOKENIZER, prompt, max_length=max_length)
    finally:
        CURRENT.reset(token)
    assert request.refusal is caught.value
    assert (caught.value.status, model.asked, host.turns.counts()) == (400, [], (0, 0))


def test_a_full_line_refuses_a_caller_without_a_ticket() -> None:
    host = make_host(queue_limit=0)
    ticket = host.turns.join()
    with pytest.raises(Refused, match="busy") as caught:
        next(Facade(FakeModel(), "web_demo", host).stream_chat(TOKENIZER, "q"))  # type: ignore[call-overload]
    assert caught.value.status == 503
    ticket.leave()


def test_one_generation_at_a_time() -> None:
    host, together, most = make_host(queue_limit=10), [0], [0]
    lock = threading.Lock()

    class Busy(FakeModel):
        def chat(self, *args: object, **options: object) -> tuple[str, list[object]]:
            with lock:
                together[0] += 1
                most[0] = max(most[0], together[0])
            threading.Event().wait(0.01)
            with lock:
                together[0] -= 1
            return "a", []

    facade = Facade(Busy(), "api", host)
    threads = [threading.Thread(target=facade.chat, args=(TOKENIZER, "q")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [1]
    assert host.state.counters().generations == {("api", "ok"): 8}


def test_the_first_generation_is_one_token_and_its_failure_is_raised() -> None:
    host, model = make_host(), FakeModel()
    first_generation(host, TOKENIZER, model)
    assert model.asked[0]["max_length"] == 3
    with pytest.raises(RuntimeError):
        first_generation(host, TOKENIZER, FakeModel(error=RuntimeError("no kernel")))


def asked_with(sampling: dict[str, object], **options: object) -> dict[str, object]:
    """What the model is asked with by a script that passes ``options`` on, for a request with this ``sampling``."""
    host, model = make_host(), FakeModel()
    token = CURRENT.set(Request(host.turns.join(), sampling))
    try:
        Facade(model, "openai_api", host).chat(TOKENIZER, "four", **options)
    finally:
        CURRENT.reset(token)
    return model.asked[0]


def test_what_the_script_does_not_pass_on_is_honoured() -> None:
    asked = asked_with({"temperature": 0.2, "top_p": 0.5, "max_length": 50})
    assert (asked["temperature"], asked["top_p"], asked["max_length"]) == (0.2, 0.5, 50)


def test_max_tokens_counts_the_answer_alone() -> None:
    assert asked_with({"max_tokens": 7})["max_length"] == 4 + 7
    assert asked_with({"max_tokens": 5000})["max_length"] == 100
    assert asked_with({"max_tokens": 7, "max_length": 9})["max_length"] == 9


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 0.0, "top_p": 0.7}, {"top_p": 0}, {"top_p": 1e-320}]
)
def test_a_temperature_of_nothing_takes_the_likeliest_token(options: dict[str, object]) -> None:
    for asked in (asked_with(options), asked_with({}, **options)):
        assert (asked["do_sample"], asked["temperature"], asked["top_p"]) == (False, 1.0, 1.0)


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"temperature": "hot"}, {"top_p": float("nan")}, {"top_p": 2}]
)
def test_settings_that_no_check_has_seen_do_not_reach_the_model(options: dict[str, object]) -> None:
    host, model = make_host(), FakeModel()
    with pytest.raises(Refused, match="temperature must be a number from 0 to 5, and top_p one from 0 to 1"):
        next(Facade(model, "web_demo", host).stream_chat(TOKENIZER, "q", **options))  # type: ignore[call-overload]
    assert (model.asked, host.turns.counts()) == ([], (0, 0))


def test_every_token_is_counted_and_shows_that_the_model_moves() -> None:
    host, model = make_host(), FakeModel()
    stream = Facade(model, "api", host).stream_chat(TOKENIZER, "q", logits_processor=["own"])
    next(stream)
    own, count = model.asked[0]["logits_processor"]
    assert (own, count(None, "scores")) == ("own", "scores")
    assert count(None, "scores") == "scores"
    stream.close()  # type: ignore[attr-defined]
    assert host.state.counters().tokens == {"api": 2}
    assert log_lines(host)[0]["tokens"] == 2


@pytest.mark.parametrize(
    ("device", "precision", "calls"),
    [
        ("cpu", "fp32", ["float"]),
        ("cuda", "fp16", ["half", "cuda"]),
        ("cuda", "int8", ["half", "quantize 8", "cuda"]),
        ("cuda", "int4", ["half", "quantize 4", "cuda"]),
    ],
)
def test_placing(device: str, precision: str, calls: list[str]) -> None:
    done: list[str] = []

    class Model:
        config = SimpleNamespace(quantization_bit=0)

        def __getattr__(self, name: str) -> object:
            def method(*args: object) -> "Model":
                done.append(" ".join([name, *map(str, args)]))
                return self

            return method

    place(Model(), device, precision)
    assert done == calls


def test_a_model_that_is_quantized_on_disk_is_not_quantized_again() -> None:
    done: list[str] = []

    class Model:
        config = SimpleNamespace(quantization_bit=4)

        def half(self) -> "Model":
            return self

        def cuda(self) -> "Model":
            done.append("cuda")
            return self

    place(Model(), "cuda", "int4")
    assert done == ["cuda"]
