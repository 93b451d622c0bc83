"""What is left of a training beside its checkpoints: the curve, the numbers, where all of it came from.

Runs on the box: standard library alone, Python 3.8.
"""

import math
import os
from typing import Any, Dict, List, Tuple

from training_job import checkpoints, curve

PROVENANCE = "glmbox.json"
# Of a training that was resumed, transformers measures the last part alone, and divides its loss by all steps.
UNTRUE_AFTER_A_RESUME = ("train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second")


def losses(output: str) -> List[Tuple[int, float]]:
    """Return step and loss as the Trainer has logged them; a loss that is no number is left out."""
    state = checkpoints.read_json(os.path.join(output, "trainer_state.json")) or {}
    logged = [entry for entry in state.get("log_history", []) if "loss" in entry]
    return [(entry["step"], entry["loss"]) for entry in logged if math.isfinite(entry["loss"])]


def metrics(output: str) -> Dict[str, Any]:
    """Return what was measured at the end: of the training, and of the evaluation where there was one."""
    found: Dict[str, Any] = {}
    for name in ("train_results.json", "predict_results.json"):
        found.update(checkpoints.read_json(os.path.join(output, name)) or {})
    return {name: value for name, value in found.items() if name not in UNTRUE_AFTER_A_RESUME}


def link_last(output: str, step: int) -> None:
    """Point `last` at a checkpoint."""
    draft = os.path.join(output, ".last")
    if os.path.lexists(draft):
        os.unlink(draft)
    os.symlink("checkpoint-%d" % step, draft)
    os.replace(draft, os.path.join(output, "last"))


def write(output: str, settings: Dict[str, Any], whole: List[int], measured: Dict[str, Any]) -> Dict[str, Any]:
    """Write curve and numbers, and last the provenance, which says that the training is done; return that."""
    name, points = settings["name"], losses(output)
    if points:
        checkpoints.write_text(os.path.join(output, "loss.svg"), curve.svg("%s: loss by step" % name, points))
    told = [{"step": step, "loss": loss} for step, loss in points]
    checkpoints.write_json(os.path.join(output, "loss.json"), told)
    link_last(output, whole[-1])
    provenance = {
        "name": name,
        "identity": settings["identity"],
        "inputs": settings["inputs"],
        "checkpoints": {"checkpoint-%d" % step: _sha256(output, step) for step in whole},
        "last": "checkpoint-%d" % whole[-1],
        "sha256": _sha256(output, whole[-1]),
        "first_loss": points[0][1] if points else None,
        "final_loss": points[-1][1] if points else None,
        "metrics": metrics(output),
        **measured,
    }
    checkpoints.write_json(os.path.join(output, PROVENANCE), provenance)
    return provenance


def _sha256(output: str, step: int) -> str:
    noted = checkpoints.read_json(os.path.join(output, "checkpoint-%d" % step, checkpoints.STAMP)) or {}
    return str(noted.get("sha256"))
