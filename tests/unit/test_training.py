"""The plan of a training: memory, cards, the demos beside it, and inputs that have to fit each other."""

from __future__ import annotations

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.plan import PlanError, plan
from ansible_collections.glmbox.box.plugins.module_utils.training import (
    full_mib,
    settings_of,
    training_mib,
    training_plan,
    training_problems,
)

WISH = {
    "method": "ptuning",
    "quantization": 4,
    "gpus": 1,
    "pre_seq_len": 128,
    "prefix_projection": False,
    "batch": 1,
    "tokens": 192,
    "demos": "auto",
}
REAL = "chatglm2-6b"


def box_of(*cards_mib: int, capability: str = "8.6") -> dict:
    return {
        "gpus": [{"memory_mib": mib, "name": "a card", "compute_capability": capability} for mib in cards_mib],
        "memory_mib": 65536,
    }


def plan_of(box: dict, model: str = REAL, device: str = "cuda", **wish: object) -> dict:
    demos = plan(model, device, "auto", [card["memory_mib"] for card in box["gpus"]], box["memory_mib"])
    return training_plan(box, model, device, {**WISH, **wish}, demos)


def test_upstreams_settings_need_what_was_seen():
    """7.6 GB, read as MiB of a thousand thousand thousand bytes."""
    assert abs(training_mib(REAL, "int4", WISH) - 7.6e9 / 2**20) < 100


@pytest.mark.parametrize(
    ("precision", "more", "peak"),
    [
        ("fp16", {}, 13081),
        ("int8", {}, 8283),
        ("fp16", {"gpus": 2}, 15265),
        ("fp16", {"batch": 8}, 15403),
        ("fp16", {"batch": 4, "tokens": 1024}, 20047),
        ("int8", {"batch": 4, "tokens": 1024, "gpus": 2}, 14887),
        ("fp16", {"tokens": 4096}, 19961),
        ("int8", {"prefix_projection": True}, 10525),
    ],
)
def test_what_was_seen_on_a_card_fits_what_is_counted(precision, more, peak):
    """The peaks in MiB are nvidia-smi's on an H100: docs/upstream.md, "At the real size"."""
    assert peak < training_mib(REAL, precision, {**WISH, **more}) < peak + 5500


def test_more_of_anything_needs_more():
    least = training_mib(REAL, "int4", WISH)
    for more in ({"batch": 4}, {"tokens": 1024}, {"pre_seq_len": 512}, {"prefix_projection": True}):
        assert training_mib(REAL, "int4", {**WISH, **more}) > least
    assert training_mib(REAL, "int8", WISH) > least
    assert training_mib(REAL, "fp16", WISH) > training_mib(REAL, "int8", WISH)
    # The projection alone is 117 million numbers at 20 bytes.
    assert training_mib(REAL, "int4", {**WISH, "prefix_projection": True}) - least == pytest.approx(2240, abs=10)


def test_demos_stay_where_memory_allows_both():
    assert plan_of(box_of(24576))["stop_demos"] is False
    assert plan_of(box_of(81920), quantization=8)["stop_demos"] is False


def test_demos_make_room_where_it_does_not():
    small = plan_of(box_of(16384))
    assert small["stop_demos"] is True
    assert "the demos make room" in small["why"]
    with pytest.raises(PlanError, match="finetune_demos to auto"):
        plan_of(box_of(16384), demos="keep")
    assert plan_of(box_of(24576), demos="stop")["stop_demos"] is True


def test_cards_without_the_demos_come_first():
    chosen = plan_of(box_of(16384, 16000))
    assert chosen["cards"] == [1]
    assert chosen["stop_demos"] is False
    assert chosen["environment"]["CUDA_VISIBLE_DEVICES"] == "1"
    assert plan_of(box_of(16384, 16000), gpus=2)["cards"] == [0, 1]


@pytest.mark.parametrize(
    ("cards", "wish", "words"),
    [
        ((7500,), {"quantization": 0}, "needs .* MiB and card 0 has 7500: set finetune_quantization to 4"),
        ((8000,), {"batch": 32}, "lower finetune_batch"),
        ((24576,), {"gpus": 2}, "finetune_gpus is 2, and the box has 1"),
    ],
)
def test_what_does_not_fit_says_what_would(cards, wish, words):
    with pytest.raises(PlanError, match=words):
        plan_of(box_of(*cards), **wish)


def test_an_h100_has_no_int4():
    with pytest.raises(PlanError, match="no int4 kernels"):
        plan_of(box_of(81920, capability="9.0"))
    assert plan_of(box_of(81920, capability="9.0"), quantization=8)["cards"] == [0]


def test_a_model_that_is_quantized_is_not_quantized_again():
    with pytest.raises(PlanError, match="quantized already"):
        plan_of(box_of(24576), model="chatglm2-6b-int4", quantization=8)


def test_the_cpu_is_for_small_models():
    assert plan_of(box_of(), "miniature", "cpu", quantization=0)["stop_demos"] is False
    with pytest.raises(PlanError, match="needs a GPU"):
        plan_of(box_of(), "miniature", "cpu")
    with pytest.raises(PlanError, match="is not trained on the CPU"):
        plan_of(box_of(), REAL, "cpu")


def test_all_parameters_are_refused_with_numbers():
    """Of 6.24 billion parameters: 11.6 GiB of weights on each card, and a share of 81 GiB."""
    assert full_mib(1) == pytest.approx((6.2436e9 * 16) / 2**20 + 1024, rel=0.001)
    with pytest.raises(PlanError, match=r"needs 96\d\d\d MiB on each of 1 card\(s\), and the box has 1 of 24576"):
        plan_of(box_of(24576), method="full")
    with pytest.raises(PlanError, match="That would fit; .*docs/upstream.md"):
        plan_of(box_of(81920, 81920, 81920, 81920), method="full")


def test_a_profile_gives_what_is_not_set():
    assert settings_of("quick", 0, 0, -1) == {"steps": 60, "save_steps": 20, "samples": 20}
    assert settings_of("full", 0, 0, -1) == {"steps": 3000, "save_steps": 1000, "samples": 0}
    assert settings_of("full", 8, 0, 5) == {"steps": 8, "save_steps": 8, "samples": 5}
    assert settings_of("quick", 50, 0, 0)["save_steps"] == 50
    assert settings_of("quick", 100, 50, 0) == {"steps": 100, "save_steps": 50, "samples": 0}


def test_inputs_that_do_not_fit_each_other():
    columns = {"finetune_prompt_column": "a", "finetune_response_column": "b"}
    assert training_problems(columns) == []
    assert training_problems({}) == []
    for values, words in (
        ({"finetune_prompt_column": "a", "finetune_response_column": "a"}, "another column"),
        ({"finetune_train_file": "/nonexistent/x.json"}, "there is no such file on this controller"),
        ({"finetune_validation_file": __file__}, "finetune_train_file is not"),
        ({"finetune_steps": 10, "finetune_save_steps": 20}, "no multiple"),
        ({"finetune_save_steps": 25}, "There are 60 steps"),
        ({"finetune_learning_rate": 2}, "at most 1"),
        ({"finetune_learning_rate": 0}, "greater than 0"),
    ):
        (problem,) = training_problems({**columns, **values})
        assert words in problem
