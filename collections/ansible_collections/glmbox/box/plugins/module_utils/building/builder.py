"""The job that makes a build stand: from its pack, or else from its sources.

Runs on the box as a program of its own: standard library alone, Python 3.8.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import sys
import time
from typing import Any, Dict, List

from ansible_collections.glmbox.box.plugins.module_utils import jobs
from ansible_collections.glmbox.box.plugins.module_utils.building import identity, packs
from ansible_collections.glmbox.box.plugins.module_utils.building.steps import (
    BuildFailed,
    Diary,
    StepKilled,
    environment_of,
    full_disk,
    install_packages,
    run_step,
    unpack_source,
)
from ansible_collections.glmbox.box.plugins.module_utils.files import (
    disk_of,
    read_json,
    sha256_of,
    write_json,
    write_link,
)

POLL_SECONDS = 0.2
# A run that failed leaves its jobs waiting for the next one, which may bring what they wait for; not for ever.
PATIENCE_SECONDS = 12 * 3600.0


class Builder:
    """One build. spec: as modules/build.py describes it, completed by the action, with the needs' prefixes."""

    def __init__(self, spec: Dict[str, Any], jobs_dir: str) -> None:
        self.spec, self.jobs_dir = spec, jobs_dir
        self.inputs = identity.inputs_of(spec, identity.system())
        self.stem = identity.stem_of(self.inputs)
        self.prefix = os.path.join(spec["install_dir"], self.stem)
        self.link = os.path.join(spec["install_dir"], spec["name"])
        self.work = os.path.join(spec["work_dir"], self.stem)
        self.log = os.path.join(spec["log_dir"], "build-%s.log" % spec["name"])
        self.diary = Diary("%s %s" % (spec["name"], spec["version"]))

    def run(self) -> None:
        """Make it stand, link it, and pack it; raise BuildFailed."""
        for folder in (self.spec["install_dir"], self.spec["work_dir"], self.spec["log_dir"]):
            os.makedirs(folder, exist_ok=True)
        with open(os.path.join(self.spec["work_dir"], self.spec["name"] + ".lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            brought = False
            if not identity.stands(self.prefix, self.inputs):
                self._refuse()
                brought = self._from_other_system()
                if not (brought or self._from_pack()):
                    self._from_sources()
                    if self.spec["cache"]:  # what is there under its name was not used, so that nothing proves it
                        packs.drop(self.spec["cache"], self.stem)
            self._point()
            self._lay_links()
            self._clear()
            self._note_packages()
            if not brought:  # else whoever built it has packed it, and a pack beside it goes when the controller has it
                self._pack()

    def _refuse(self) -> None:
        problems = identity.problems_of(self.spec, self.prefix, self.link)
        if self.stem != self.spec["stem"]:
            problems.append(
                "The box is not what it was when this build was begun (its inputs are now %s). Run again." % self.inputs
            )
        if problems:
            raise BuildFailed("\n".join(problems))

    # -- from a disk that survived

    def _from_other_system(self) -> bool:
        """Prove what another system has built on this disk; return whether it stands on this one."""
        if read_json(os.path.join(self.prefix, identity.DOUBTED)) != self.inputs:
            return False
        packages = read_json(os.path.join(self.prefix, identity.PACKAGES))
        with self.diary.segment("install the libraries that it needs"):
            # Killed before these were noted, it needs no more than what it was built with.
            install_packages(self.spec["packages"] if packages is None else packages, self.spec["work_dir"])
        self._await_needs()
        try:
            with self.diary.segment("proof"):
                run_step(self._proof(), self._files(), self._variables(), self.log, self.diary)
        except BuildFailed as error:
            full = full_disk([self.work, self.prefix])
            if full or isinstance(error, StepKilled):  # no fault of what came with the disk
                raise BuildFailed(
                    "%s came with the disk and could not be proven: %s. %sRun again." % (self.stem, error, full)
                ) from error
            self.diary.note("%s came with the disk and is not used: %s." % (self.stem, str(error).rstrip(".")))
            self._begin_prefix(empty=True)
            self._clear()
            return False
        self._finish()
        return True

    # -- from the cache

    def _from_pack(self) -> bool:
        """Unpack and prove the build's pack, if there is one; return whether it stands then."""
        folder = self.spec["cache"]
        manifest = packs.usable(folder, self.stem, self.inputs) if folder else {}
        if not manifest:
            return False
        if os.path.isdir(os.path.join(self.work, "source")):  # half built already
            return False
        # Whatever fails here is no fault of the pack's.
        with self.diary.segment("install the libraries that it needs"):
            # Packs that were made by earlier releases may name the driver's.
            install_packages(packs.without_driver(manifest["packages"]), self.spec["work_dir"])
        self._await_needs()
        try:
            with self.diary.segment("unpack from the cache"):
                self._begin_prefix(empty=True)
                packs.unpack(self.prefix, folder, manifest)
            with self.diary.segment("proof"):
                run_step(self._proof(), self._files(), self._variables(), self.log, self.diary)
        except (packs.PackError, BuildFailed, OSError) as error:
            full = full_disk([self.work, self.prefix])
            self._begin_prefix(empty=True)
            if full or isinstance(error, OSError):  # no fault of the pack's, and no better for what is compiled
                raise BuildFailed(
                    "The cached build %s cannot be unpacked: %s\n%sMend that and run again." % (self.stem, error, full)
                ) from error
            if isinstance(error, (packs.BadPack, BuildFailed)):
                packs.drop(folder, self.stem)
                self.diary.result["rejected"] = True
            self.diary.note(
                "The cached build %s is not used: %s. It is built anew." % (self.stem, str(error).rstrip("."))
            )
            return False
        self._finish()
        return True

    # -- from sources

    def _from_sources(self) -> None:
        spec = self.spec
        with self.diary.segment("install packages"):
            install_packages(spec["packages"], spec["work_dir"])
        if identity.inputs_of(spec, identity.system()) != self.inputs:
            raise BuildFailed(
                "apt brought another compiler (%s) than this system is known for (%s). Run again: it is then taken so."
                % (identity.system()["compiler"] or "one that does not run", self.inputs["system"]["compiler"])
            )
        self._await_artifacts()
        self._drop_stale()
        # Before the first step, what the prefix holds is half of a pack, or has failed its proof.
        self._begin_prefix(empty=not os.path.isdir(os.path.join(self.work, "source")))
        source = self._source()
        self._await_needs()
        steps = [*spec["steps"], self._proof()]
        for number, step in enumerate(steps):
            done = os.path.join(self.work, "done-%d" % number)
            if os.path.exists(done):
                continue
            try:
                with self.diary.segment(step["name"]):
                    run_step(step, source, self._variables(), self.log, self.diary)
            except BuildFailed as error:
                full = full_disk([self.work, self.prefix])
                again = "it goes on from this step"
                if number == len(steps) - 1:  # what was made is not what it should be: steps that are done are no help
                    again = "it is then built anew"
                    self._clear()
                raise BuildFailed(
                    "Building %s %s failed in step '%s' with %s\n%sThe whole log is %s on the box. "
                    "Mend the cause and run the same command again: %s."
                    % (spec["name"], spec["version"], step["name"], error, full, self.log, again)
                ) from error
            if number < len(steps) - 2:  # the last step fills the prefix, which somebody may have deleted since
                with open(done, "w", encoding="ascii"):
                    pass
        self._finish()

    def _files(self) -> str:
        """Write the files that steps and proof may need, and return their folder."""
        folder = os.path.join(self.work, "files")
        os.makedirs(folder, exist_ok=True)
        for name, content in self.spec["contents"].items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(content)
        return folder

    def _source(self) -> str:
        """Return the folder in which steps run: the unpacked archive, or an empty one."""
        self._files()
        source = os.path.join(self.work, "source")
        archive = self.spec["archive"]
        if archive and os.path.exists(archive["path"]) and not os.path.isdir(source):
            with self.diary.segment("unpack"):
                found = sha256_of(archive["path"])
                if found != archive["sha256"]:
                    raise BuildFailed(
                        "%s has sha256 %s, and its table says %s. Run again with -e fetch_recheck=true."
                        % (archive["path"], found, archive["sha256"])
                    )
                unpack_source(archive["path"], source)
        os.makedirs(source, exist_ok=True)
        return source

    def _proof(self) -> Dict[str, Any]:
        return {"name": "proof", "run": self.spec["proof"]}

    def _variables(self) -> Dict[str, str]:
        return environment_of(self.spec, self.prefix, self.work)

    def _begin_prefix(self, empty: bool) -> None:
        """Make the prefix ours; what an earlier run left there goes where it has to be empty.

        Whenever that is cut short, the folder holds the mark by which the next run knows it for ours.
        """
        os.makedirs(self.prefix, exist_ok=True)
        with open(os.path.join(self.prefix, identity.BEGUN), "w", encoding="ascii"):
            pass
        for stamp in (identity.STAMP, identity.DOUBTED):  # first of all: a stamp is believed
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.prefix, stamp))
        for name in set(os.listdir(self.prefix)) - {identity.BEGUN} if empty else ():
            path = os.path.join(self.prefix, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)

    def _finish(self) -> None:
        os.sync()  # after a power cut the stamp would vouch for files that never reached the disk
        write_json(identity.proof_of(self.spec, self.prefix), {})
        write_json(os.path.join(self.prefix, identity.STAMP), self.inputs)
        for mark in (identity.BEGUN, identity.DOUBTED):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.prefix, mark))

    # -- waiting

    def _await_artifacts(self) -> None:
        """Wait until the files stand under their final names, which they get when their hash was proven."""
        for artifact, paths in self.spec["artifacts"].items():
            with self.diary.wait(artifact, paths, "fetch-" + artifact):
                deadline = time.monotonic() + PATIENCE_SECONDS
                while not all(os.path.exists(path) for path in paths):
                    if time.monotonic() > deadline:
                        raise BuildFailed("%s did not arrive. Run again, with the tag fetch as well." % artifact)
                    time.sleep(POLL_SECONDS)

    def _await_needs(self) -> None:
        """Wait until the builds that this one needs stand; a job that builds them tells whether they still may."""
        for need in self.spec["needs"]:
            name = os.path.basename(need["link"])
            stamp = os.path.join(need["prefix"], identity.STAMP)
            job = "build-" + name
            with self.diary.wait(name, [stamp], job):
                while not os.path.exists(stamp):
                    running = jobs.status(self.jobs_dir, job)["state"] == "running"
                    if not running and not os.path.exists(stamp):
                        raise BuildFailed(
                            "%s needs %s, whose build has failed or was stopped. Run again."
                            % (self.spec["name"], need["prefix"])
                        )
                    time.sleep(POLL_SECONDS)

    # -- links, and what is left behind

    def _point(self) -> None:
        if identity.is_linked(self.link, self.prefix):
            return
        if os.path.lexists(self.link) and not os.path.islink(self.link):
            raise BuildFailed(
                "%s is not a link, so it is not glmbox's to replace. Move it away and run again." % self.link
            )
        write_link(self.link, self.stem)

    def _lay_links(self) -> None:
        for path, target in identity.links_to_lay(self.spec["links"], self.link):
            write_link(path, target)

    def _drop_stale(self) -> None:
        """Remove what earlier builds of this name, with other inputs, left half done."""
        for stale in glob.glob(os.path.join(glob.escape(self.spec["work_dir"]), self.spec["name"] + "-*")):
            if stale != self.work:
                shutil.rmtree(stale)

    def _clear(self) -> None:
        """Remove what was unpacked and compiled; first by name, since half of it would be taken for work begun."""
        gone = self.work + ".gone"
        if os.path.isdir(gone):
            shutil.rmtree(gone)
        if os.path.isdir(self.work):
            os.rename(self.work, gone)
            shutil.rmtree(gone)

    def _note_packages(self) -> None:
        """Note which Debian packages it is linked to, for a system that finds it on its disk, and for its pack."""
        path = os.path.join(self.prefix, identity.PACKAGES)
        if read_json(path) is None:
            with contextlib.suppress(OSError):  # a full disk: nothing that this build needs
                write_json(path, packs.library_packages(self.prefix))

    def _pack(self) -> None:
        """Pack it where that is wanted, not done yet, and no trouble: a build without its pack is as good."""
        folder, limit = self.spec["cache"], self.spec["pack_limit_mib"]
        if not folder:
            return
        packs.drop_drafts(folder, self.spec["name"])
        if packs.usable(folder, self.stem, self.inputs):
            return
        # On a disk of its own a pack outlives the build, so that any size is worth it.
        apart = disk_of(folder)["device"] != disk_of(self.prefix)["device"]
        mib = _mib_below(self.prefix)
        if not apart and mib > 3 * limit:
            return
        if disk_of(folder)["free_mib"] < mib // 2:
            self.diary.note("%s is not packed for the cache: %s has no room for it." % (self.stem, folder))
            return
        for old in packs.listed(folder):
            if old["inputs"]["name"] == self.spec["name"]:
                packs.drop(folder, old["stem"])
        try:
            with self.diary.segment("pack for the cache"):
                packs.pack(self.prefix, folder, self.inputs, self.diary.work_seconds())
        except (packs.PackError, OSError) as error:
            self.diary.note("%s is not packed for the cache: %s." % (self.stem, str(error).rstrip(".")))


def _mib_below(folder: str) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        total += sum(os.lstat(os.path.join(parent, name)).st_blocks for name in names)
    return total * 512 // 2**20


def main(arguments: List[str]) -> None:
    """Run the build that a specification's file describes. arguments: that file, which is removed."""
    os.umask(0o022)  # the user that serves has to read what root's own umask might hide
    spec = read_json(arguments[0])
    if spec is None:
        sys.exit("The specification %s is gone: another run's job has just taken it. Run again." % arguments[0])
    _forget(arguments[0])
    try:
        _build(Builder(spec, os.path.dirname(os.environ["JOB_DIR"])))
    finally:
        _forget(arguments[0])  # who attached to this job has written it once more


def _forget(path: str) -> None:
    """Remove a specification, since an index's address in it may hold a login."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _build(builder: Builder) -> None:
    """Run a build; leave with a sentence where it fails."""
    try:
        builder.run()
    except (BuildFailed, OSError) as error:
        words = str(error)
        if isinstance(error, OSError):
            full = (
                full_disk([builder.spec["work_dir"], builder.spec["install_dir"]])
                if error.errno == errno.ENOSPC
                else ""
            )
            words = "Building %s stopped: %s. %sMend that and run again: it goes on." % (builder.stem, error, full)
        builder.diary.result["problem"] = words
        try:
            builder.diary.save()
        except OSError:
            pass  # on a full disk the log has it
        sys.exit(words)
