"""The plan of a training: what memory it takes, on which cards, and whether the demos may stay beside it."""

from __future__ import annotations

import os

from ansible_collections.glmbox.box.plugins.module_utils.plan import HEADROOM_MIB, NEEDS_MIB, PlanError

PRECISIONS = {0: "fp16", 8: "int8", 4: "int4"}
# ChatGLM2-6B's config.json: 28 layers with 2 groups of 128 channels for keys and as much for values.
PREFIX_FEATURES = 28 * 2 * 128 * 2
HIDDEN_FEATURES = 4096
# Each trained number is held as float32 with its gradient and the two moments of AdamW, and a copy while it is stepped.
TRAINED_BYTES = 20
# What a token of a batch takes for activations and scores (1.8 at most), what a training takes whatever its batch, and
# what each of several cards takes more than a single one: docs/upstream.md has what was seen on an H100. With int4 and
# upstream's settings they come to the 7.6 GB that others saw.
TOKEN_MIB, TRAINING_MIB, SEVERAL_CARDS_MIB = 2, 192, 2304
PARAMETERS = 6_243_584_000
# Of the full model: float16 weights, and with ZeRO 2 a share of gradients (2) and of AdamW's float32 state (12 bytes).
WEIGHT_BYTES, SHARED_BYTES = 2, 14
NEWEST_INT4_CAPABILITY = (8, 9)
PROFILES = {
    "quick": {"steps": 60, "save_steps": 20, "samples": 20},
    "full": {"steps": 3000, "save_steps": 1000, "samples": 0},
}


def settings_of(profile: str, steps: int, save_steps: int, samples: int) -> dict:
    """Return steps, save_steps and samples (0: all) of a training. 0, and -1 for samples, take the profile's."""
    chosen = PROFILES[profile]
    steps = steps or chosen["steps"]
    # The last step has to be one that is saved.
    saved = chosen["save_steps"] if steps % chosen["save_steps"] == 0 else steps
    return {
        "steps": steps,
        "save_steps": save_steps or saved,
        "samples": chosen["samples"] if samples < 0 else samples,
    }


def training_mib(model: str, precision: str, wish: dict) -> int:
    """Return the MiB of one card that P-Tuning takes, headroom included; 0 for a model that is small.

    wish: pre_seq_len, prefix_projection, batch, tokens (of prompt and response together), gpus.
    """
    if model not in NEEDS_MIB:
        return 0
    trained = wish["pre_seq_len"] * PREFIX_FEATURES
    if wish["prefix_projection"]:
        trained = wish["pre_seq_len"] * PREFIX_FEATURES + 2 * PREFIX_FEATURES * HIDDEN_FEATURES
    state = trained * TRAINED_BYTES // 2**20
    training = TRAINING_MIB + state + TOKEN_MIB * wish["batch"] * (wish["tokens"] + 1)
    return NEEDS_MIB[model][precision] + HEADROOM_MIB + training + (SEVERAL_CARDS_MIB if wish["gpus"] > 1 else 0)


def full_mib(cards: int) -> int:
    """Return the MiB that training all of ChatGLM2-6B takes of each of so many cards, by deepspeed's ZeRO 2."""
    return PARAMETERS * WEIGHT_BYTES // 2**20 + PARAMETERS * SHARED_BYTES // cards // 2**20 + HEADROOM_MIB


def full_refusal(cards_mib: list[int]) -> str:
    """Return why all parameters are not trained, in numbers."""
    count = max(len(cards_mib), 1)
    least = min(cards_mib, default=0)
    needed = full_mib(count)
    there = f"{len(cards_mib)} of {least} MiB" if cards_mib else "none"
    verdict = (
        "That would fit; glmbox trains the prefix alone, and docs/upstream.md tells how to run ds_train_finetune.sh."
        if cards_mib and needed <= least
        else f"It would take {full_mib(4)} MiB on each of 4, {full_mib(8)} of 8. Set finetune_method to ptuning."
    )
    return (
        f"Training all parameters with deepspeed (ZeRO 2) needs {needed} MiB on each of {count} card(s), and the box "
        f"has {there}. {verdict}"
    )


def training_plan(box: dict, model: str, device: str, wish: dict, demos: dict) -> dict:
    """Choose cards for a training, and say whether the demos have to make room.

    box: the fact `box`. wish: method, quantization, gpus, pre_seq_len, prefix_projection, batch, tokens, and demos
    (auto, keep or stop). demos: the plan of the demos (see `plan`). Returns {cards, needs_mib, stop_demos, environment,
    why}. Raises PlanError with a sentence.
    """
    cards_mib = [card["memory_mib"] for card in box["gpus"]]
    if wish["method"] == "full":
        raise PlanError(full_refusal(cards_mib))
    if device == "cpu":
        if model in NEEDS_MIB:
            raise PlanError(f"{model} is not trained on the CPU. Rent a card, and set demos_device to cuda.")
        if wish["quantization"]:
            raise PlanError("finetune_quantization needs a GPU; on the CPU set it to 0.")
        return _plan([], 0, wish["demos"] == "stop", "on the CPU, which is for small models alone")
    if model in NEEDS_MIB and PRECISIONS[wish["quantization"]] not in NEEDS_MIB[model]:
        raise PlanError(f"{model} is quantized already. Set weights_model to chatglm2-6b.")
    precision = PRECISIONS[wish["quantization"]]
    needed = training_mib(model, precision, wish)
    # Cards that the demos leave alone come first, then the larger ones.
    ordered = sorted(range(len(cards_mib)), key=lambda card: (card in demos["cards"], -cards_mib[card]))
    chosen = ordered[: wish["gpus"]]
    if len(chosen) < wish["gpus"]:
        raise PlanError(f"finetune_gpus is {wish['gpus']}, and the box has {len(cards_mib)}.")
    for card in chosen:
        capability = tuple(int(part) for part in (box["gpus"][card].get("compute_capability") or "0").split("."))
        if precision == "int4" and model in NEEDS_MIB and capability > NEWEST_INT4_CAPABILITY:
            raise PlanError(f"The model brings no int4 kernels for the {box['gpus'][card]['name']}. Set "
                            "finetune_quantization to 8 or 0.")  # fmt: skip
        if needed > cards_mib[card]:
            fitting = [bits for bits, name in PRECISIONS.items() if training_mib(model, name, wish) <= cards_mib[card]]
            way = (
                f"set finetune_quantization to {fitting[0]}"
                if fitting
                else "lower finetune_batch, or rent a larger card"
            )
            raise PlanError(
                f"Training {model} as {precision} needs {needed} MiB and card {card} has {cards_mib[card]}: {way}."
            )
    crowded = [card for card in chosen if card in demos["cards"] and needed + demos["needs_mib"] > cards_mib[card]]
    if crowded and wish["demos"] == "keep":
        raise PlanError(
            f"Training needs {needed} MiB and the demos {demos['needs_mib']}, and card {crowded[0]} has "
            f"{cards_mib[crowded[0]]}: set finetune_demos to auto, which stops them meanwhile."
        )
    stop = wish["demos"] == "stop" or bool(crowded)
    beside = "the demos make room meanwhile" if stop else "beside the demos"
    return _plan(
        sorted(chosen), needed, stop, f"{precision} with {needed} MiB on card {', '.join(map(str, chosen))}, {beside}"
    )


def _plan(cards: list[int], needs_mib: int, stop: bool, why: str) -> dict:
    # Numbered as nvidia-smi does. Without this, plain Python would spread the model over every card.
    visible = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, cards))} if cards else {}
    return {"cards": cards, "needs_mib": needs_mib, "stop_demos": stop, "environment": visible, "why": why}


def training_problems(values: dict) -> list[str]:
    """Return what is wrong with inputs of a training that have to fit each other, or a file of the controller."""
    problems = []
    names = [str(values.get(f"finetune_{name}_column") or "") for name in ("prompt", "response", "history")]
    used = [name for name in names if name]
    if len(set(used)) < len(used):
        problems.append(f"finetune_prompt_column, finetune_response_column and finetune_history_column name {used}; "
                        "each has to be another column.")  # fmt: skip
    files = {name: str(values.get(name) or "") for name in ("finetune_train_file", "finetune_validation_file")}
    for name, path in files.items():
        if path and not os.path.isfile(os.path.expanduser(path)):
            problems.append(f"{name} is {path}, and there is no such file on this controller.")
    if files["finetune_validation_file"] and not files["finetune_train_file"]:
        problems.append("finetune_validation_file is set, and finetune_train_file is not.")
    try:
        profile = str(values.get("finetune_profile", "quick"))
        numbers = settings_of(
            profile, int(values.get("finetune_steps", 0)), int(values.get("finetune_save_steps", 0)), 0
        )
        rate = float(values.get("finetune_learning_rate", 0.02))
    except (TypeError, ValueError, KeyError):
        return problems  # their types are wrong, which is said already
    if numbers["steps"] % numbers["save_steps"]:
        problems.append(
            f"There are {numbers['steps']} steps, which is no multiple of finetune_save_steps "
            f"{numbers['save_steps']}: the last ones would be lost."
        )
    if not 0 < rate <= 1:
        problems.append(f"finetune_learning_rate is {rate:g}; it has to be greater than 0 and at most 1.")
    return problems
