"""What a script gets in place of a model of its own: the one model, asked by one script at a time."""

from collections.abc import Iterator
from typing import Any

from demo_host.checks import is_number
from demo_host.generation import Generation
from demo_host.request import ClientGone, Refused
from demo_host.state import Host

MODEL_DEFAULT_MAX_LENGTH = 8192  # of chat() and stream_chat() in modeling_chatglm.py, prompt included
# Half precision knows no smaller ones: scores become infinite, or no token is left, and drawing one then is no error
# on the GPU but an assertion that spoils the whole process. The likeliest token each time is what is meant.
GREEDY_BELOW = 0.01


class Facade:
    """The model as ``script`` sees it. Placing and converting it does nothing: the plan has done that."""

    def __init__(self, model: Any, script: str, host: Host) -> None:
        self._model, self._script, self._host = model, script, host

    def _itself(self, *_: Any, **__: Any) -> "Facade":
        return self

    cuda = cpu = half = float = bfloat16 = to = eval = quantize = _itself

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def chat(self, tokenizer: Any, query: str, history: Any = None, **options: Any) -> tuple[str, list[Any]]:
        """Return the answer and the history with it, as the model's own chat() does.

        Raises:
            Refused: the line is full, or the text is too long for the model.
        """
        with Generation(self._host, self._script, query) as generation:
            with generation.ticket.working():
                self._prepare(generation, tokenizer, query, history, options)
                # Asked after every token: an answer that nobody waits for any more stops there.
                options["stopping_criteria"] = [lambda *_, **__: generation.client_gone()]
                answer, history = self._model.chat(tokenizer, query, history=history, **options)
            generation.answer = answer
        return answer, history

    def stream_chat(
        self,
        tokenizer: Any,
        query: str,
        history: Any = None,
        past_key_values: Any = None,
        return_past_key_values: bool = False,
        **options: Any,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the growing answer and the history with it, as the model's own stream_chat() does.

        ``past_key_values`` is neither used nor given back: web_demo keeps it for every browser session it
        ever saw, on the GPU (28 KB a token), until the card is full. Reading the history again costs less.

        Raises:
            Refused: the line is full, or the text is too long for the model.
            ClientGone: the client went away.
            TurnLost: nobody has asked for the next piece for too long.
        """
        with Generation(self._host, self._script, query) as generation:
            with generation.ticket.working():
                self._prepare(generation, tokenizer, query, history, options)
                pieces = self._model.stream_chat(tokenizer, query, history=history, **options)
            generation.on_expelled(pieces.close)
            try:
                while True:
                    with generation.ticket.working():
                        piece = next(pieces, None)
                    if piece is None:
                        return
                    if generation.client_gone():
                        raise ClientGone
                    generation.answer = piece[0]
                    yield (*piece, None) if return_past_key_values else piece
            finally:
                pieces.close()

    def _prepare(self, generation: Generation, tokenizer: Any, query: str, history: Any, options: dict) -> None:
        """Complete ``options``, and keep prompt and answer within the model's positions; lengths are in tokens.

        A position beyond the last is no error on the GPU but an assertion that spoils the whole process,
        and a prompt as long as max_length is answered with a single token.
        """
        options.update(generation.request.sampling if generation.request else {})
        options["logits_processor"] = [*(options.get("logits_processor") or []), generation]
        temperature, top_p = options.get("temperature", 1), options.get("top_p", 1)
        if not (is_number(temperature) and 0 <= temperature <= 5 and is_number(top_p) and 0 <= top_p <= 1):
            raise Refused(400, "temperature must be a number from 0 to 5, and top_p one from 0 to 1.")
        if min(temperature, top_p) < GREEDY_BELOW:
            options.update(do_sample=False, temperature=1.0, top_p=1.0)
        limit = getattr(self._model.config, "seq_length", MODEL_DEFAULT_MAX_LENGTH)
        asked, of_the_answer = options.get("max_length"), options.pop("max_tokens", None)
        tokens = len(tokenizer.encode(tokenizer.build_prompt(query, history=history)))
        if of_the_answer is not None:
            asked = min(tokens + of_the_answer, limit if asked is None else int(asked))
        options["max_length"] = min(MODEL_DEFAULT_MAX_LENGTH if asked is None else int(asked), limit)
        if tokens >= options["max_length"]:
            raise Refused(
                400,
                f"The prompt with its history takes {tokens} tokens and leaves no room for an answer: "
                f"max_length is {options['max_length']} tokens (the model's limit is {limit}); "
                "shorten or clear the history, or raise max_length.",
            )
