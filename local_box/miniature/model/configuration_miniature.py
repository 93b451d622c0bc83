"""Sizes of glmbox's miniature chat model."""

from __future__ import annotations

from transformers import PretrainedConfig


class MiniatureConfig(PretrainedConfig):
    """Sizes of the network.

    Args:
        vocab_size: number of tokens (four markers, 128 ASCII characters, 128 high bytes, then learned characters).
        hidden_size: features per token; a multiple of twice num_attention_heads.
        ffn_hidden_size: features inside each feed-forward layer.
        num_layers: number of decoder layers.
        num_attention_heads: attention heads per layer.
        window: how many tokens back, itself included, a token can look.
        seq_length: longest prompt plus answer that chat() allows by default, in tokens.
        pre_seq_len: tokens of the trained prefix that P-Tuning puts before every prompt; None for the model as it is.
        prefix_projection: whether the prefix comes out of a small network instead of being a table.
    """

    model_type = "glmbox-miniature"

    def __init__(
        self,
        vocab_size: int = 512,
        hidden_size: int = 128,
        ffn_hidden_size: int = 512,
        num_layers: int = 3,
        num_attention_heads: int = 4,
        window: int = 320,
        seq_length: int = 8192,
        pre_seq_len: int | None = None,
        prefix_projection: bool = False,
        **kwargs,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.ffn_hidden_size = ffn_hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.window = window
        self.seq_length = seq_length
        self.pre_seq_len = pre_seq_len
        self.prefix_projection = prefix_projection
        super().__init__(**kwargs)
