"""glmbox's miniature chat model: under a million parameters, with the calls of ChatGLM2-6B.

It exists so that a deployment can be tested on a box that has no GPU and no network.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LogitsProcessorList, PreTrainedModel, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_miniature import MiniatureConfig

# Seconds to pause before each token, for tests that need a server that stays busy for a while.
PAUSE_VARIABLE = "GLMBOX_MINIATURE_TOKEN_SECONDS"

Round = tuple[str, str]  # (question, answer)
Cache = tuple[torch.Tensor, torch.Tensor]  # keys and values of one layer, each [batch, heads, tokens, head features]


def rotate(x: torch.Tensor, offset: int) -> torch.Tensor:
    """Mark positions `offset`, `offset + 1`, ... on `x` [batch, heads, tokens, features] by rotary embedding."""
    half = x.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    position = torch.arange(offset, offset + x.shape[-2], device=x.device, dtype=torch.float32)
    angle = position[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    first, second = x.float().split(half, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)


def visible(tokens: int, past: int, window: int, device: torch.device, prefix: int = 0) -> torch.Tensor:
    """Boolean [tokens, past + tokens]: whether a new token sees a key that is not ahead and not beyond the window.

    The first `prefix` keys are those of a trained prefix, which every token sees.
    """
    query = torch.arange(past, past + tokens, device=device)[:, None]
    key = torch.arange(past + tokens, device=device)[None, :]
    return (key <= query) & ((key > query - window) | (key < prefix))


class ScaleNorm(nn.Module):
    """Divide each token's features by their root mean square, then weight them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * self.weight


class DecoderLayer(nn.Module):
    """Self-attention over the window, then a feed-forward layer."""

    def __init__(self, config: MiniatureConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.attention_norm = ScaleNorm(config.hidden_size)
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.attention_out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.ffn_norm = ScaleNorm(config.hidden_size)
        self.ffn_in = nn.Linear(config.hidden_size, config.ffn_hidden_size, bias=False)
        self.ffn_out = nn.Linear(config.ffn_hidden_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, past: Cache | None) -> tuple[torch.Tensor, Cache]:
        batch, tokens, features = x.shape
        projected = self.query_key_value(self.attention_norm(x))
        query, key, value = projected.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        offset = past[0].shape[-2] if past else 0
        query, key = rotate(query, offset), rotate(key, offset)
        if past:
            key, value = torch.cat((past[0], key), dim=-2), torch.cat((past[1], value), dim=-2)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.attention_out(seen.transpose(1, 2).reshape(batch, tokens, features))
        x = x + self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x))))
        return x, (key, value)


class PrefixEncoder(nn.Module):
    """What P-Tuning v2 trains: keys and values of `pre_seq_len` tokens for every layer."""

    def __init__(self, config: MiniatureConfig) -> None:
        super().__init__()
        features = config.num_layers * 2 * config.hidden_size
        if config.prefix_projection:
            self.embedding = nn.Embedding(config.pre_seq_len, config.hidden_size)
            self.trans = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size), nn.Tanh(), nn.Linear(config.hidden_size, features)
            )
        else:
            self.embedding = nn.Embedding(config.pre_seq_len, features)
        self.projects = config.prefix_projection

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        rows = self.embedding(tokens)
        return self.trans(rows) if self.projects else rows


class Tuned(nn.Module):
    """Holds the prefix encoder under the name that upstream's scripts look for: `transformer.prefix_encoder`."""

    def __init__(self, config: MiniatureConfig) -> None:
        super().__init__()
        self.prefix_encoder = PrefixEncoder(config)


class MiniatureForChat(PreTrainedModel):
    """The whole model. Like ChatGLM2-6B it is built in the number format that config.json names (float16)."""

    config_class = MiniatureConfig
    _no_split_modules = ["DecoderLayer"]

    def __init__(self, config: MiniatureConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.final_norm = ScaleNorm(config.hidden_size)
        self.output_layer = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.pre_seq_len is not None:
            # As upstream's: the prefix alone is trained.
            for weight in self.parameters():
                weight.requires_grad = False
            self.transformer = Tuned(config)
        self.post_init()
        self.to(config.torch_dtype or torch.float32)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.05)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.word_embeddings

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, past_key_values=None, attention_mask=None, **kwargs
    ) -> dict:
        new_ids = input_ids[:, -1:] if past_key_values else input_ids
        return {"input_ids": new_ids, "past_key_values": past_key_values, "use_cache": True}

    def prefix(self, batch: int) -> tuple[Cache, ...]:
        """The trained prefix as a cache, for so many rows."""
        config = self.config
        encoder = self.transformer.prefix_encoder
        rows = encoder(torch.arange(config.pre_seq_len, device=self.device))
        parts = rows.view(config.pre_seq_len, config.num_layers * 2, config.num_attention_heads, -1)
        parts = parts.to(self.word_embeddings.weight.dtype).permute(1, 2, 0, 3)[:, None].expand(-1, batch, -1, -1, -1)
        return tuple(zip(parts[0::2], parts[1::2]))  # noqa: B905 (halves of one even tensor)

    def forward(
        self,
        input_ids: torch.Tensor,
        past_key_values: tuple[Cache, ...] | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Scores [batch, tokens, vocab_size] of the token after each of `input_ids` [batch, tokens], and the cache.

        With `labels` [batch, tokens], the loss too, in nats per token; -100 does not count.
        Rows are taken to be of one length: an attention mask for padding is not looked at.
        """
        x = self.word_embeddings(input_ids)
        if past_key_values is None and self.config.pre_seq_len is not None:
            past_key_values = self.prefix(input_ids.shape[0])
        past_tokens = past_key_values[0][0].shape[-2] if past_key_values else 0
        mask = visible(input_ids.shape[1], past_tokens, self.config.window, x.device, self.config.pre_seq_len or 0)
        caches = []
        for number, layer in enumerate(self.layers):
            x, cache = layer(x, mask, past_key_values[number] if past_key_values else None)
            caches.append(cache)
        logits = self.output_layer(self.final_norm(x)).float()
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=tuple(caches))

    def _sample(
        self,
        ids: torch.Tensor,
        past: tuple[Cache, ...] | None,
        max_length: int,
        do_sample: bool,
        processors: LogitsProcessorList,
    ) -> Iterator[tuple[int, tuple[Cache, ...]]]:
        """Draw tokens after `ids` [1, tokens] until the end marker, or until prompt and answer have `max_length`."""
        new_ids = ids
        while True:
            time.sleep(float(os.environ.get(PAUSE_VARIABLE, "0")))
            output = self(new_ids, past_key_values=past)
            past = output.past_key_values
            scores = processors(ids, output.logits[:, -1])
            new_ids = torch.multinomial(scores.softmax(-1), 1) if do_sample else scores.argmax(-1, keepdim=True)
            ids = torch.cat((ids, new_ids), dim=-1)
            yield int(new_ids), past
            if int(new_ids) == self.config.eos_token_id or ids.shape[-1] >= max_length:
                return

    @torch.inference_mode()
    def stream_chat(
        self,
        tokenizer,
        query: str,
        history: list[Round] | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        max_length: int = 8192,
        do_sample: bool = True,
        top_p: float = 0.8,
        temperature: float = 0.8,
        logits_processor: LogitsProcessorList | None = None,
        return_past_key_values: bool = False,
        **kwargs,
    ) -> Iterator[tuple]:
        """Yield the answer to `query` as it grows, a token at a time.

        Args:
            history: earlier (question, answer) rounds, oldest first.
            past_key_values: the cache that the round before yielded; only `query` is then read.
            max_length: limit in tokens of what is read plus what is written.
            top_p, temperature: shape of the distribution that is sampled; unused where do_sample is false.

        Yields:
            (answer so far, history with this round), and the cache third if return_past_key_values is set.
        """
        history = list(history or [])
        # The cache ends before the last round's end marker, which was drawn but never read.
        prompt = tokenizer.build_prompt(query, None if past_key_values else history)
        prompt = tokenizer.eos_token + prompt if past_key_values else prompt
        ids = tokenizer([prompt], return_tensors="pt")["input_ids"].to(self.device)
        processors = LogitsProcessorList(logits_processor or [])
        if do_sample:
            processors.extend([TemperatureLogitsWarper(float(temperature)), TopPLogitsWarper(float(top_p))])
        drawn: list[int] = []
        for token, cache in self._sample(ids, past_key_values, max_length, do_sample, processors):
            drawn.append(token)
            response = tokenizer.decode(drawn, skip_special_tokens=True).strip()
            if not response or response.endswith("\ufffd"):
                continue
            new_history = [*history, (query, response)]
            yield (response, new_history, cache) if return_past_key_values else (response, new_history)

    def chat(
        self,
        tokenizer,
        query: str,
        history: list[Round] | None = None,
        max_length: int = 8192,
        num_beams: int = 1,
        do_sample: bool = True,
        top_p: float = 0.8,
        temperature: float = 0.8,
        logits_processor: LogitsProcessorList | None = None,
        **kwargs,
    ) -> tuple[str, list[Round]]:
        """The whole answer to `query`, and `history` with this round; arguments as in stream_chat()."""
        if num_beams != 1:
            raise ValueError(f"the miniature has no beam search: num_beams must be 1, not {num_beams}")
        response, new_history = "", [*(history or []), (query, "")]
        for response, new_history in self.stream_chat(  # noqa: B007 (the last one is the result)
            tokenizer,
            query,
            history,
            max_length=max_length,
            do_sample=do_sample,
            top_p=top_p,
            temperature=temperature,
            logits_processor=logits_processor,
        ):
            pass
        return response, new_history

    def quantize(self, bits: int, **kwargs):
        """Always an error, except for 0 bits, which asks for nothing."""
        if bits == 0:
            return self
        raise NotImplementedError(
            f"the miniature has no quantized kernels, so quantize({bits}) cannot work; "
            "set the model's quantization to none, or deploy the real ChatGLM2-6B"
        )
