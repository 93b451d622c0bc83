"""The work of a build: packages, sources, steps, each with its place in the job's progress and timeline.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from typing import Any, Dict, Iterator, List, Optional

from ansible_collections.glmbox.box.plugins.module_utils.files import disk_of, read_json, write_json
from ansible_collections.glmbox.box.plugins.module_utils.machine import SYSTEM_PATH, cpus, memory_mib

LOOK_SECONDS = 2.0
LOCK_SECONDS = 900
APT_TRIES = 3
# With less than this left, a step that failed most likely failed for want of room.
FULL_MIB = 32
# What of the login shell's environment a step may see. All else may change what is built (CC, CFLAGS, MAKEFLAGS, a
# conda's paths) or how bash behaves, and is no input. What pip is told of indexes is none: hashes prove what it brings.
PASSED = ("HOME", "LANG", "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")
PASSED_BEGINNINGS = ("LC_", "PIP_")


# What a process, or bash for one of its own, returns that SIGKILL or SIGTERM has ended.
KILLED = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGKILL, 128 + signal.SIGTERM)


class BuildFailed(Exception):
    """A build that did not work, in sentences that end with what to do next."""


class StepKilled(BuildFailed):
    """A step that was killed, by somebody or for want of memory: it tells nothing of the build."""


def processes(wished: int, job_mib: int) -> int:
    """Return how many processes `make` may run: as wished, else one a core, but only as many as fit the memory.

    job_mib: what one of them takes at most, in MiB.
    """
    return wished or max(1, min(cpus(), memory_mib() // job_mib))


class Diary:
    """What the job tells of itself: its progress, and the segments of its time."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._progress = os.environ.get("JOB_PROGRESS", os.devnull)
        self._result = os.environ.get("JOB_RESULT", os.devnull)
        self.result: Dict[str, Any] = {"segments": [], "notes": [], "problem": ""}

    def _now(self) -> float:
        with open("/proc/uptime", encoding="ascii") as file:  # as jobs do: no clock of the box is trusted
            return float(file.read().split()[0])

    def save(self) -> None:
        """Write down what is known so far."""
        if self._result != os.devnull:
            write_json(self._result, self.result)

    def note(self, sentence: str) -> None:
        """Keep a sentence for the operator."""
        print(sentence, flush=True)
        self.result["notes"].append(sentence)
        self.save()

    @contextlib.contextmanager
    def segment(self, what: str) -> Iterator[None]:
        """Note how long something takes."""
        one: Dict[str, Any] = {"what": what, "kind": "work", "begun": self._now()}
        self.show(what)
        print("== " + what, flush=True)
        try:
            yield
        finally:
            one["ended"] = self._now()
            self.result["segments"].append(one)
            self.save()

    @contextlib.contextmanager
    def wait(self, name: str, files: List[str], job: str) -> Iterator[None]:
        """Note how long a build waits for files; meanwhile the result tells of it, so that others see who is stuck.

        name: of the build or artifact that they are of. job: the one that brings them.
        """
        if all(map(os.path.exists, files)):
            yield
            return
        what = "wait for %s" % name
        one: Dict[str, Any] = {"what": what, "kind": "wait", "for": [name], "begun": self._now()}
        self.result["awaits"] = {"name": name, "files": files, "job": job}
        self.save()
        self.show(what)
        print("== " + what, flush=True)
        try:
            yield
        finally:
            one["ended"] = self._now()
            del self.result["awaits"]
            # A wait that was none is no part of the picture.
            if one["ended"] - one["begun"] >= 0.5:
                self.result["segments"].append(one)
            self.save()

    def work_seconds(self) -> float:
        """Return how long was worked so far, waits aside."""
        return sum(one["ended"] - one["begun"] for one in self.result["segments"] if one["kind"] == "work")

    def show(self, what: str, done: float = 0, total: float = 0, unit: str = "", rate: Optional[float] = None) -> None:
        """Write how far a piece of work is; without a total, how long it lasts is told instead."""
        if self._progress != os.devnull:
            item = {"label": "%s: %s" % (self._label, what), "done": done, "total": total, "unit": unit, "rate": rate}
            write_json(self._progress, [item])


def install_packages(packages: List[str], work_dir: str) -> List[str]:
    """Install the Debian packages that are missing, waiting for whoever else uses apt; return which those were."""
    missing = missing_packages(packages)
    if not missing:
        return []
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", NEEDRESTART_MODE="l", PATH=SYSTEM_PATH)
    # A package that was half installed has its settings on the disk already, and dpkg would ask which ones to take.
    options = ["-qq", "-o", "DPkg::Lock::Timeout=%d" % LOCK_SECONDS, "-o", "DPkg::Options::=--force-confold"]
    install = ["apt-get", *options, "install", "--yes", "--no-install-recommends", *missing]
    said = ""
    # apt's lists have a lock that nobody waits for, so our own builds take turns.
    with open(os.path.join(work_dir, "apt.lock"), "w", encoding="ascii") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for attempt in range(APT_TRIES):
            if attempt:
                time.sleep(5 * attempt)
                # Where a job was killed inside apt, apt refuses everything until this was run.
                for mend in (
                    ["dpkg", "--force-confold", "--configure", "-a"],
                    ["apt-get", *options, "update"],
                    ["apt-get", *options, "--yes", "--no-remove", "--fix-broken", "install"],
                ):
                    subprocess.run(mend, env=environment, stdin=subprocess.DEVNULL, check=False)
            ended = subprocess.run(
                install, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            said = (ended.stdout + ended.stderr).strip()
            print(said, flush=True)
            if not ended.returncode:
                return missing
    raise BuildFailed(
        "apt cannot install %s: %s\nMend that on the box, its apt sources most likely, and run again."
        % (", ".join(missing), " ".join(_complaints(said)))
    )


def _complaints(said: str) -> List[str]:
    """Return the lines in which apt and dpkg say what is wrong; where none looks so, the last ones."""
    lines = said.splitlines()
    return [line.strip() for line in lines if line.startswith(("E: ", "dpkg: error", " "))][-6:] or lines[-3:]


def missing_packages(packages: List[str]) -> List[str]:
    """Return which of some Debian packages are not installed."""
    if not packages:
        return []
    asked = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    there = {line.split()[0] for line in told.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in there]


def unpack_source(archive: str, folder: str) -> None:
    """Unpack a tarball's single top folder as `folder`, whole or not at all."""
    draft = tempfile.mkdtemp(dir=os.path.dirname(folder), prefix=".unpack-")
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:  # a maker's uid may be somebody's here, who could then edit what root compiles
                member.uid = member.gid = 0
                member.uname = member.gname = "root"
            tar.extractall(draft, members)  # the archive's sha256 is pinned, so its paths are known
        tops = os.listdir(draft)
        if len(tops) != 1:
            raise BuildFailed("%s holds %d entries at its top where one folder was expected." % (archive, len(tops)))
        os.rename(os.path.join(draft, tops[0]), folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def environment_of(spec: Dict[str, Any], prefix: str, work: str) -> Dict[str, str]:
    """Return the variables that steps and proof see.

    PREFIX; SOURCE, the unpacked archive; FILES, the folder of the files; JOBS; and for each need its prefix under its
    name, such as OPENSSL.
    """
    variables = {
        key: value for key, value in os.environ.items() if key.upper() in PASSED or key.startswith(PASSED_BEGINNINGS)
    }
    # The operator's proxies, by a file, since a login in one is nothing for argument lists.
    proxies = read_json(os.environ.get("GLMBOX_PROXIES", "")) or {}
    if proxies:
        variables = {key: value for key, value in variables.items() if not key.upper().endswith("_PROXY")}
        variables.update({case(key): value for key, value in proxies.items() for case in (str.lower, str.upper)})
    variables.update({key: str(value) for key, value in spec["environment"].items()})
    for need in spec["needs"]:
        variables[os.path.basename(need["link"]).upper()] = need["prefix"]
    return dict(
        variables,
        PATH=SYSTEM_PATH,
        PREFIX=prefix,
        SOURCE=os.path.join(work, "source"),
        FILES=os.path.join(work, "files"),
        # What Python's packages would leave in the login's home.
        MPLCONFIGDIR=os.path.join(work, "cache"),
        XDG_CACHE_HOME=os.path.join(work, "cache"),
        JOBS=str(processes(spec["jobs"], spec["job_mib"])),
    )


def run_step(step: Dict[str, Any], folder: str, variables: Dict[str, str], log: str, diary: Diary) -> None:
    """Run one bash script in a folder, its output appended to the log; raise BuildFailed with the log's end.

    step: name, run; and where it can be told how far it is, progress (a script that prints how much is done and how
    much there is) and unit (a plural noun).
    """
    with open(log, "ab") as output:
        process = subprocess.Popen(
            ["bash", "--norc", "-euo", "pipefail", "-c", step["run"]],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            close_fds=False,  # who holds the job's lock is of the job
        )
        begun, first = time.monotonic(), None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
                break
            told = _numbers(step.get("progress", ""), folder, variables)
            if not told:
                diary.show(step["name"], time.monotonic() - begun, unit="s")
                continue
            first = told[0] if first is None else first
            seconds = time.monotonic() - begun
            diary.show(step["name"], told[0], told[1], step.get("unit", ""), (told[0] - first) / seconds)
    if process.returncode:
        with open(log, "rb") as output:
            output.seek(max(0, os.path.getsize(log) - 3000))
            last = output.read().decode(errors="replace").splitlines()[-15:]
        killed = process.returncode in KILLED
        raise (StepKilled if killed else BuildFailed)(
            "exit code %d; the log's last lines:\n  %s" % (process.returncode, "\n  ".join(last))
        )


def _numbers(script: str, folder: str, variables: Dict[str, str]) -> List[int]:
    """Return the two numbers that a script prints, or nothing."""
    if not script:
        return []
    asked = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    words = asked.stdout.split()
    return [int(word) for word in words] if len(words) == 2 and all(word.isdigit() for word in words) else []


def full_disk(paths: List[str]) -> str:
    """Return which of some paths' disks is full, in a sentence, or nothing."""
    for path in paths:
        free = disk_of(path)["free_mib"]
        if free < FULL_MIB:
            return "The disk of %s is full (%d MiB free). " % (path, free)
    return ""
