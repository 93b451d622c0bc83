"""Prints how many tokens prompts and responses have: ``tokens.py <model> <data> <columns> <limits>``.

Runs in the environment, with the model's own tokenizer, and counts as ptuning/main.py does.
"""

import json
import sys
from typing import List

PERCENTILES = (50, 90, 99, 100)
NAMED_LINES = 8


def told(words: str, counted: List[int], name: str, limit: int) -> str:
    """Return the line about prompts or about responses. counted: tokens of each line of the file, in its order."""
    ordered = sorted(counted)
    shares = ", ".join(
        "%d %% up to %d" % (percent, ordered[max(0, -(-len(ordered) * percent // 100) - 1)]) for percent in PERCENTILES
    )
    line = "%s: %s tokens; %s is %d" % (words, shares, name, limit)
    cut = [number for number, tokens in enumerate(counted, 1) if tokens > limit]
    if cut:
        more = ", ..." if len(cut) > NAMED_LINES else ""
        named = ", ".join(map(str, cut[:NAMED_LINES])) + more
        line += ", so %d of %d are cut (lines %s)" % (len(cut), len(counted), named)
    return line + "."


def main(arguments: List[str]) -> None:
    model, path, prompt, response, history, source, target = arguments
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=True)
    prompts, responses = [], []
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            asked = tokenizer.build_prompt(row[prompt], row[history] if history else None)
            prompts.append(len(tokenizer.encode(asked)))
            responses.append(len(tokenizer.encode(row[response], add_special_tokens=False)))
    print(told("prompts", prompts, "finetune_max_source_length", int(source)))
    print(told("responses", responses, "finetune_max_target_length", int(target)))


if __name__ == "__main__":
    main(sys.argv[1:])
