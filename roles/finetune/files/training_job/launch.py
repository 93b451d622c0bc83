"""Runs ptuning/main.py unmodified, in the environment, and tells how far it is: ``launch.py <folder> main.py ...``.

What it tells stands in the folder: `step.json` while it trains, `predicted.json` while it evaluates. A checkpoint that
is whole gets its stamp. Only the first process of several tells.
"""

import os
import runpy
import sys
import time
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from training_job.checkpoints import stamp, write_json  # noqa: E402

TELL_SECONDS = 1.0


def gpu_mib() -> int:
    """Return the most that this process has held of its card, in MiB; 0 without one."""
    import torch

    return torch.cuda.max_memory_reserved() // 2**20 if torch.cuda.is_available() else 0


def check_numbers(model: Any) -> None:
    """Refuse to go on with a prefix that has become infinite: the Trainer would log its loss as 0 and save it."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if not all(bool(weight.isfinite().all()) for weight in trained):
        raise SystemExit("The prefix holds no numbers any more.")


def make_teller(folder: str) -> Any:
    """Return a callback for transformers' Trainer."""
    from transformers import TrainerCallback

    class Teller(TrainerCallback):
        """Writes down step, loss and memory, and stamps checkpoints."""

        def __init__(self) -> None:
            self._told, self._begun, self._first, self._loss = 0.0, 0.0, 0, None
            self._predicted = 0

        def _tell(self, state: Any) -> None:
            now = time.time()
            rate = (state.global_step - self._first) / (now - self._begun) if now > self._begun else 0.0
            told = {"step": state.global_step, "total": state.max_steps, "loss": self._loss, "gpu_mib": gpu_mib()}
            write_json(os.path.join(folder, "step.json"), dict(told, rate=rate, begun=self._begun, now=now))
            self._told = now

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self._begun, self._first = time.time(), state.global_step
            if state.is_world_process_zero:
                self._tell(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            last = state.global_step >= state.max_steps
            if state.is_world_process_zero and (last or time.time() - self._told >= TELL_SECONDS):
                self._tell(state)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
            if state.is_world_process_zero and "loss" in (logs or {}):
                self._loss = logs["loss"]
                self._tell(state)

        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
            check_numbers(model)
            if state.is_world_process_zero:
                stamp(os.path.join(args.output_dir, "checkpoint-%d" % state.global_step), state.global_step)

        def on_prediction_step(
            self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **more: Any
        ) -> None:
            self._predicted += 1
            total = len(eval_dataloader) if eval_dataloader is not None else None
            if state.is_world_process_zero and time.time() - self._told >= TELL_SECONDS:
                self._told = time.time()
                write_json(os.path.join(folder, "predicted.json"), {"done": self._predicted, "total": total})

    return Teller


def main() -> None:
    folder, script = sys.argv[1:3]
    import transformers.trainer

    transformers.trainer.DEFAULT_CALLBACKS.append(make_teller(folder))
    sys.argv = sys.argv[2:]
    # As Python itself does for a script: its folder comes first, so that it finds what lies beside it.
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
