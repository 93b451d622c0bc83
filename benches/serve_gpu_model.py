"""The model's part of serve_on_gpu.py.

    python serve_gpu_model.py write <the model's code> <new folder>
    python serve_gpu_model.py ask <model folder>

`write` makes the stand-in: random half-precision weights of the size that the configuration says, made on the card.
`ask` loads it as the demo host does and answers without any demo: for each line of stdin, a prompt and a number of
pieces, it prints the seconds to the first piece and from there to the last one.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

SHARDS = 7
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def write(code: Path, folder: Path) -> None:
    """Write the stand-in's folder and print the number of its weights and their bytes."""
    shutil.copytree(code, folder, ignore=shutil.ignore_patterns("*.bin", "*.index.json"))
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=True)
    model = AutoModel.from_config(config, trust_remote_code=True)
    made = {name: value for name, value in model.state_dict().items()}
    for name, weight in model.named_parameters():
        # Such that no layer's answer grows beyond half precision; a normalization's weights are all alike.
        size = (weight.shape[-1] ** -0.5) if weight.dim() > 1 else 0.0
        drawn = torch.randn(weight.shape, device=DEVICE, dtype=torch.float16) * size
        made[name] = drawn if weight.dim() > 1 or name.endswith("bias") else torch.ones_like(drawn)
    names, index = list(made), {}
    for number in range(SHARDS):
        file = f"pytorch_model-{number + 1:05d}-of-{SHARDS:05d}.bin"
        part = names[number * len(names) // SHARDS : (number + 1) * len(names) // SHARDS]
        torch.save({name: made[name].cpu() for name in part}, folder / file)
        index.update(dict.fromkeys(part, file))
    weights = sum(weight.numel() for weight in model.parameters())
    total = sum(value.numel() * value.element_size() for value in made.values())
    about = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(about), encoding="utf-8")
    print(weights, total)


def ask(folder: str) -> None:
    """Answer stdin's prompts."""
    if hasattr(torch.backends.cuda, "enable_cudnn_sdp"):
        torch.backends.cuda.enable_cudnn_sdp(False)  # as the demo host does, which says why
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    model = (model.half().cuda() if DEVICE == "cuda" else model.float()).eval()
    for line in sys.stdin:
        prompt, number = line.rstrip("\n").split("\t")
        begun = time.perf_counter()
        pieces = model.stream_chat(tokenizer, prompt, [])
        next(pieces)
        first = time.perf_counter()
        for _ in range(int(number) - 1):
            next(pieces, None)
        print(first - begun, time.perf_counter() - first, flush=True)
        pieces.close()


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        ask(sys.argv[2])
