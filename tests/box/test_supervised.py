"""A container as AutoDL rents it: supervisord keeps the services running, the provider's hook starts supervisord."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

import box
import pytest
from ansible_collections.glmbox.box.plugins.module_utils.questions import all_answers, request, send
from support import ROOT, run_ansible, site
from test_finetune import finetune

NAME = box.container("supervised")
BACK_SECONDS = 120
# The renter's own, which writes a script.
HOOK = """#!/bin/bash
cat >/root/other.sh <<EOF
#!/bin/sh
EOF
echo mine >>/root/mine
exit 0
"""


@pytest.fixture(scope="module")
def rented():
    """The inventory of a deployed container that answers; the last test removes glmbox from it."""
    inventory = box.start_test_box("supervised", suite="bookworm", kind="autodl")
    inside("sh", "-c", f"cat >/etc/autodl.sh <<'END'\n{HOOK}END")
    looked = site(inventory, "--check", "--diff")
    assert (looked.status, looked.failure) == ("successful", "")
    begun = "ls -d /opt/glmbox /root/autodl-tmp/glmbox /etc/glmbox /var/lib/glmbox /var/log/glmbox 2>/dev/null || true"
    assert inside("sh", "-c", begun) == "" and inside("cat", "/etc/autodl.sh") + "\n" == HOOK
    deployed = site(inventory)
    assert deployed.failure == ""
    yield inventory
    box.stop_test_box("supervised")


def inside(*command: str) -> str:
    """Return what a command prints inside the box."""
    return box.podman("exec", NAME, *command)


def ctl(*arguments: str) -> subprocess.CompletedProcess:
    """Run glmboxctl inside the box, whatever its exit code."""
    command = box.as_root("podman", "exec", NAME, "glmboxctl", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def service(name: str) -> list[str]:
    """Return a service's line of `glmboxctl status`, as words."""
    return next(line.split() for line in ctl("status").stdout.splitlines() if line.startswith(name + " "))


def url() -> str:
    return "http://127.0.0.1:" + box.podman("port", NAME, "6006/tcp").rsplit(":", 1)[1]


def until_ready() -> float:
    """Wait until the demos answer through the mapped port; return the seconds that it took."""
    begun = time.monotonic()
    while send(request(url() + "/healthz"))[0] != 200:
        assert time.monotonic() - begun < BACK_SECONDS, ctl("status").stdout
        time.sleep(0.5)
    return time.monotonic() - begun


def pids(pattern: str) -> list[str]:
    """Return the processes whose command line has this in it."""
    return inside("sh", "-c", f"pgrep -f -- '{pattern}' || true").split()


SUPERVISORD, DEMOS, GATEWAY = "[s]upervisor.supervisord", "[d]emo_host /opt", "[n]ginx: master"


def problems_outside(inventory: Path) -> list[str]:
    token = (inventory / ".state" / "gateway_token").read_text().strip()
    return all_answers(url(), token, "你好")[1]


def test_a_second_look_finds_nothing_to_do(rented):
    looked = site(rented, "--check", "--diff")
    assert (looked.status, looked.failure, looked.changed) == ("successful", "", [])
    assert "Start glmbox-gateway" in looked.tasks


def test_the_hook_brings_everything_back_after_a_restart(rented):
    inside("touch", "/run/glmbox-demos/of-the-time-before")
    box.podman("restart", "--time", "10", NAME)
    print(f"ready {until_ready():.1f} s after the restart")
    assert problems_outside(rented) == []
    assert "of-the-time-before" not in inside("ls", "/run/glmbox-demos")
    assert inside("cat", "/root/other.sh") == "#!/bin/sh"
    assert inside("cat", "/root/mine").split() == ["mine"]  # the renter's own lines of the hook run as before
    before = [pids(pattern) for pattern in (SUPERVISORD, DEMOS, GATEWAY)]
    assert [len(found) for found in before] == [1, 1, 1]
    inside("sh", "-c", "bash /etc/autodl.sh & bash /etc/autodl.sh; wait")
    assert [pids(pattern) for pattern in (SUPERVISORD, DEMOS, GATEWAY)] == before


def test_what_is_killed_comes_back(rented):
    for name, pattern in (("glmbox-demos", DEMOS), ("glmbox-gateway", GATEWAY)):
        (main,) = pids(pattern)
        inside("kill", "-9", main)
        patience = time.monotonic() + BACK_SECONDS
        # A killed master leaves workers behind that hold its port.
        while service(name)[1] != "running" or pids(pattern) in ([main], []):
            assert time.monotonic() < patience, ctl("status").stdout
            time.sleep(0.5)
        assert service(name)[-1] == "1"
    until_ready()
    assert problems_outside(rented) == []


def test_a_new_token_is_a_reload(rented):
    (main,) = pids(GATEWAY)
    renewed = site(rented, "--tags", "gateway", gateway_new_token=True)
    assert renewed.failure == ""
    assert "Start glmbox-gateway" in renewed.changed
    assert pids(GATEWAY) == [main]
    assert problems_outside(rented) == []


@pytest.mark.parametrize(
    ("code", "starts", "last"),
    [(1, 3, "glmbox-trial was started 3 times within 600 s, and is left alone"), (2, 1, "the reason")],
)
def test_a_service_that_fails_is_given_up_and_says_why(rented, code, starts, last):
    """Exit code 2 says that the configuration is wrong, so it is not tried again."""
    trial = {"service_name": "glmbox-trial", "service_restarts": 3, "service_restart_seconds": 1}
    trial["service_command"] = f"/bin/sh -c 'id -un; echo the reason; exit {code}'"
    failed = run_ansible(rented, playbook=str(ROOT / "tests" / "service.yml"), extravars=trial)
    try:
        assert "glmbox-trial.service: it failed" in failed.failure
        assert "the reason" in failed.failure
        assert service("glmbox-trial")[1] == "failed"
        log = ctl("logs", "trial").stdout
        assert log.count("the reason") == log.count("glmbox\n") == starts
        assert log.rstrip().endswith(last)
    finally:
        trial["service_wanted"] = False
        gone = run_ansible(rented, playbook=str(ROOT / "tests" / "service.yml"), extravars=trial)
    assert gone.failure == ""
    assert "glmbox-trial" not in ctl("status").stdout
    inside("rm", "/var/log/glmbox/glmbox-trial.log")


def test_glmboxctl_stops_and_starts(rented):
    assert ctl("status").returncode == 0
    assert ctl("stop", "gateway").returncode == 0
    assert service("glmbox-gateway")[1] == "stopped"
    assert ctl("status").returncode == 1
    assert send(request(url() + "/healthz"))[0] == 0
    assert ctl("start", "gateway").returncode == 0
    until_ready()
    assert '"GET /healthz" 200' in ctl("logs", "-n", "5", "gateway").stdout
    assert "There is no service glmbox-nonsense; there are glmbox-demos" in ctl("restart", "nonsense").stderr


def test_a_killed_supervisord_is_started_by_hand_and_takes_its_services_back(rented):
    (main,), (host,) = pids(SUPERVISORD), pids(DEMOS)
    inside("kill", "-9", main)
    assert ctl("status").returncode == 1
    assert ctl("start").returncode == 0
    # The old one answers until the new one's launcher has ended it.
    patience = time.monotonic() + BACK_SECONDS
    while host in pids(DEMOS):
        assert time.monotonic() < patience, ctl("status").stdout
        time.sleep(0.2)
    until_ready()
    (again,) = pids(DEMOS)
    assert again != host
    assert problems_outside(rented) == []


@pytest.mark.long
def test_a_lease_ends_as_the_profile_says(rented):
    """AutoDL's own way to stop is a stand-in here, which notes that it was called."""
    stop = "printf '#!/bin/sh\necho called >>/root/stopped\n' >/usr/bin/shutdown; chmod 755 /usr/bin/shutdown"
    inside("sh", "-c", stop)
    wanted = site(rented, "--tags", "lease", box_provider="autodl", lease_hours=1, __lease_tick_seconds=0.5)
    assert wanted.failure == ""
    assert service("glmbox-lease")[1] == "running"
    assert "It ends in 1 h" in ctl("status").stdout
    inside("glmbox-lease", "off")
    inside("glmbox-lease", "+2s")
    patience = time.monotonic() + 60
    while not inside("sh", "-c", "cat /root/stopped 2>/dev/null || true"):
        assert time.monotonic() < patience, inside("glmbox-lease")
        time.sleep(0.5)
    assert site(rented, "--tags", "lease").failure == ""
    assert "glmbox-lease" not in ctl("status").stdout
    inside("rm", "-f", "/usr/bin/shutdown", "/root/stopped", "/var/log/glmbox/glmbox-lease.log")


@pytest.mark.long
def test_the_demos_make_room_for_a_training_and_come_back_when_it_is_killed(rented, tmp_path):
    rows = [{"content": question, "summary": "I am tuned."} for question in ("hi", "hello")]
    (tmp_path / "train.json").write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    checkpoint = "/root/autodl-tmp/glmbox/finetune/trainings/adgen/checkpoint-20/glmbox.json"
    kill = f"""
    until [ -e {checkpoint} ]; do sleep 0.05; done
    glmboxctl status | grep glmbox-demos
    kill -s KILL -- -$(sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p' /var/lib/glmbox/jobs/finetune/pid.json)
    """
    said: list[str] = []
    killer = threading.Thread(target=lambda: said.append(inside("sh", "-c", kill)))
    killer.start()
    variables = {"finetune_demos": "stop", "finetune_serve": False, "finetune_train_file": str(tmp_path / "train.json")}
    died = finetune(rented, **variables)
    killer.join(60)
    assert "died without an end" in died.failure
    assert said[0].split()[1] == "stopped"
    assert "train | Start the demos again" not in died.changed
    until_ready()
    again = finetune(rented, **variables)
    assert again.failure == ""
    until_ready()
    assert problems_outside(rented) == []
    inside("rm", "-r", "/root/autodl-tmp/glmbox/finetune")


def test_removing_leaves_nothing_behind(rented):
    remove = {"playbook": str(ROOT / "playbooks" / "remove_box.yml")}
    # As a training leaves it: the operator's lines, and what was learned from them.
    learned = "/root/autodl-tmp/glmbox/finetune"
    made = f"mkdir -p {learned}/data/0 {learned}/trainings/a; echo mine >{learned}/data/0/train.json"
    inside("sh", "-c", f"{made}; echo learned >{learned}/trainings/a/loss.json")
    removed = run_ansible(rented, **remove)
    assert removed.failure == ""
    assert inside("ls", learned) == "trainings"
    left = "ls -A /opt /etc /run /tmp /usr/local/bin /var/log; getent passwd; cat /etc/autodl.sh; ps -eo args"
    assert "glmbox" not in inside("sh", "-c", left).replace("glmbox-test", "")
    assert inside("stat", "-c", "%a", "/root") == "700"
    # Not by getfacl: it came with a package that has gone again.
    rights = "import os; print(os.listxattr('/root'))"
    assert "posix_acl" not in inside("python3", "-c", rights)
    assert inside("cat", "/etc/autodl.sh") + "\n" == HOOK
    assert inside("ls", "-A", "/root/autodl-tmp/glmbox").split() == ["artifacts", "build", "cache", "finetune"]
    assert run_ansible(rented, **remove).changed == []
