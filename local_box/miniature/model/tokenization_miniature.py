"""Tokens of glmbox's miniature: one per known character, and UTF-8 bytes for every other character."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from transformers import PreTrainedTokenizer

PAD, USER, BOT, END = MARKERS = ("<pad>", "<user>", "<bot>", "<end>")
PIECE = re.compile("|".join(MARKERS) + "|.", re.DOTALL)


def list_tokens(characters: str) -> list[str]:
    """All tokens in the order of their ids: markers, ASCII, high bytes, then the learned characters."""
    ascii_characters = [chr(code) for code in range(128)]
    high_bytes = [f"<0x{code:02X}>" for code in range(128, 256)]
    return [*MARKERS, *ascii_characters, *high_bytes, *characters]


class MiniatureTokenizer(PreTrainedTokenizer):
    """Tokenizer that can encode any text; decoding gives it back, but for white space beside a marker."""

    vocab_files_names = {"vocab_file": "vocabulary.json"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, clean_up_tokenization_spaces: bool = False, **kwargs) -> None:
        self.vocab_file = vocab_file
        characters = json.loads(Path(vocab_file).read_text(encoding="utf-8"))["characters"]
        self._tokens = list_tokens(characters)
        self._ids = {token: number for number, token in enumerate(self._tokens)}
        kwargs = {
            **kwargs,
            "pad_token": PAD,
            "unk_token": PAD,
            "eos_token": END,
            "additional_special_tokens": [USER, BOT],
        }
        super().__init__(clean_up_tokenization_spaces=clean_up_tokenization_spaces, **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    def get_vocab(self) -> dict[str, int]:
        return {**self._ids, **self.added_tokens_encoder}

    def build_prompt(self, query: str, history: list[tuple[str, str]] | None = None) -> str:
        """The text that asks for an answer to `query` after the (question, answer) rounds of `history`."""
        earlier = "".join(f"{USER}{question}{BOT}{answer}{END}" for question, answer in history or [])
        return f"{earlier}{USER}{query}{BOT}"

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        tokens: list[str] = []
        for piece in PIECE.findall(text):
            if piece in self._ids:
                tokens.append(piece)
            else:
                tokens.extend(f"<0x{byte:02X}>" for byte in piece.encode("utf-8", errors="replace"))
        return tokens

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._tokens[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Text of `tokens`; bytes that do not yet make up a character appear as U+FFFD."""
        pieces = (bytes([int(t[3:5], 16)]) if t.startswith("<0x") else t.encode("utf-8") for t in tokens)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        target = Path(save_directory) / f"{prefix}{self.vocab_files_names['vocab_file']}"
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)
