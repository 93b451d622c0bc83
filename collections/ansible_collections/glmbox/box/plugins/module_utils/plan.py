"""The plan: with what precision a model runs on a card."""

from __future__ import annotations

# MiB that one copy needs while it encodes 2048 tokens: upstream's README, "推理性能", measured there on an A100 with
# torch 2.0.1 (13.1, 8.2 and 5.5 GB), read as GiB to be on the safe side.
NEEDS_MIB = {"chatglm2-6b": {"fp16": 13414, "int8": 8397, "int4": 5632}}
# What CUDA's context, cuBLAS and a longer history take beside it.
HEADROOM_MIB = 1024


class PlanError(Exception):
    """A wish that does not fit, with what would."""


def plan(model: str, device: str, precision: str, card_mib: int) -> dict:
    """Choose the precision of one copy of a model.

    model: its name in the table above; others are small and run as float16 on a GPU. device: "cpu" or "cuda".
    precision: "auto" or the wished one. card_mib: the card's whole memory in MiB; ignored on the CPU.
    Returns {precision, needs_mib, why}; raises PlanError with a sentence that says what would fit.
    """
    if device == "cpu":
        if precision not in ("auto", "fp32"):
            raise PlanError(f"demos_precision {precision} needs a GPU; on the CPU use auto or fp32.")
        return {"precision": "fp32", "needs_mib": 0, "why": "demos_device is cpu, which runs float32"}
    needs = NEEDS_MIB.get(model)
    if not needs:
        chosen = "fp16" if precision == "auto" else precision
        return {"precision": chosen, "needs_mib": 0, "why": f"{model} is not in the table of sizes and taken as small"}
    if precision == "fp32":
        raise PlanError("demos_precision fp32 is for the CPU; on a GPU use auto, fp16, int8 or int4.")
    fitting = [name for name, mib in needs.items() if mib + HEADROOM_MIB <= card_mib]
    chosen = precision if precision != "auto" else (fitting[0] if fitting else "int4")
    needed = needs[chosen] + HEADROOM_MIB
    if chosen not in fitting:
        way_out = f"set demos_precision to {fitting[0]}" if fitting else "rent a card with 8 GiB or more"
        raise PlanError(f"{model} as {chosen} needs {needed} MiB of GPU memory and the card has {card_mib}: {way_out}.")
    why = f"{needed} of {card_mib} MiB ({HEADROOM_MIB} of them headroom)"
    return {"precision": chosen, "needs_mib": needed, "why": why}
