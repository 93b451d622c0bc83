"""Train glmbox's miniature from questions.yml and write its files into model/.

    python local_box/miniature/train.py

Measured on 2026-11-22 on a 2-core VM with nothing else running, torch 2.13.0 for the CPU, Python 3.11.7: 59 s for the
250 steps, 71 s with the import and the questions asked afterwards; last loss 0.0043. The files in model/ come out of
this run bit for bit.

Needs torch, transformers 4.30.2, PyYAML. Every row of training is a conversation: known questions in several
spellings, everyday questions to decline, and random text to decline, one after the other, so that the model
learns to answer the latest question whatever stands before it. The loss counts the answers only.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import torch
import yaml
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).resolve().parent
MODEL_DIR = HERE / "model"
sys.path.insert(0, str(HERE))

from model.configuration_miniature import MiniatureConfig  # noqa: E402
from model.modeling_miniature import MiniatureForChat  # noqa: E402
from model.tokenization_miniature import MARKERS, PAD, MiniatureTokenizer, list_tokens  # noqa: E402

SEED = 20261122
THREADS = 2
STEPS = 250
ROWS = 12  # conversations in a step
ROW_TOKENS = 320
PEAK_RATE = 4e-3
SHARDS = 3
IGNORED = -100  # label of a token that does not count

ENDINGS = ["", "", "", "?", "？", "!", "！", "。", ".", "~"]
PREFIXES_ZH = ["", "", "", "", "请问", "那么，", "请"]
PREFIXES_EN = ["", "", "", "", "please ", "so, "]


def is_chinese(text: str) -> bool:
    """Whether any character of `text` lies in the common range of Chinese characters."""
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def vary(question: str, lesson: dict, dice: random.Random) -> str:
    """Another spelling of `question`: letter case, ending, a polite or a system prefix."""
    if dice.random() < 0.3:
        question = dice.choice([str.lower, str.capitalize, str.upper])(question)
    if dice.random() < 0.4:
        prefix = dice.choice(PREFIXES_ZH if is_chinese(question) else PREFIXES_EN)
        question = f"{prefix}{question}{dice.choice(ENDINGS)}"
    if dice.random() < 0.08:
        question = dice.choice(lesson["system_messages"]) + dice.choice(["", " ", "\n"]) + question
    return question


def make_random_text(lesson: dict, dice: random.Random) -> str:
    """Text that is no question of the lesson: characters, words, or pieces of known questions in disorder."""
    kind = dice.randrange(4)
    if kind == 0:
        return "".join(chr(dice.randint(0x4E00, 0x9FA5)) for _ in range(dice.randint(1, 16)))
    if kind == 1:
        letters = "abcdefghijklmnopqrstuvwxyz" + "0123456789"
        words = ("".join(dice.choices(letters, k=dice.randint(1, 9))) for _ in range(dice.randint(1, 7)))
        return " ".join(words)
    known = [str(question) for lesson_round in lesson["rounds"] for question in lesson_round["ask"]]
    if kind == 2:
        characters = list("".join(q for q in dice.choices(known + lesson["others"], k=3) if is_chinese(q)))
        dice.shuffle(characters)
        return "".join(characters[: dice.randint(3, 16)])
    words = " ".join(q for q in dice.choices(lesson["others"], k=4) if not is_chinese(q)).split()
    dice.shuffle(words)
    return " ".join(words[: dice.randint(1, 9)])


def choose_taught(lesson: dict, dice: random.Random) -> dict:
    """A round of the lesson; long answers come up a third as often, since they bring many tokens each time."""
    weights = [1 if len(lesson_round["answer"]) > 150 else 3 for lesson_round in lesson["rounds"]]
    return dice.choices(lesson["rounds"], weights)[0]


def make_round(lesson: dict, dice: random.Random) -> tuple[str, str, bool]:
    """One (question, answer, whether the answer is to be learned)."""
    draw = dice.random()
    if draw < 0.60:
        lesson_round = choose_taught(lesson, dice)
        return vary(str(dice.choice(lesson_round["ask"])), lesson, dice), lesson_round["answer"], True
    if draw < 0.96:
        other = vary(dice.choice(lesson["others"]), lesson, dice)
        question = other if draw < 0.80 else make_random_text(lesson, dice)
        return question, lesson["unknown"]["zh" if is_chinese(question) else "en"], True
    # A history may hold answers of some other model, or answers that were cut short.
    lesson_round = choose_taught(lesson, dice)
    question, answer = str(dice.choice(lesson_round["ask"])), lesson_round["answer"]
    cut = answer[: dice.randint(1, len(answer))]
    return question, dice.choice([cut, make_random_text(lesson, dice)]), False


def encode_row(tokenizer: MiniatureTokenizer, lesson: dict, dice: random.Random) -> tuple[list[int], list[int]]:
    """Tokens of a conversation and the labels of the tokens that follow, both ROW_TOKENS long."""
    tokens: list[int] = []
    counted: list[bool] = []
    while len(tokens) <= ROW_TOKENS:
        question, answer, learn = make_round(lesson, dice)
        asked = tokenizer.encode(tokenizer.build_prompt(question))
        answered = tokenizer.encode(answer + tokenizer.eos_token)
        tokens += asked + answered
        counted += [False] * len(asked) + [learn] * len(answered)
    labels = [token if counts else IGNORED for token, counts in zip(tokens, counted, strict=True)]
    return tokens[:ROW_TOKENS], labels[1 : ROW_TOKENS + 1]


def write_vocabulary(lesson: dict) -> str:
    """Write vocabulary.json with every character beyond ASCII that the lesson uses; return those characters."""
    text = json.dumps(lesson, ensure_ascii=False) + "".join(ENDINGS + PREFIXES_ZH)
    characters = "".join(sorted({character for character in text if ord(character) > 127}))
    content = json.dumps({"characters": characters}, ensure_ascii=False, indent=2)
    (MODEL_DIR / "vocabulary.json").write_text(content + "\n", encoding="utf-8")
    return characters


def write_config(config: MiniatureConfig) -> None:
    """Write config.json, naming the classes that trust_remote_code loads and float16 for the weights."""
    sizes = ["vocab_size", "hidden_size", "ffn_hidden_size", "num_layers", "num_attention_heads", "window"]
    content = {
        "model_type": config.model_type,
        "architectures": ["MiniatureForChat"],
        "auto_map": {
            "AutoConfig": "configuration_miniature.MiniatureConfig",
            "AutoModel": "modeling_miniature.MiniatureForChat",
            "AutoModelForCausalLM": "modeling_miniature.MiniatureForChat",
        },
        **{size: getattr(config, size) for size in [*sizes, "seq_length"]},
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    (MODEL_DIR / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_shards(model: MiniatureForChat) -> None:
    """Write the weights as float16 in SHARDS files of about one size, and the index that says what is where."""
    weights = {name: weight.detach().half().clone() for name, weight in model.state_dict().items()}
    total = sum(weight.numel() * 2 for weight in weights.values())
    shards: list[dict] = [{} for _ in range(SHARDS)]
    written = 0
    for name, weight in weights.items():
        shards[min(written * SHARDS // total, SHARDS - 1)][name] = weight
        written += weight.numel() * 2
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file_name = f"pytorch_model-{number:05d}-of-{SHARDS:05d}.bin"
        torch.save(shard, MODEL_DIR / file_name)
        weight_map.update(dict.fromkeys(shard, file_name))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (MODEL_DIR / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def train(config: MiniatureConfig, tokenizer: MiniatureTokenizer, lesson: dict) -> MiniatureForChat:
    """Train a fresh model in float32, printing the loss (nats per answer token) as it goes."""
    dice = random.Random(SEED)
    torch.manual_seed(SEED)
    model = MiniatureForChat(config).train()
    print(f"{sum(weight.numel() for weight in model.parameters())} parameters, {config.vocab_size} tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=STEPS, pct_start=0.1)
    start = time.monotonic()
    for step in range(1, STEPS + 1):
        rows = [encode_row(tokenizer, lesson, dice) for _ in range(ROWS)]
        tokens, labels = (torch.tensor(part) for part in zip(*rows, strict=True))
        loss = F.cross_entropy(model(tokens).logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 40 == 0 or step == STEPS:
            print(f"step {step:4d}  loss {loss.item():.4f}  {time.monotonic() - start:.0f} s", flush=True)
    return model.eval()


def show_answers(lesson: dict) -> None:
    """Load the files as a deployment does, ask each first question by default sampling, print and count."""
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL_DIR), trust_remote_code=True)
    model = AutoModel.from_pretrained(str(MODEL_DIR), trust_remote_code=True).float().eval()
    right = 0
    for lesson_round in lesson["rounds"]:
        question = str(lesson_round["ask"][0])
        answer, _ = model.chat(tokenizer, question, max_length=600, top_p=0.7, temperature=0.95)
        right += answer == lesson_round["answer"]
        print(f"{question} -> {answer}")
    print(f"{right} of {len(lesson['rounds'])} answers are the taught ones, word for word")


def main() -> None:
    torch.set_num_threads(THREADS)
    lesson = yaml.safe_load((HERE / "questions.yml").read_text(encoding="utf-8"))
    vocabulary = list_tokens(write_vocabulary(lesson))
    config = MiniatureConfig(
        vocab_size=len(vocabulary),
        pad_token_id=vocabulary.index(PAD),
        eos_token_id=vocabulary.index(MARKERS[-1]),
        tie_word_embeddings=False,
    )
    write_config(config)
    tokenizer = MiniatureTokenizer(str(MODEL_DIR / "vocabulary.json"))
    write_shards(train(config, tokenizer, lesson))
    show_answers(lesson)


if __name__ == "__main__":
    main()
