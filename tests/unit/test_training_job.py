"""The job that trains: which checkpoints count, what it refuses, what it tells, and the picture of the loss."""

from __future__ import annotations

import ast
import json
import os
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from training_job import checkpoints, curve, report, run, tokens

FOLDER = Path(run.__file__).parent
INPUTS = {"steps": 4, "seed": 1}


def make_checkpoint(output: Path, step: int, stamped: bool = True) -> Path:
    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(b"weights of %d" % step)
    if stamped:
        checkpoints.stamp(str(folder), step)
    return folder


def settings_of(output: Path, **more: object) -> dict:
    return {
        "name": "adgen",
        "identity": "x",
        "inputs": INPUTS,
        "output": str(output),
        "scratch": str(output / "scratch"),
        "user": "nobody",
        "python": sys.executable,
        "script": str(output / "main.py"),
        "gpus": 1,
        "steps": 4,
        "environment": {},
        "stop_services": [],
        "glmboxctl": "/usr/local/bin/glmboxctl",
        "train_arguments": ["--do_train"],
        "evaluate_arguments": [],
        **more,
    }


def test_a_checkpoint_without_its_stamp_is_removed(tmp_path):
    for step, stamped in ((20, True), (100, True), (120, False)):
        make_checkpoint(tmp_path, step, stamped)
    (tmp_path / "checkpoint-100" / "pytorch_model.bin").write_bytes(b"damaged")
    assert list(checkpoints.steps(str(tmp_path))) == [20, 100, 120]
    assert checkpoints.tidy(str(tmp_path)) == [20]
    assert not (tmp_path / "checkpoint-120").exists()


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for step in (1000, 200, 30):
        make_checkpoint(tmp_path, step)
    assert checkpoints.tidy(str(tmp_path)) == [30, 200, 1000]


def test_a_name_stands_for_one_training(tmp_path):
    run.check_identity(str(tmp_path), settings_of(tmp_path))
    run.check_identity(str(tmp_path), settings_of(tmp_path))
    with pytest.raises(run.RunError, match="begun with another seed. Choose another finetune_name"):
        run.check_identity(str(tmp_path), settings_of(tmp_path, identity="y", inputs={"steps": 4, "seed": 2}))


def test_checkpoints_of_others_are_left_alone(tmp_path):
    make_checkpoint(tmp_path, 20, stamped=False)
    with pytest.raises(run.RunError, match="that glmbox did not make"):
        run.check_identity(str(tmp_path), settings_of(tmp_path))
    assert (tmp_path / "checkpoint-20").exists()


def test_one_card_needs_no_torchrun_and_several_take_the_environments(tmp_path):
    one = run.command_of(settings_of(tmp_path), "told", ["--do_train"])
    assert one == [sys.executable, run.LAUNCH, "told", str(tmp_path / "main.py"), "--do_train"]
    two = run.command_of(settings_of(tmp_path, gpus=2), "told", [])
    assert two[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert "--nproc-per-node=2" in two


def test_the_line_of_progress():
    assert run.words_of("adgen", {"loss": 3.25, "gpu_mib": 7372}) == "adgen, loss 3.2500, 7.2 GiB of GPU memory"
    assert run.words_of("adgen", {"loss": None, "gpu_mib": 0}) == "adgen"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried", "finetune_batch lower"),
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        (
            "RuntimeError: [enforce fail] . PytorchStreamWriter failed writing file: file write failed",
            "The disk is full",
        ),
        ("ValueError: x", "The lines above say why"),
    ],
)
def test_why_it_died(log, words, tmp_path, monkeypatch):
    monkeypatch.setenv("JOB_DIR", str(tmp_path))
    (tmp_path / "log").write_text("a\n" + log + "\n")
    assert words in run.reason()


def job(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch, **more: object) -> tuple[int, dict]:
    """Run the whole job with a script in the place of launch.py, as this user; return exit code and result."""
    output = tmp_path / "out"
    output.mkdir(exist_ok=True)
    (output / "main.py").write_text("")
    (tmp_path / "launch.py").write_text(script)
    monkeypatch.setattr(run, "LAUNCH", str(tmp_path / "launch.py"))
    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(run, "demote", lambda user: None)
    monkeypatch.setattr(run, "own", lambda path, user: Path(path).mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(run.signal, "signal", lambda *_: None)
    for name, value in (("JOB_DIR", tmp_path), ("JOB_PROGRESS", tmp_path / "p"), ("JOB_RESULT", tmp_path / "r")):
        monkeypatch.setenv(name, str(value))
    (tmp_path / "settings.json").write_text(json.dumps(settings_of(output, **more)))
    return run.main(str(tmp_path / "settings.json")), checkpoints.read_json(str(tmp_path / "r")) or {}


TRAINS = f"""
import json, os, sys
sys.path.insert(0, {str(FOLDER.parent)!r})
from training_job.checkpoints import stamp
output = os.path.dirname(sys.argv[2])
begun = int(sys.argv[-1].rpartition("-")[2]) if "--resume_from_checkpoint" in sys.argv else 0
with open(os.path.join(output, "calls"), "a") as file:
    file.write(f"{{begun}} ")
for step in range(begun + 2, 5, 2):
    folder = os.path.join(output, f"checkpoint-{{step}}")
    os.makedirs(folder)
    open(os.path.join(folder, "pytorch_model.bin"), "w").write(str(step))
    DIE
    stamp(folder, step)
log = [{{"step": 1, "loss": 4.0}}, {{"step": 2, "loss": float("nan")}}, {{"step": 4, "loss": 1.5}}]
json.dump({{"log_history": log}}, open(os.path.join(output, "trainer_state.json"), "w"))
json.dump({{"train_loss": 2.0, "train_samples": 8}}, open(os.path.join(output, "train_results.json"), "w"))
"""


def test_a_training_from_its_beginning_to_its_report(tmp_path, monkeypatch):
    code, result = job(tmp_path, TRAINS.replace("DIE", "pass"), monkeypatch)
    assert code == 0
    assert (result["first_loss"], result["final_loss"]) == (4.0, 1.5)
    assert list(result["checkpoints"]) == ["checkpoint-2", "checkpoint-4"]
    assert result["inputs"] == INPUTS
    output = tmp_path / "out"
    assert (output / "last").resolve() == (output / "checkpoint-4").resolve()
    assert json.loads((output / "loss.json").read_text()) == [{"step": 1, "loss": 4.0}, {"step": 4, "loss": 1.5}]
    ElementTree.fromstring((output / "loss.svg").read_text())
    # Asked again, it finds nothing to do.
    assert job(tmp_path, "import sys; sys.exit(9)", monkeypatch)[0] == 0
    assert (output / "calls").read_text() == "0 "


def test_it_goes_on_at_the_last_whole_checkpoint(tmp_path, monkeypatch, capfd):
    code, _ = job(tmp_path, TRAINS.replace("DIE", "if step == 4: sys.exit(7)"), monkeypatch)
    assert code == 1
    assert "Training failed (exit code 7)" in capfd.readouterr().out
    assert (tmp_path / "out" / "checkpoint-4").exists()  # half of it
    code, result = job(tmp_path, TRAINS.replace("DIE", "pass"), monkeypatch)
    assert code == 0
    assert list(result["checkpoints"]) == ["checkpoint-2", "checkpoint-4"]
    assert (tmp_path / "out" / "calls").read_text() == "0 2 "


def test_a_script_that_saves_nothing_is_found_out(tmp_path, monkeypatch, capfd):
    assert job(tmp_path, "pass", monkeypatch)[0] == 1
    assert "left no checkpoint of step 4" in capfd.readouterr().out


def test_the_evaluation_is_told_which_checkpoint(tmp_path, monkeypatch):
    evaluates = """
if "--do_predict" in sys.argv:
    assert sys.argv[-1].endswith("checkpoint-4") and sys.argv[-2] == "--ptuning_checkpoint"
    json.dump({"predict_bleu-4": 12.5}, open(os.path.join(output, "predict_results.json"), "w"))
    sys.exit()
"""
    script = TRAINS.replace("DIE", "pass").replace("begun = int", evaluates + "begun = int")
    code, result = job(tmp_path, script, monkeypatch, evaluate_arguments=["--do_predict"])
    assert code == 0
    assert result["metrics"] == {"train_samples": 8, "predict_bleu-4": 12.5}
    # Just these again are nothing to do; of others it evaluates anew, and trains not.
    assert job(tmp_path, "import sys; sys.exit(9)", monkeypatch, evaluate_arguments=["--do_predict"])[0] == 0
    script = script.replace("12.5", "13.5")
    code, again = job(tmp_path, script, monkeypatch, evaluate_arguments=["--do_predict", "--all"])
    assert code == 0
    assert again["metrics"]["predict_bleu-4"] == 13.5
    assert again["train_seconds"] == result["train_seconds"]
    assert (tmp_path / "out" / "calls").read_text() == "0 "


def test_the_curve_is_a_picture_of_all_points():
    picture = ElementTree.fromstring(curve.svg("adgen", [(10, 5.0), (20, 2.5), (30, 0.5)]))
    points = picture.findall("{*}circle")
    assert [point.find("{*}title").text for point in points] == [
        "step 10: loss 5",
        "step 20: loss 2.5",
        "step 30: loss 0.5",
    ]
    heights = [float(point.get("cy")) for point in points]
    assert heights == sorted(heights)
    assert ElementTree.fromstring(curve.svg("one", [(1, 0.0)])) is not None


@pytest.mark.parametrize("most", [0.00001, 0.5, 1, 3, 7.3, 60, 3000])
def test_ticks_are_round_and_few(most):
    marks = curve.ticks(most)
    assert 2 <= len(marks) <= 9
    assert marks[0] == 0
    assert marks[-1] <= most * (1 + 1e-6)


def test_lengths_are_held_against_their_limit():
    assert tokens.told("prompts", [3, 70, 5, 9], "finetune_max_source_length", 64) == (
        "prompts: 50 % up to 5, 90 % up to 70, 99 % up to 70, 100 % up to 70 tokens; finetune_max_source_length is 64, "
        "so 1 of 4 are cut (lines 2)."
    )
    assert "cut" not in tokens.told("responses", [1], "finetune_max_target_length", 128)
    assert "(lines 1, 2, 3, 4, 5, 6, 7, 8, ...)" in tokens.told("prompts", [9] * 20, "x", 8)


def test_losses_that_are_no_numbers_are_left_out(tmp_path):
    assert report.losses(str(tmp_path)) == []


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_the_box_can_run_it(path):
    ast.parse(path.read_text(), feature_version=(3, 8))


def test_what_outlives_the_job_has_nothing_of_it(tmp_path, monkeypatch):
    """Where there is no systemd; the end of a job ends all that have its environment, its session, or it as parent."""
    monkeypatch.setattr(run.os.path, "isdir", lambda path: False)
    monkeypatch.setenv("JOB_DIR", str(tmp_path))
    told = tmp_path / "told"
    tell = f"(env; cut -d ' ' -f 4,6 /proc/$$/stat) >{told}.new; mv {told}.new {told}"
    run.run_outside("x", ["sh", "-c", "sleep 0.2; " + tell])
    assert not told.exists()
    deadline = time.monotonic() + 10
    while not told.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    *environment, ids = told.read_text().splitlines()
    assert not [line for line in environment if line.startswith("JOB_")]
    parent, session = map(int, ids.split())
    assert parent != os.getpid()
    assert session != os.getsid(0)
