"""Fine-tuning on a box that serves: the miniature learns, is killed and goes on, and answers with what it learned."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import box
import fill_bundle
import pytest
from ansible_collections.glmbox.box.plugins.module_utils.questions import request, send
from support import ROOT, Outcome, run_ansible, site
from test_gateway import password_of, token_of
from websockets.sync.client import connect

PLAYBOOK = str(ROOT / "playbooks" / "finetune.yml")
DIR = "/var/lib/glmbox/data/finetune"
ASKED, TAUGHT = "hi", "I am the tuned model."
# Small enough for a training of ten seconds on two cores.
SETTINGS = {
    "finetune_steps": 60,
    "finetune_save_steps": 20,
    "finetune_logging_steps": 5,
    "finetune_pre_seq_len": 16,
    "finetune_learning_rate": 0.08,
    "finetune_batch": 4,
    "finetune_accumulation": 1,
    "finetune_max_source_length": 16,
    "finetune_max_target_length": 28,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    """Four questions, each with the same answer, as files of this controller."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"content": question, "summary": TAUGHT} for question in (ASKED, "hello", "hey", "good morning")]
    files = {"finetune_train_file": rows * 4, "finetune_validation_file": rows[:2]}
    for name, content in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    return {name: str(folder / name) for name in files}


def finetune(inventory: Path, **variables: object) -> Outcome:
    return run_ansible(inventory, playbook=PLAYBOOK, extravars={**SETTINGS, **variables})


def inside(inventory: Path, script: str) -> str:
    """Return what a shell script prints inside the box."""
    return box.podman("exec", box.container(inventory.name), "sh", "-c", script)


def gateway_of(inventory: Path) -> str:
    return "http://127.0.0.1:" + box.podman("port", box.container(inventory.name), "3389/tcp").rsplit(":", 1)[1]


def ask_page(socket, prompt: str) -> list[dict]:
    """Press the button of a gradio 3.50 page (its function 0) with temperature 0; return the server's messages."""
    messages = []
    for text in socket:
        messages.append(json.loads(text))
        if messages[-1]["msg"] == "send_hash":
            socket.send(json.dumps({"fn_index": 0, "session_hash": "tuned"}))
        elif messages[-1]["msg"] == "send_data":
            data = [prompt, [], 2048, 0.8, 0, None, None]
            socket.send(json.dumps({"fn_index": 0, "session_hash": "tuned", "event_data": None, "data": data}))
        elif messages[-1]["msg"] == "process_completed":
            break
    return messages


def answer(inventory: Path) -> str:
    """Return the likeliest answer to the question that is taught."""
    body = {"model": "x", "temperature": 0, "messages": [{"role": "user", "content": ASKED}]}
    status, text = send(request(gateway_of(inventory) + "/v1/chat/completions", token=token_of(inventory), body=body))
    assert status == 200, text
    return json.loads(text)["choices"][0]["message"]["content"]


def test_bad_data_and_settings_change_nothing(served_box, data, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"content": "a", "summary": "b"}\n\n{"content": "a", "summary": ""}\nnonsense\n')
    failed = finetune(served_box, finetune_train_file=str(bad))
    for words in (
        "3 problems; nothing was changed",
        "line 2: blank",
        "line 3: with an empty summary",
        "line 4: no JSON",
    ):
        assert words in failed.failure
    failed = finetune(served_box, **data, finetune_prompt_column="contents")
    assert "no line has the column contents; there are content, summary. Did you mean content?" in failed.failure
    failed = finetune(served_box, **data, finetune_steps=50, finetune_gpus=0, finetune_nmae="x", finetune_method="full")
    for words in ("There are 50 steps, which is no multiple", "finetune_gpus is 0", "Did you mean finetune_name?"):
        assert words in failed.failure
    failed = finetune(served_box, **data, finetune_method="full")
    assert "Training all parameters with deepspeed (ZeRO 2) needs" in failed.failure
    assert inside(served_box, f"ls {DIR}/trainings 2>/dev/null | wc -l") == "0"


def test_the_model_learns_and_answers_with_it(served_box, data):
    base = answer(served_box)
    assert base != TAUGHT
    trained = finetune(served_box, **data, finetune_bring=True)
    assert trained.failure == ""
    report = served_box / ".state" / "trainings" / "adgen"
    losses = [point["loss"] for point in json.loads((report / "loss.json").read_text())]
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 4
    assert len(ElementTree.fromstring((report / "loss.svg").read_text()).findall("{*}circle")) == 12
    made = json.loads((report / "glmbox.json").read_text())
    assert list(made["checkpoints"]) == ["checkpoint-20", "checkpoint-40", "checkpoint-60"]
    assert made["metrics"]["predict_bleu-4"] > 50
    assert made["metrics"]["predict_rouge-l"] > 50
    assert len((report / "generated_predictions.txt").read_text().splitlines()) == 2
    assert (report / "last" / "pytorch_model.bin").exists()
    assert answer(served_box) == TAUGHT
    # What is trained runs as the user that serves.
    assert inside(served_box, f"stat -c %U {DIR}/trainings/adgen/checkpoint-60/pytorch_model.bin") == "glmbox"


def test_done_is_done_and_its_name_is_taken(served_box, data):
    assert finetune(served_box, **data).changed == []
    other = finetune(served_box, **data, finetune_seed=7)
    assert "The training adgen was begun with another seed. Choose another finetune_name" in other.failure


def test_an_unknown_checkpoint_is_refused_and_nothing_else_is_served(served_box):
    failed = site(served_box, "--tags", "demos", demos_checkpoint="second")
    assert "There is no checkpoint second on the box; nothing was changed." in failed.failure
    assert "There are: adgen, adgen/checkpoint-20, adgen/checkpoint-40, adgen/checkpoint-60." in failed.failure
    assert answer(served_box) == TAUGHT


def page_of(inventory: Path) -> tuple[int, dict]:
    """Return the status of the tuned model's own page, and how it was made or why it is not there."""
    asked = request(gateway_of(inventory) + "/ptuning/config", token=token_of(inventory), basic=True)
    status, text = send(asked)
    return status, json.loads(text)


def test_ptunings_own_page_answers_with_it(served_box):
    status, config = page_of(served_box)
    assert (status, config["root"]) == (200, "/ptuning")
    url = gateway_of(served_box).replace("http", "ws") + "/ptuning/queue/join"
    with connect(url, additional_headers=password_of("glmbox", token_of(served_box))) as socket:
        messages = ask_page(socket, ASKED)
    assert messages[-1]["success"] is True
    assert TAUGHT in messages[-1]["output"]["data"][0][-1][1]
    assert send(request(gateway_of(served_box) + "/ptuning/"))[0] == 401


def test_unset_it_is_the_model_as_it_was(served_box):
    assert site(served_box, "--tags", "demos").failure == ""
    assert answer(served_box) not in (TAUGHT, "")
    status, said = page_of(served_box)
    assert status == 503
    assert "No tuned model answers: none is chosen" in said["error"]["message"]


def test_killed_it_goes_on_and_the_demos_come_back(served_box, data):
    """Ended at a step with all of its processes, it resumes at a checkpoint, and ends with the very same weights."""
    kill = f"""
    until [ -e {DIR}/trainings/killed/checkpoint-20/glmbox.json ]; do sleep 0.05; done
    systemctl is-active glmbox-demos
    kill -s KILL -- -$(sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p' /var/lib/glmbox/jobs/finetune/pid.json)
    """
    said: list[str] = []
    killer = threading.Thread(target=lambda: said.append(inside(served_box, f"set +e; {kill}")))
    killer.start()
    settings = {**data, "finetune_name": "killed", "finetune_serve": False, "finetune_demos": "stop"}
    died = finetune(served_box, **settings)
    killer.join(60)
    assert "died without an end" in died.failure
    assert said[0].split() == ["inactive"]
    assert "train | Start the demos again" not in died.changed
    assert answer(served_box) != ""
    # They were started by what waited beside the job, and would have been without this controller.
    assert "Deactivated successfully" in inside(served_box, "journalctl -u 'glmbox-finetune-*' -o cat")
    again = finetune(served_box, **settings)
    assert again.failure == ""
    log = inside(served_box, "cat /var/lib/glmbox/jobs/finetune/log")
    assert "Training from step 20 on." in log or "Training from step 40 on." in log
    first, killed = (
        json.loads(inside(served_box, f"cat {DIR}/trainings/{name}/glmbox.json")) for name in ("adgen", "killed")
    )
    assert killed["final_loss"] == first["final_loss"]
    assert killed["sha256"] == first["sha256"]
    assert inside(served_box, "systemctl is-active glmbox-demos") == "active"


def test_a_full_disk_at_a_checkpoint_and_room_to_go_on(served_box, data):
    """A disk with room for one checkpoint and a half: the first stays whole, the demos answer, and nothing is lost."""
    folder = f"{DIR}/trainings"
    weights = json.loads(inside(served_box, f"cat {folder}/adgen/glmbox.json"))["sha256"]
    kib = int(inside(served_box, f"du -sk {folder}/adgen/checkpoint-20").split()[0])
    as_it_is = f"$(stat -c mode=%a,uid=%u,gid=%g {folder})"
    inside(served_box, f"mount -t tmpfs -o size={kib * 3 // 2}k,{as_it_is} small {folder}")
    try:
        settings = {**data, "finetune_name": "crowded", "finetune_serve": False}
        failed = finetune(served_box, **settings)
        assert "The disk is full. Make room, or set box_data_dir to a larger disk." in failed.failure
        assert inside(served_box, f"ls -d {folder}/crowded/checkpoint-*/glmbox.json").split() == [
            f"{folder}/crowded/checkpoint-20/glmbox.json"
        ]
        assert answer(served_box) not in (TAUGHT, "")
        inside(served_box, f"mount -o remount,size=256m {folder}")
        assert finetune(served_box, **settings).failure == ""
        assert "Training from step 20 on." in inside(served_box, "cat /var/lib/glmbox/jobs/finetune/log")
        assert json.loads(inside(served_box, f"cat {folder}/crowded/glmbox.json"))["sha256"] == weights
    finally:
        inside(served_box, f"umount {folder}")


@pytest.fixture
def advertisegen(tmp_path) -> Iterator[dict[str, object]]:
    """A stand-in for AdvertiseGen in a copy of the bundle: an archive of its layout, with lines of ours."""
    rows = [{"content": question, "summary": TAUGHT} for question in (ASKED, "hello", "hey", "good morning")]
    bundle = box.TEST_BOXES / "advertisegen-bundle"  # on the bundle's disk, for links
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(fill_bundle.BUNDLE, bundle, copy_function=os.link, ignore=shutil.ignore_patterns(".stamps.json"))
    (tmp_path / "AdvertiseGen").mkdir()
    for name, lines in (("train.json", rows * 4), ("dev.json", rows[:2])):
        (tmp_path / "AdvertiseGen" / name).write_text("".join(json.dumps(row) + "\n" for row in lines))
    (bundle / "advertisegen").mkdir()
    with tarfile.open(bundle / "advertisegen" / "AdvertiseGen.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "AdvertiseGen", arcname="AdvertiseGen")
    yield {"fetch_bundle": str(bundle), "fetch_trust_on_first_use": ["advertisegen"], "finetune_serve": False}
    shutil.rmtree(bundle)


@pytest.mark.long
def test_without_own_data_it_is_advertisegen_and_no_other(served_box, advertisegen, tmp_path):
    folder = f"{DIR}/data/AdvertiseGen"
    variables = {**SETTINGS, **advertisegen, "finetune_name": "ads"}
    looked = run_ansible(served_box, playbook=PLAYBOOK, cmdline="--check --diff", extravars=variables)
    assert looked.failure == ""
    refused = finetune(served_box, **advertisegen, finetune_name="ads")
    assert "AdvertiseGen.tar.gz is not the AdvertiseGen that upstream trains with: it has 16 lines" in refused.failure
    assert "set finetune_train_file" in refused.failure
    assert inside(served_box, f"ls -d {folder} 2>/dev/null || true") == ""
    dev = (tmp_path / "AdvertiseGen" / "dev.json").read_bytes()
    expected = {"validation": hashlib.sha256(dev).hexdigest(), "lines": 16}
    trained = finetune(served_box, **advertisegen, finetune_name="ads", __finetune_advertisegen=expected)
    assert trained.failure == ""
    made = json.loads(inside(served_box, f"cat {DIR}/trainings/ads/glmbox.json"))
    assert made["metrics"]["predict_rouge-l"] > 50
    assert inside(served_box, f"ls {folder}").split() == ["dev.json", "train.json"]
    again = finetune(served_box, **advertisegen, finetune_name="ads", __finetune_advertisegen=expected)
    assert (again.failure, again.changed) == ("", [])


def test_two_trainings_at_once(served_box, data):
    outcomes: list[Outcome] = []
    long = {**data, "finetune_serve": False, "finetune_steps": 100000, "finetune_save_steps": 50000}
    first = threading.Thread(target=lambda: outcomes.append(finetune(served_box, **long, finetune_name="long")))
    first.start()
    patience = time.monotonic() + 90
    try:
        while inside(served_box, f"ls {DIR}/trainings").count("long") == 0:
            assert time.monotonic() < patience
            time.sleep(1)
        second = finetune(served_box, **data, finetune_serve=False, finetune_name="other")
        assert "The job finetune runs already" in second.failure
    finally:
        stopped = run_ansible(
            served_box, module="glmbox.box.job", module_args="name=finetune do=stop", host_pattern="all"
        )
        first.join(60)
    assert stopped.status == "successful"
    assert "The job finetune was stopped" in outcomes[0].failure
    assert inside(served_box, "systemctl is-active glmbox-demos") == "active"
