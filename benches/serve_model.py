"""The model's part of `make bench-serve`, run in the box by the demos' own Python, which has torch and transformers.

    python serve_model.py write <the miniature's folder> <new folder> <layers> <hidden size>
    python serve_model.py ask <model folder>

`write` makes the stand-in: the miniature's code with more and wider layers, random float32 weights, and an end marker
that is never drawn, so that an answer has as many tokens as its request allows. `ask` is the other side of
`overhead_ms`: it loads a model as the demo host does, and for each line of stdin, a prompt, prints the seconds until
the model has yielded the first piece of its answer.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

SHARDS = 4
PIECES = 8  # of an answer that is asked for its first one, so that both ways compute about the same


def write(miniature: Path, folder: Path, layers: int, hidden_size: int) -> None:
    """Write the stand-in's folder and print the bytes of its weights."""
    folder.mkdir()
    for file in [*miniature.glob("*.py"), *miniature.glob("*.json")]:
        if not file.name.endswith(".index.json"):
            shutil.copy(file, folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings.update(num_layers=layers, hidden_size=hidden_size, ffn_hidden_size=4 * hidden_size)
    settings.update(num_attention_heads=hidden_size // 64, torch_dtype="float32", eos_token_id=-1)
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=True)
    weights = AutoModel.from_config(config, trust_remote_code=True).state_dict()
    names, index = list(weights), {}
    for number in range(SHARDS):
        file_name = f"pytorch_model-{number + 1:05d}-of-{SHARDS:05d}.bin"
        shard = {name: weights[name].clone() for name in names[number::SHARDS]}
        torch.save(shard, folder / file_name)
        index.update(dict.fromkeys(shard, file_name))
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    about = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(about), encoding="utf-8")
    print(total)


def ask(folder: str) -> None:
    """Print the seconds to the first piece for each prompt on stdin; the rest of the pieces is drawn as well."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).float().eval()
    for prompt in sys.stdin:
        begun = time.perf_counter()
        pieces = model.stream_chat(tokenizer, prompt.strip(), [])
        next(pieces)
        seconds = time.perf_counter() - begun
        for _ in zip(range(PIECES - 1), pieces):  # noqa: B905 (an answer may be shorter)
            pass
        pieces.close()
        print(seconds, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        ask(sys.argv[2])
