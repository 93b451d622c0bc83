"""A container as a provider rents it, and an inventory that knows nothing of it until it is enrolled.

    python local_box/rented.py up | enrol | restart | reset | down KIND

The box is the test box `rented-KIND`. The inventory is .boxes/molecule-KIND, where the molecule scenario looks for it.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
import sys
import time

import box
from ansible_collections.glmbox.box.plugins.module_utils.questions import request, send

SUITE = "bookworm"
# What renters are given: a password for root, and nothing of ours.
OPEN_UP = """
printf 'PasswordAuthentication yes\\nPermitRootLogin yes\\n' >/etc/ssh/sshd_config.d/01-password.conf
chpasswd
rm /root/.ssh/authorized_keys
kill -HUP "$(cat /run/sshd.pid)"
"""
BACK_SECONDS = 120


class Rented:
    """A container of a kind (see box.KINDS), with the inventory `folder`, in which it is enrolled as box1.

    name: another one than the molecule scenario's, so that both may stand at once.
    """

    def __init__(self, kind: str, name: str = "") -> None:
        self.kind, self.test = kind, f"rented-{name or kind}"
        self.name = box.container(self.test)
        self.folder = box.TEST_BOXES / f"molecule-{name or kind}"
        self.password_file = box.TEST_BOXES / self.test / "password"

    def host(self) -> dict:
        """Return where the container is reached, as the test box's own inventory says it."""
        hosts = json.loads((box.TEST_BOXES / self.test / "hosts.yml").read_text())
        return hosts["all"]["hosts"]["test_box"]

    def inside(self, script: str, **more: str) -> str:
        """Return what a script prints inside the container."""
        command = box.as_root("podman", "exec", "--interactive", self.name, "sh", "-c", script)
        return box.run(*command, **more).stdout.strip()

    def up(self) -> None:
        """Rent it: a fresh container, a password, and an inventory as users have it, with settings that need no GPU."""
        box.start_test_box(self.test, suite=SUITE, kind=self.kind)
        self.password_file.write_text(secrets.token_urlsafe() + "\n")
        self.open_up()
        shutil.rmtree(self.folder, ignore_errors=True)
        # The local box's own key and port are not this one's.
        own = shutil.ignore_patterns("ssh.yml", "gateway.yml")
        shutil.copytree(box.INVENTORY / "group_vars", self.folder / "group_vars", ignore=own)
        rented = box.ROOT / "inventory" / "rented_gpu"
        shutil.copytree(rented / "group_vars" / "enrolled", self.folder / "group_vars" / "enrolled")
        shutil.copy(rented / "hosts.yml", self.folder)
        said = {
            # Its port outside stands in the console alone.
            "autodl": f"gateway_public_port: {self.host()['gateway_public_port']}",
            # /workspace survives only where a volume is mounted, which the operator knows.
            "vast": "box_data_dir: /workspace/glmbox",
        }
        (self.folder / "group_vars" / "all" / "box.yml").write_text(f"---\n{said.get(self.kind, '{}')}\n")

    def open_up(self) -> None:
        """Let the password in, and no key."""
        self.inside(OPEN_UP, input=f"root:{self.password_file.read_text().strip()}\n")

    def enrol(self, *options: str) -> None:
        """Enrol it by its password. options: of ansible-playbook."""
        line = f"ssh -p {self.host()['ansible_port']} root@127.0.0.1"
        given = {"ssh": line, "name": "box1", "password_file": self.password_file, "inventory": self.folder}
        pairs = [f"-e{key}='{value}'" for key, value in given.items()]
        subprocess.run(
            ["ansible-playbook", "playbooks/enroll_box.yml", "--skip-tags=preflight", *pairs, *options],
            cwd=box.ROOT,
            check=True,
        )

    def restart(self) -> None:
        """Stop it and start it again, and wait until the provider's hook has brought the demos back."""
        box.podman("restart", "--time", "10", self.name)
        patience = time.monotonic() + BACK_SECONDS
        while send(request(f"http://127.0.0.1:{self.host()['gateway_public_port']}/healthz"))[0] != 200:
            if time.monotonic() > patience:
                raise box.BoxError("The demos did not come back:\n" + self.inside("glmboxctl status || true"))
            time.sleep(0.5)

    def reset(self) -> None:
        """Give it a new system disk, and enrol it again, with the host key that it has now."""
        box.reset_test_box(self.test, self.kind, SUITE)
        self.open_up()
        self.enrol("-eaccept_new_host_key=true")

    def down(self) -> None:
        """Remove it and its inventory."""
        box.stop_test_box(self.test)
        shutil.rmtree(self.folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A container as a provider rents it.")
    parser.add_argument("what", choices=["up", "enrol", "restart", "reset", "down"])
    parser.add_argument("kind", choices=list(box.KINDS))
    given = parser.parse_args()
    try:
        getattr(Rented(given.kind), given.what)()
    except (box.BoxError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
