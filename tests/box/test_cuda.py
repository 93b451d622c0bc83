"""The CUDA toolkit on a box: installed whole, healed, used where it is there, and never at the driver's cost.

Stand-ins: the box's driver (a script nvidia-smi, files named like libcuda, packages without content), and the runfile's
installer (tests/runfile). The nvcc in it is NVIDIA's own 11.8.89, and what it compiles is looked at.
The tests are the life of one box, in order.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import box
import fill_bundle
import pytest
import yaml
from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of
from support import ROOT, Outcome, run_ansible, site

sys.path.insert(0, str(ROOT / "tests" / "runfile"))

import runfile  # noqa: E402

RUNFILE = "cuda-11.8.0/cuda_11.8.0_520.61.05_linux.run"
TOOLKIT = "/usr/local/cuda-11.8"
STATE = "/var/lib/glmbox/cuda"
SCRATCH = ROOT / ".boxes" / "cuda-files"
PATIENCE_SECONDS = 120
DRIVER = r"""
set -e
cat >/usr/bin/nvidia-smi <<'END'
#!/bin/sh
case "$1" in
    *=driver_version) echo 535.104.05 ;;
    *=compute_cap) echo 8.6 ;;
    *) echo 'NVIDIA GeForce RTX 3090, 24576, 535.104.05' ;;
esac
END
chmod +x /usr/bin/nvidia-smi
cd /usr/lib/x86_64-linux-gnu
echo 'the driver' >libcuda.so.535.104.05
ln -s libcuda.so.535.104.05 libcuda.so.1
echo 'its manager' >libnvidia-ml.so.535.104.05
mkdir -p /srv/repo && cd /srv/repo
for name in nvidia-driver-535 libnvidia-compute-535 nvidia-utils-535; do
    for version in 535.104.05-0 535.183.01-0; do
        mkdir -p work/DEBIAN
        printf 'Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: a test\nDescription: stub\n' \
            $name $version >work/DEBIAN/control
        dpkg-deb --build work $name-$version.deb >/dev/null
        rm -r work
    done
    dpkg -i $name-535.104.05-0.deb >/dev/null
    dpkg-deb -f $name-535.183.01-0.deb >>Packages
    printf 'Filename: ./%s-535.183.01-0.deb\nSize: %s\nSHA256: %s\n\n' $name \
        "$(stat -c %s $name-535.183.01-0.deb)" "$(sha256sum $name-535.183.01-0.deb | cut -d ' ' -f 1)" >>Packages
done
echo 'deb [trusted=yes] file:/srv/repo ./' >/etc/apt/sources.list.d/driver.list
echo nvidia-utils-535 hold | dpkg --set-selections
# A toolkit that the image brings, and the link to it.
mkdir -p /usr/local/cuda-12.1/bin
ln -s /usr/local/cuda-12.1 /usr/local/cuda
"""


@dataclass
class Box:
    """The box of these tests."""

    inventory: Path
    settings: dict[str, str | bool]

    def inside(self, script: str) -> str:
        """Return what a script prints inside the box, run past SSH."""
        return box.podman("exec", box.container("cuda"), "sh", "-c", script)

    def code(self, script: str) -> tuple[int, str]:
        """Return the exit code of a script inside the box, and what it says."""
        ended = subprocess.run(
            box.as_root("podman", "exec", box.container("cuda"), "sh", "-c", script),
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    def site(self, *options: str, tags: str = "box,cuda", **variables) -> Outcome:
        """Run site.yml's part that is about the toolkit."""
        return site(self.inventory, "--tags", tags, *options, **{**self.settings, **variables})

    def role(self, *options: str, where: str = TOOLKIT, **variables) -> Outcome:
        """Run the role alone, with variables that site.yml would not take."""
        given = {"cuda_toolkit": True, "cuda_dir": where, "cuda_state_dir": f"{STATE}{where.replace('/', '-')}"}
        play = {
            "hosts": "all",
            "gather_facts": False,
            # As where Ansible becomes root by sudo.
            "environment": {"SUDO_USER": "renter"},
            "tasks": [
                {"name": "Read what the box is", "glmbox.box.box_facts": {}},
                *(
                    {
                        "name": name,
                        "ansible.builtin.import_role": {"name": "cuda", "tasks_from": part},
                        "vars": {**given, **variables},
                    }
                    for name, part in (("Begin to install", "main"), ("Wait", "wait"))
                ),
            ],
        }
        # Beside the project's playbooks, whose group_vars it takes; ignored by git.
        path = SCRATCH / "play.yml"
        path.write_text(yaml.safe_dump([play]))
        link = SCRATCH / "group_vars"
        if not link.is_symlink():
            link.symlink_to(ROOT / "playbooks" / "group_vars")
        known = {"box_providers": str(ROOT / "providers")}
        return run_ansible(self.inventory, playbook=str(path), cmdline=" ".join(options) or None, extravars=known)

    def driver(self) -> str:
        """Return all that could be told of the stub driver."""
        return self.inside(
            "cat /usr/bin/nvidia-smi /usr/lib/x86_64-linux-gnu/lib[cn][uv]*.535.*; "
            "stat -c '%n %Y %s' /usr/bin/nvidia-smi /usr/lib/x86_64-linux-gnu/lib[cn][uv]*.535.*; "
            "dpkg-query -W -f '${Package} ${Version}\\n' '*nvidia*'"
        )

    def holds(self) -> list[str]:
        return self.inside("apt-mark showhold").split()


@pytest.fixture(scope="module")
def on() -> Iterator[Box]:
    archive = runfile.ensure()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    # A bundle and a catalogue of this test's own: the project's tables know NVIDIA's runfile alone.
    link = shutil.ignore_patterns(".stamps.json", ".jobs")
    shutil.copytree(fill_bundle.BUNDLE, SCRATCH / "bundle", copy_function=os.link, ignore=link)
    (SCRATCH / "bundle" / RUNFILE).parent.mkdir()
    shutil.copy(archive, SCRATCH / "bundle" / RUNFILE)
    shutil.copytree(ROOT / "artifacts", SCRATCH / "artifacts", ignore=shutil.ignore_patterns("cuda.yml"))
    name, path = RUNFILE.split("/")
    file = {"path": path, "size": archive.stat().st_size, "sha256": sha256_of(str(archive))}
    (SCRATCH / "artifacts" / "cuda.yml").write_text(yaml.safe_dump({name: {"files": [file]}}))
    inventory = box.start_test_box("cuda", options=("--mount", "type=tmpfs,destination=/small,tmpfs-size=64m"))
    settings = {
        "cuda_toolkit": True,
        "fetch_bundle": str(SCRATCH / "bundle"),
        "fetch_catalogue": str(SCRATCH / "artifacts"),
    }
    one = Box(inventory, settings)
    one.inside(DRIVER)
    yield one
    box.stop_test_box("cuda")
    shutil.rmtree(SCRATCH)


def bare(on: Box) -> str:
    return on.inside("ls -A / /opt /etc /etc/profile.d /var/lib /usr/local /usr/local/cuda/; dpkg -l | wc -l")


def test_the_runfile_refuses_what_nvidias_does(on):
    """The first half, on a box without libxml2."""
    box.podman("cp", str(SCRATCH / "bundle" / RUNFILE), f"{box.container('cuda')}:/root/cuda.run")
    before = bare(on)
    code, said = on.code("sh /root/cuda.run --silent --toolkit --no-driver")
    assert (code, "Unknown option: --no-driver" in said) == (1, True)
    code, said = on.code("sh /root/cuda.run --silent --toolkit")
    assert (code, "libxml2.so.2: cannot open shared object file" in said) == (127, True)
    assert "Cannot create target directory /nowhere/" in on.code("sh /root/cuda.run --tmpdir=/nowhere")[1]
    assert bare(on) == before


def test_check_mode_on_a_bare_box_says_what_would_be_done(on):
    before = bare(on)
    looked = on.site("--check", "--diff")
    assert (looked.status, looked.failure) == ("successful", "")
    assert {"Fetch the artifacts", "toolkit | Begin to install or prove it"} <= set(looked.changed)
    assert 'case ":${PATH}:" in' in looked.output
    assert bare(on) == before


def test_a_disk_too_small_is_told_with_numbers(on):
    before = bare(on)
    checked = on.site(cuda_tmp_dir="/small/glmbox")
    assert "The disk of /small/glmbox has 64 MiB free and 4730 are needed (unpacking" in checked.failure
    alone = on.role(cuda_tmp_dir="/small/glmbox")
    assert (
        "The CUDA toolkit needs 4300 MiB on the disk of /small/glmbox/cuda-runfile (/small/glmbox/cuda-runfile 4300), "
        "beside its runfile, and 64 are free. Free some, or set cuda_tmp_dir" in alone.failure
    )
    assert (checked.changed, alone.changed, bare(on)) == ([], [], before)


def test_a_folder_that_is_not_glmboxs_is_left_alone(on):
    on.inside(f"mkdir {TOOLKIT}; echo precious >{TOOLKIT}/thesis.txt")
    refused = on.role()
    assert f"{TOOLKIT} is there, is not glmbox's, and is no CUDA toolkit whose nvcc says V11.8.89." in refused.failure
    assert "Move it away, or set cuda_dir to another folder" in refused.failure
    assert refused.changed == []
    assert on.inside(f"ls -A {TOOLKIT}; cat {TOOLKIT}/thesis.txt") == "thesis.txt\nprecious"
    on.inside(f"rm -r {TOOLKIT}")


def test_a_run_that_is_killed_half_way_is_healed_by_the_next(on):
    """Killed with all that it had started, as by a box that runs out of memory; somebody else's log lies around."""
    driver = on.driver()
    on.inside("touch /root/cuda-installer.wait; echo old >/tmp/cuda-installer.log; chown 1 /tmp/cuda-installer.log")
    command = ["ansible-playbook", "site.yml", "-i", str(on.inventory), "--tags", "box,cuda"]
    settings = [option for name, value in on.settings.items() for option in ("-e", f"{name}={value}")]
    process = subprocess.Popen([*command, *settings], cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not on.inside("ls /usr/local/cuda-11.8/bin/ptxas 2>/dev/null || true"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = "grep -lE '[J]OB_DIR=/var/lib/glmbox/jobs/cuda' -az /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3"
    on.inside(f'while pids=$({left}); [ "$pids" ]; do kill -9 $pids 2>/dev/null; sleep 0.1; done')
    on.inside(f"rm /root/cuda-installer.wait; touch {TOOLKIT}/half")
    assert on.code(f"{TOOLKIT}/nvvm/bin/cicc --version")[0] == 127

    healed = on.site()
    assert (healed.failure, healed.status) == ("", "successful")
    assert "nvcc V11.8.89" in on.inside("cat /var/lib/glmbox/jobs/cuda/log")
    assert on.code(f"ls {TOOLKIT}/half {TOOLKIT}/include/cuda_runtime.h")[0] != 0
    assert on.driver() == driver


def test_the_toolkit_is_whole_and_stands_nowhere_else(on):
    assert "V11.8.89" in on.inside("bash -lc 'cd / && nvcc --version'")
    assert on.inside("bash -lc 'bash -lc \"echo \\$LD_LIBRARY_PATH\"'") == f"{TOOLKIT}/lib64"
    kernel = 'extern "C" __global__ void f(float *x) { x[0] = sinf(x[0]); }'
    compiled = on.inside(f"cd /tmp; echo '{kernel}' >f.cu; {TOOLKIT}/bin/nvcc -ptx -arch=sm_86 f.cu; cat f.ptx")
    assert ".target sm_86" in compiled and ".visible .entry f(" in compiled
    assert "V11.8.89" in on.inside(f"runuser -u nobody -- {TOOLKIT}/bin/nvcc --version")
    # What NVIDIA's runfile does beside its folder.
    assert on.inside("readlink /usr/local/cuda") == "/usr/local/cuda-12.1"
    assert on.code("ls /usr/share/man/man1/nvcc.1")[0] != 0
    assert on.inside("ls -A /var/lib/glmbox/data/build; ls /tmp/cuda-installer.log 2>/dev/null || true") == ""
    assert "[INFO]: Done" in on.inside("cat /var/log/glmbox/cuda-installer.log")
    assert on.code("ls /var/log/cuda-installer.log")[0] != 0


def test_apt_can_no_longer_upgrade_the_driver(on):
    assert on.holds() == ["libnvidia-compute-535", "nvidia-driver-535", "nvidia-utils-535"]
    simulated = on.inside("apt-get -s dist-upgrade")
    assert "Inst nvidia" not in simulated and "nvidia-driver-535" in simulated


def test_a_second_run_looks_once_and_changes_nothing(on):
    """And misses no runfile: who needs the room may delete it."""
    shelf = f"/var/lib/glmbox/data/artifacts/{RUNFILE}"
    on.inside(f"mv {shelf} /root/kept.run")
    again = on.site()
    assert (again.status, again.failure, again.changed) == ("successful", "", [])
    assert "toolkit | Begin to install or prove it" not in again.tasks
    assert again.result("Look at the toolkit")["finished"]
    looked = on.site("--check", "--diff")
    assert (looked.status, looked.failure, looked.changed) == ("successful", "", [])
    on.inside(f"! ls {shelf}; mv /root/kept.run {shelf}")


def test_what_is_damaged_later_is_installed_anew(on):
    on.inside(f"rm {TOOLKIT}/nvvm/bin/cicc; touch {TOOLKIT}/bin/nvcc")
    mended = on.site()
    assert mended.failure == ""
    assert "is damaged, so it is installed anew." in on.inside("cat /var/lib/glmbox/jobs/cuda/log")
    assert on.code(f"ls {TOOLKIT}/nvvm/bin/cicc")[0] == 0
    assert on.inside("readlink /usr/local/cuda") == "/usr/local/cuda-12.1"


def test_the_runfile_fails_as_nvidias_does(on):
    """The second half, on a box that has what it needs."""
    on.inside("echo old >/var/log/cuda-installer.log; chown 1 /var/log/cuda-installer.log; mv /usr/bin/gcc /root/")
    run = "sh /root/cuda.run --silent --toolkit --toolkitpath=/opt/cuda"
    assert on.code(run)[0] == 128 + signal.SIGSEGV
    on.inside("rm /var/log/cuda-installer.log")
    code, said = on.code(run)
    assert (code, "Failed to verify gcc version" in said) == (255, True)
    on.inside("mv /root/gcc /usr/bin/; rm /var/log/cuda-installer.log; ! ls /opt/cuda")


def test_a_driver_that_was_touched_is_told_loudly(on):
    """What no run of glmbox does: the runfile is given --driver. What it did is told as long as it is so."""
    driver = on.driver()
    on.inside("mkdir /root/driver; cp -a /usr/bin/nvidia-smi /usr/lib/x86_64-linux-gnu/libcuda.so.535.* /root/driver")
    where = "/opt/wrong"
    options = ["--silent", "--driver", "--toolkit", f"--toolkitpath={where}", f"--defaultroot={where}"]
    for _ in range(2):
        # And a host compiler chosen for nvcc, as where the distribution's own is too new for it.
        played = on.role(where=where, __cuda_options=options, __cuda_compiler="10")
        assert played.status == "failed"
        assert on.inside(f"readlink {where}/bin/gcc {where}/bin/g++") == "/usr/bin/gcc-10\n/usr/bin/g++-10"
        assert "The NVIDIA driver is not what it was" in played.failure
        for path in ("/usr/bin/nvidia-smi", "/usr/lib/x86_64-linux-gnu/libcuda.so.535.104.05"):
            assert f"The file {path} was changed: mtime_ns" in played.failure
        assert "libnvidia-ml" not in played.failure
    on.inside("cp -a /root/driver/nvidia-smi /usr/bin; cp -a /root/driver/lib* /usr/lib/x86_64-linux-gnu")
    assert on.driver() == driver
    assert on.role(where=where).failure == ""
    on.inside(f"rm -r {where} {STATE}{where.replace('/', '-')}")
    on.inside(f"echo {TOOLKIT}/targets/x86_64-linux/lib >/etc/ld.so.conf.d/cuda-11-8.conf")


def test_a_toolkit_that_is_there_already_is_used(on):
    """As in AutoDL's images; the runfile is not even there."""
    where = "/opt/image/cuda-11.8"
    on.inside(f"mkdir /opt/image; cp -a {TOOLKIT} {where}; rm {where}/.glmbox-toolkit.json")
    listing = f"find {where} -printf '%p %T@ %i\\n' | sort"
    before = on.inside(listing)
    used = on.role(where=where, cuda_runfile="/nowhere.run")
    assert used.failure == ""
    assert used.result("Look at the toolkit")["origin"] == "found"
    assert '"origin": "found"' in on.inside(f"cat {STATE}-opt-image-cuda-11.8/toolkit.json")
    again = on.role(where=where, cuda_runfile="/nowhere.run")
    assert (again.failure, again.changed) == ("", [])
    assert on.inside(listing) == before

    on.inside(f"mv {where}/nvvm/bin/cicc /root/; touch {where}/bin/nvcc")
    refused = on.role(where=where, cuda_runfile="/nowhere.run")
    assert f"{where} was there before glmbox and is left as it is, but it does not work." in refused.failure
    on.inside(f"mv /root/cicc {where}/nvvm/bin/")


def test_removal_leaves_what_was_there_before(on):
    on.inside("rm /usr/local/cuda && ln -s /usr/local/cuda-11.8 /usr/local/cuda")
    driver = on.driver()
    remove = {"playbook": str(ROOT / "playbooks" / "remove_box.yml")}
    looked = run_ansible(on.inventory, cmdline="--check", **remove)
    assert (looked.failure, "remove | Remove the toolkit, where glmbox installed it" in looked.changed) == ("", True)
    assert on.code(f"ls {TOOLKIT}")[0] == 0
    assert run_ansible(on.inventory, **remove).failure == ""
    assert on.inside("ls /usr/local") == on.inside("ls /usr/local | grep -v cuda-11.8")
    assert on.inside("readlink /usr/local/cuda") == "/usr/local/cuda-12.1"
    left = on.inside(f"ls /etc/profile.d /etc/ld.so.conf.d {STATE} 2>/dev/null || true")
    assert "glmbox" not in left and "cuda" not in left
    assert on.holds() == ["nvidia-utils-535"]
    assert on.driver() == driver
    # The same for what is not glmbox's: nothing but its own records is left to go.
    image = {"cuda_dir": "/opt/image/cuda-11.8", "cuda_state_dir": f"{STATE}-opt-image-cuda-11.8"}
    again = run_ansible(on.inventory, extravars=image, **remove)
    assert (again.failure, again.changed) == ("", ["remove | Remove scripts and records"])
    assert on.code("ls /opt/image/cuda-11.8/bin/nvcc")[0] == 0
