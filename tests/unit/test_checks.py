"""Inputs, hosts and the plan: every wrong thing its sentence."""

from __future__ import annotations

import pytest
from ansible_collections.glmbox.box.plugins.module_utils import host, inputs
from ansible_collections.glmbox.box.plugins.module_utils.plan import PlanError, plan

OPTIONS = {
    "python_version": {"type": "str", "required": True, "description": "x."},
    "python_jobs": {"type": "int", "default": 0, "description": "x."},
    "python_mode": {"type": "str", "choices": ["a", "b"], "default": "a", "description": "x."},
}


def test_all_values_are_held_against_the_specs_at_once():
    problems = inputs.value_problems(OPTIONS, {"python_jobs": "many", "python_mode": "c"})
    assert sorted(problems) == ["python_jobs", "python_mode", "python_version"]
    assert all(name in sentence for name, sentence in problems.items())
    assert inputs.value_problems(OPTIONS, {"python_version": "3.10.20", "python_jobs": "4"}) == {}


def test_a_bad_value_that_is_handed_on_is_told_once():
    wrong = {"demos_device": "Of demos.", "finetune_device": "Of finetune.", "python_mode": "Of python."}
    handed_on = {"demos_device": "tpu", "finetune_device": "{{ demos_device }}", "python_mode": "{{ box_mode }}"}
    assert inputs.without_echoes(wrong, handed_on) == ["Of demos.", "Of python."]


def test_a_mistyped_name_gets_a_suggestion():
    (problem,) = inputs.unknown_names(
        {"python": OPTIONS}, ["python_verison", "python_jobs", "ansible_python_interpreter"]
    )
    assert problem == "No role reads the variable python_verison. Did you mean python_version?"


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("root@h: Permission denied (publickey).", "refuses the login"),
        ("ssh: connect to host h port 1: Connection refused", "nothing listens"),
        ("ssh: connect to host h port 1: Connection timed out", "no answer in time"),
        ("Host key verification failed.", "ssh-keygen -R"),
        ("Could not resolve hostname h: Name or service not known", "does not resolve"),
        ("Connection timed out during banner exchange", "no answer in time"),
        ("kex_exchange_identification: banner exchange: invalid format", "does not speak SSH"),
        ("something new", "something new"),
    ],
)
def test_a_box_that_does_not_answer_is_one_sentence(said, part):
    sentence = host.unreachable(said, "203.0.113.7:16116")
    assert sentence.startswith("203.0.113.7:16116 does not answer: ")
    assert part in sentence
    assert "\n" not in sentence


def test_the_boxes_python():
    assert host.python_problem("a motd that talks\nglmbox 3 8\n", "/usr/bin/python3", "2.19.14") == ""
    assert "Run glmbox with Python 3.11" in host.python_problem("glmbox 3 8\n", "/usr/bin/python3", "2.21.5")
    assert "is Python 3.6" in host.python_problem("glmbox 3 6\n", "/usr/bin/python3", "2.19.14")
    assert "is missing" in host.python_problem("", "/usr/bin/python3", "2.19.14")
    assert "is missing" in host.python_problem("bash: /usr/bin/python3: no such file\n", "/usr/bin/python3", "2.19.14")
    assert "is conda's Python" in host.python_problem("glmbox 3 11 conda\n", "/root/miniconda3/bin/python", "2.19.14")


@pytest.mark.parametrize(
    ("before", "part"),
    [
        ("", ""),
        ("Welcome\n", ""),
        ("[notice] it listens\n\n", ""),
        ("Welcome ", "prints `Welcome`"),
        ("{a brace}\n", "prints `{a brace}`"),
        ("Welcome\n  {", "prints `{`"),
    ],
)
def test_a_login_shell_may_print_what_ansible_can_tell_apart(before, part):
    said = host.python_problem(before + "glmbox 3 9\n", "/usr/bin/python3", "2.19.14")
    assert bool(said) == bool(part)
    assert part in said


@pytest.mark.parametrize(
    ("interpreter", "fine"),
    [
        ("/usr/bin/python3", True),
        ("/opt/x/bin/python", True),
        ("auto", False),
        ("auto_silent", False),
        ("python3", False),
    ],
)
def test_nobody_looks_for_the_boxes_python(interpreter, fine):
    assert (host.interpreter_problem(interpreter) == "") == fine


def test_a_slow_login_shell_is_named():
    slow = {"seconds": 1.9, "file": "/root/.bashrc", "line": 12}
    assert host.shell_note(0.2, slow) == ""
    assert "takes 2.4 s before" in host.shell_note(2.41, slow)
    assert "1.9 s of it in /root/.bashrc, line 12." in host.shell_note(2.41, slow)
    assert "1.9 s of it in /etc/zsh/zshenv." in host.shell_note(2.41, {**slow, "file": "/etc/zsh/zshenv", "line": 0})
    assert "the link is slow" in host.shell_note(8.0, slow)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/data/glmbox", ""),
        ("/var/lib/glmbox/data", ""),
        ("data/glmbox", "not an absolute path"),
        ("~/glmbox", "not an absolute path"),
        ("/opt", "such as /opt/glmbox"),
    ],
)
def test_a_folder_is_our_own(path, part):
    problems = host.folder_problems({"box_data_dir": path})
    assert part in "".join(problems)
    assert bool(problems) == bool(part)


@pytest.mark.parametrize("on", ["/data/glmbox", "/data/glmbox/", "/data"])
def test_a_folder_that_is_removed_whole_holds_none_that_is_kept(on):
    problems = host.folder_problems({"box_install_on": on, "box_data_dir": "/data/glmbox"})
    assert f"box_install_on is {on}, and box_data_dir (/data/glmbox) lies in it" in problems[-1]
    assert host.folder_problems({"box_install_on": "/data/glmbox/opt", "box_data_dir": "/data/glmbox"}) == []
    assert host.folder_problems({"box_state_dir": "/d/glmbox", "box_data_dir": "/d/glmbox/data"}) == []


def test_systemds_units_see_no_home_and_supervisords_programs_do():
    folders = {"box_data_dir": "/root/autodl-tmp/glmbox", "box_log_dir": "/var/log/glmbox"}
    (problem,) = host.hidden_problems(folders, "systemd")
    assert "services see nothing below /root" in problem
    assert host.hidden_problems(folders, "none") == []


@pytest.mark.parametrize(
    ("name", "value", "fine"),
    [
        ("gateway_port", 99999, False),
        ("gateway_port", "3389", True),
        ("demos_queue_limit", -1, False),
        ("fetch_connections", 17, False),
        ("gateway_max_body", "junk", False),
        ("gateway_max_body", "1m", True),
        ("gateway_listen", "everywhere", False),
        ("box_apt_mirror", "", True),
        ("box_apt_mirror", "http://mirrors.aliyun.com", True),
        ("box_apt_mirror", "mirrors.aliyun.com", False),
        ("box_http_proxy", "http://user:pass@10.0.0.1:3128", True),
        ("box_https_proxy", 'http://a";Acquire::x "b', False),
        ("gateway_public_url", "203.0.113.7", False),
    ],
)
def test_numbers_have_ranges_and_texts_have_shapes(name, value, fine):
    problems = inputs.range_problems({name: value})
    assert (problems == []) is fine
    shown = "no such thing" if "proxy" in name else value  # which may hold a login
    assert all(problem.startswith(f"{name} is {shown}; it has to be") for problem in problems)


FACTS = {
    "distribution": "ubuntu",
    "distribution_version": "22.04",
    "architecture": "x86_64",
    "is_root": True,
    "init": "systemd",
    "present": [],
    "listeners": [{"address": "0.0.0.0", "port": 22}],
    "disks": {"/opt": {"device": 1, "free_mib": 10000}, "/data": {"device": 1, "free_mib": 10000}},
    "gpus": [{"name": "RTX 4090", "memory_mib": 24564, "driver": "535.54.03", "compute_capability": "8.9"}],
    "gpu_problem": "",
    "glibc": "2.35",
    "memory_mib": 64000,
    "has_compiler": True,
    "compiler": "gcc 11",
}
WISH = {
    "disk_needs": [{"path": "/opt", "mib": 4000, "what": "one"}, {"path": "/data", "mib": 4000, "what": "two"}],
    "ports": [
        {"name": "gateway_port", "port": "3389", "unit": ["/etc/ours"]},
        {"name": "x", "port": 8100, "unit": ["/etc/x", "/etc/y"]},
    ],
    "other_ports": [],
    "needs_gpu": True,
    "model": "chatglm2-6b",
    "device": "cuda",
    "precision": "auto",
    "torch": "2.0.1",
}


def test_a_good_box_has_no_problem():
    assert host.host_problems(FACTS, WISH) == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"distribution_version": "18.04"}, "ubuntu 18.04"),
        ({"distribution": "centos"}, "centos"),
        ({"architecture": "aarch64"}, "aarch64"),
        ({"is_root": False}, "ansible_become"),
        ({"listeners": [{"address": "127.0.0.1", "port": 3389}]}, "Port 3389 is taken"),
        ({"gpus": [], "gpu_problem": "nvidia-smi is not on PATH"}, "nvidia-smi is not on PATH"),
        ({"gpus": [FACTS["gpus"][0] | {"driver": "440.33"}]}, "older than 450.80.02"),
        (
            {"gpus": [FACTS["gpus"][0] | {"name": "RTX 5090", "compute_capability": "12.0"}]},
            "no kernels for the RTX 5090",
        ),
        (
            {"gpus": [FACTS["gpus"][0] | {"name": "GRID K520", "compute_capability": "3.0"}]},
            "no kernels for the GRID K520 any more",
        ),
        ({"compiler": ""}, "compiler (cc) does not run"),
        ({"memory_mib": 700}, "700 MiB of memory"),
        ({"gpus": [FACTS["gpus"][0] | {"memory_mib": 6144}]}, "rent a card with 8 GiB"),
        ({"gpus": [FACTS["gpus"][0] | {"memory_mib": 0}]}, "does not tell the memory"),
    ],
)
def test_each_thing_in_the_way_is_a_sentence(change, part):
    (problem,) = host.host_problems({**FACTS, **change}, WISH)
    assert part in problem


def test_everything_in_the_way_comes_at_once():
    facts = FACTS | {"architecture": "aarch64", "is_root": False, "gpus": [], "gpu_problem": "none"}
    assert len(host.host_problems(facts, WISH)) == 3


def test_our_own_port_is_no_problem_and_anothers_is():
    listeners = [{"address": "0.0.0.0", "port": 3389}, {"address": "127.0.0.1", "port": 8100}]
    facts = FACTS | {"listeners": listeners, "present": ["/etc/ours"]}
    (problem,) = host.host_problems(facts, WISH)
    assert problem == "Port 8100 is taken by something else on the box. Stop it, or set x."
    assert host.host_problems(facts | {"present": ["/etc/ours", "/etc/x"]}, WISH) == []


def test_a_hopper_card_has_no_int4():
    facts = FACTS | {"gpus": [FACTS["gpus"][0] | {"name": "H100", "compute_capability": "9.0"}]}
    assert host.host_problems(facts, WISH) == []
    (problem,) = host.host_problems(facts, WISH | {"precision": "int4"})
    assert "no int4 kernels for the H100" in problem


def test_newer_torch_needs_a_newer_glibc():
    old = FACTS | {"glibc": "2.27"}
    assert host.host_problems(old, WISH) == []
    (problem,) = host.host_problems(old, WISH | {"torch": "2.7.1"})
    assert "torch 2.7.1+cu118 needs glibc 2.28, and the box has 2.27" in problem
    assert host.host_problems(FACTS, WISH | {"torch": "2.7.1"}) == []


@pytest.mark.parametrize(
    ("change", "wish", "part"),
    [
        ({"gpus": [FACTS["gpus"][0] | {"driver": "470.82.01"}]}, {}, "470.82.01 is older than 520.61.05"),
        ({"gpus": [FACTS["gpus"][0] | {"driver": "520.61.05"}]}, {}, ""),
        (
            {"gpus": [], "gpu_problem": "nvidia-smi is not on PATH"},
            {"needs_gpu": False},
            "which preparing needs not",
        ),
        ({"gpus": [], "gpu_problem": "none"}, {"needs_gpu": False, "device": "cpu"}, ""),
        ({"memory_mib": 2048}, {"device": "cpu"}, "With 2048 MiB of memory"),
        ({"init": "none"}, {}, "supervisord keeps the services running"),
        ({}, {}, ""),
    ],
)
def test_what_is_worth_knowing_is_a_note(change, wish, part):
    notes = host.host_notes({**FACTS, **change}, WISH | wish)
    assert len(notes) == (1 if part else 0)
    assert part in "".join(notes)


def test_prepare_needs_no_gpu():
    assert host.host_problems(FACTS | {"gpus": [], "gpu_problem": "none"}, WISH | {"needs_gpu": False}) == []


def test_what_shares_a_disk_is_summed():
    facts = FACTS | {"disks": {path: {"device": 1, "free_mib": 8799} for path in ("/opt", "/data")}}
    (problem,) = host.host_problems(facts, WISH)
    assert "8799 MiB free and 8800 are needed (one 4000, two 4000" in problem
    apart = {"/opt": {"device": 1, "free_mib": 4400}, "/data": {"device": 2, "free_mib": 4400}}
    assert host.host_problems(FACTS | {"disks": apart}, WISH) == []


@pytest.mark.parametrize(
    ("card_mib", "wished", "precision"),
    [
        (24564, "auto", "fp16"),
        (15109, "auto", "fp16"),  # Tesla T4
        (12288, "auto", "int8"),  # RTX 3060
        (10240, "auto", "int8"),
        (8192, "auto", "int4"),
        (24564, "int4", "int4"),
    ],
)
def test_the_plan_takes_the_best_that_fits(card_mib, wished, precision):
    assert plan("chatglm2-6b", "cuda", wished, [card_mib], 0)["precision"] == precision


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("chatglm2-6b", "cuda", "auto", [6144], 0), "rent a card with 8 GiB or more"),
        (("chatglm2-6b", "cuda", "fp16", [12288], 0), "set demos_precision to int8"),
        (("chatglm2-6b", "cuda", "fp32", [81920], 0), "for the CPU"),
        (("miniature", "cpu", "int4", [], 0), "needs a GPU"),
        (("chatglm2-6b", "cuda", "int8", [8192, 8192], 0), "set demos_precision to int4"),
        (("chatglm2-6b-int4", "cuda", "fp16", [24564], 0), "is int4 alone"),
        (("chatglm2-6b", "cuda", "auto", [], 0), "the card has 0"),
    ],
)
def test_a_plan_that_does_not_fit_says_what_would(arguments, part):
    with pytest.raises(PlanError, match=part):
        plan(*arguments)


def test_the_plan_on_a_cpu_and_for_a_small_model():
    assert plan("miniature", "cpu", "auto", [], 0)["precision"] == "fp32"
    assert plan("miniature", "cuda", "auto", [2048], 0)["precision"] == "fp16"


@pytest.mark.parametrize(
    ("cards_mib", "wished", "precision", "cards"),
    [
        ([24564, 24564], "auto", "fp16", [0]),
        ([8192, 24564], "auto", "fp16", [1]),  # the largest, wherever it is
        ([12288, 12288], "auto", "fp16", [0, 1]),  # before it is quantized for one of them
        ([6144, 12288, 12288], "fp16", "fp16", [1, 2]),
        ([6144, 6144, 6144, 6144], "auto", "fp16", [0, 1, 2, 3]),
        ([8192, 2048], "auto", "int4", [0]),
        ([12288, 12288], "int8", "int8", [0]),
    ],
)
def test_the_plan_on_several_cards(cards_mib, wished, precision, cards):
    chosen = plan("chatglm2-6b", "cuda", wished, cards_mib, 0)
    assert (chosen["precision"], chosen["cards"]) == (precision, cards)
    assert chosen["needs_mib"] <= min(cards_mib[card] for card in cards)
    visible = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, cards))}
    assert chosen["environment"] == visible


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        (("chatglm2-6b", "cuda", "auto", [24564], 0), False),
        (("chatglm2-6b", "cuda", "auto", [40960], 0), True),
        (("chatglm2-6b", "cuda", "int4", [24564], 0), True),
        (("chatglm2-6b", "cuda", "int4", [16384], 0), False),  # float16 may be running
        (("chatglm2-6b", "cuda", "auto", [12288, 12288], 0), False),
        (("chatglm2-6b", "cpu", "auto", [], 65535), False),
        (("chatglm2-6b", "cpu", "auto", [], 65536), True),
        (("miniature", "cpu", "auto", [], 2000), True),
        (("miniature", "cuda", "auto", [2048], 0), True),
    ],
)
def test_the_plan_says_whether_a_second_copy_fits(arguments, fits):
    assert plan(*arguments)["second_copy"] is fits


def test_who_holds_a_port_is_named_and_the_providers_other_port_too():
    board = {"address": "0.0.0.0", "port": 6006, "program": "tensorboard (process 71)"}
    ports = [{"name": "gateway_port", "port": 6006, "unit": "/etc/ours"}]
    (problem,) = host.host_problems(FACTS | {"listeners": [board]}, WISH | {"ports": ports, "other_ports": [6008]})
    assert problem == (
        "Port 6006 is taken by something else on the box: tensorboard (process 71). Stop it, or set gateway_port to "
        "another port that is mapped (6008)."
    )


def test_activate_alone_needs_a_prepared_box():
    prepared = ["/opt/glmbox/venv", "/usr/sbin/nginx"]
    (problem,) = host.unprepared_problems({"activate"}, set(), prepared, ["/opt/glmbox/venv"])
    assert "has no /usr/sbin/nginx. Run site.yml with --tags prepare" in problem
    assert host.unprepared_problems({"all"}, {"prepare"}, prepared, []) != []
    assert host.unprepared_problems({"activate"}, set(), prepared, prepared) == []
    assert host.unprepared_problems({"all"}, {"activate"}, prepared, []) == []
    for tags in ({"all"}, {"prepare"}, {"prepare", "activate"}, {"gateway"}):
        assert host.unprepared_problems(tags, set(), prepared, []) == []
