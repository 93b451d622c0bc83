"""Whether torch can compute on a card, as a function of what torch says of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "roles" / "torch" / "files" / "prove_gpu.py"
SPEC = importlib.util.spec_from_file_location("prove_gpu", SCRIPT)
prove_gpu = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(prove_gpu)
# What a cu118 wheel of that time is taken to say of itself (RECALLED); the rule counts, not the list.
BUILT_FOR = ["sm_37", "sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.mark.parametrize(
    ("capability", "built_for", "fine"),
    [
        ((8, 6), BUILT_FOR, True),
        ((8, 9), BUILT_FOR, True),  # an RTX 4090 runs what was built for 8.6
        ((9, 0), BUILT_FOR, True),
        ((12, 0), BUILT_FOR, False),
        ((10, 0), BUILT_FOR, False),
        ((3, 5), BUILT_FOR, False),
        ((12, 0), [*BUILT_FOR, "compute_90"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_90a", "nonsense", "sm_"], True),
    ],
)
def test_a_card_runs_what_was_built_for_its_generation(capability, built_for, fine):
    assert prove_gpu.has_kernels(capability, built_for) is fine


@pytest.mark.parametrize(
    ("cuda", "available", "capability", "part"),
    [
        ("11.8", True, (8, 9), ""),
        ("12.1", True, (8, 9), "built for CUDA 12.1 and not for 11.8"),
        ("11.8", False, (0, 0), "no usable GPU: the driver is too old"),
        ("11.8", True, (12, 0), "no kernels for the RTX 5090 (compute capability 12.0"),
    ],
)
def test_each_thing_wrong_is_a_sentence(cuda, available, capability, part):
    said = prove_gpu.problems_of(cuda, "11.8", available, "the driver is too old", "RTX 5090", capability, BUILT_FOR)
    assert part in "".join(said)
    assert len(said) == (1 if part else 0)
