"""The plan: with what precision a model runs, and on which cards."""

from __future__ import annotations

# MiB that one copy needs while it encodes 2048 tokens: upstream's README, "推理性能", measured there on an A100 with
# torch 2.0.1 (13.1, 8.2 and 5.5 GB), read as GiB to be on the safe side.
NEEDS_MIB = {
    "chatglm2-6b": {"fp16": 13414, "int8": 8397, "int4": 5632},
    # Its weights are quantized already.
    "chatglm2-6b-int4": {"int4": 5632},
}
# What CUDA's context, cuBLAS and a longer history take beside it, on each card.
HEADROOM_MIB = 1024
# Of a copy that is spread, the first card holds the embeddings, the output layer and the activations as well: of 12.5
# GB, 65024 x 4096 float16 values twice.
FIRST_CARD_MIB = 1016


class PlanError(Exception):
    """A wish that does not fit, with what would."""


# Upstream's README: about 32 GB of memory for a float32 copy on the CPU.
CPU_NEEDS_MIB = {"chatglm2-6b": 32768}


def plan(model: str, device: str, precision: str, cards_mib: list[int], memory_mib: int) -> dict:
    """Choose the precision of one copy of a model, and its cards.

    model: its name in the table above; others are small and run as float16 on a GPU. device: "cpu" or "cuda".
    precision: "auto" or the wished one. cards_mib: each card's whole memory in MiB, as nvidia-smi lists them.
    memory_mib: the box's.
    A copy that fits one card gets the largest; float16 that fits none is spread over as few as it takes, by upstream's
    load_model_on_gpus, before it is quantized.
    Returns {precision, needs_mib, cards, environment, why, second_copy}: needs_mib of the fullest card, cards by
    nvidia-smi's number, environment for the process, second_copy whether it fits beside one that runs already, so
    that an update needs no gap. Raises PlanError with a sentence that says what would fit.
    """
    if device == "cpu":
        if precision not in ("auto", "fp32"):
            raise PlanError(f"demos_precision {precision} needs a GPU; on the CPU use auto or fp32.")
        needed = CPU_NEEDS_MIB.get(model, 0)
        return _plan("fp32", needed, [], "demos_device is cpu, which runs float32", 2 * needed <= memory_mib)
    if precision == "fp32":
        raise PlanError("demos_precision fp32 is for the CPU; on a GPU use auto, fp16, int8 or int4.")
    largest = sorted(range(len(cards_mib)), key=lambda card: -cards_mib[card])
    best = cards_mib[largest[0]] if largest else 0
    needs = NEEDS_MIB.get(model)
    if not needs:
        chosen = "fp16" if precision == "auto" else precision
        return _plan(chosen, 0, largest[:1], f"{model} is not in the table of sizes and taken as small", True)
    if precision != "auto" and precision not in needs:
        raise PlanError(f"{model} is {' or '.join(needs)} alone. Set demos_precision to auto, or weights_model.")
    # What runs already may be the greatest that fits.
    running = max([mib + HEADROOM_MIB for mib in needs.values() if mib + HEADROOM_MIB <= best], default=0)
    for name in [precision] if precision != "auto" else needs:
        needed = needs[name] + HEADROOM_MIB
        if needed <= best:
            where = f" on card {largest[0]}" if len(largest) > 1 else ""
            why = f"{needed} of {best} MiB ({HEADROOM_MIB} of them headroom){where}"
            return _plan(name, needed, largest[:1], why, running + needed <= best)
        for count in range(2, len(largest) + 1) if name == "fp16" else ():
            share = (needs[name] - FIRST_CARD_MIB) // count + FIRST_CARD_MIB + HEADROOM_MIB
            if share <= cards_mib[largest[count - 1]]:
                why = f"too large for one card, spread over {count} with {share} MiB on the fullest"
                return _plan(name, share, sorted(largest[:count]), why, 2 * share <= cards_mib[largest[count - 1]])
    fitting = [name for name, mib in needs.items() if mib + HEADROOM_MIB <= best]
    wished = precision if precision != "auto" else list(needs)[-1]
    way_out = f"set demos_precision to {fitting[0]}" if fitting else "rent a card with 8 GiB or more"
    needed = needs[wished] + HEADROOM_MIB
    raise PlanError(f"{model} as {wished} needs {needed} MiB of GPU memory and the card has {best}: {way_out}.")


def _plan(precision: str, needs_mib: int, cards: list[int], why: str, second_copy: bool) -> dict:
    # Numbered as nvidia-smi does, which CUDA does not by itself.
    visible = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, cards))} if cards else {}
    return {
        "precision": precision,
        "needs_mib": needs_mib,
        "cards": cards,
        "environment": visible,
        "why": why,
        "second_copy": second_copy,
    }
