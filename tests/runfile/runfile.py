"""A runfile for tests: made here by makeself as NVIDIA makes its own, with NVIDIA's own nvcc 11.8.89 in it.

    python tests/runfile/runfile.py

nvcc and what it calls come out of Debian 12's package nvidia-cuda-toolkit (non-free, 84 MB), the headers out of
NVIDIA's wheels (22 MB; Debian has them in a package of 774 MB). All is kept in .cache/runfile; nothing is committed.
The stand-in is the installer, tests/runfile/cuda-installer, whose words tell what it imitates.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ansible_collections.glmbox.box.plugins.module_utils.files import hash_of, sha256_of
from fill_bundle import BundleError, apt_uris

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "runfile"
SUITE = "bookworm"
PACKAGES = ("nvidia-cuda-toolkit", "makeself")
WHEELS = {
    "nvidia-cuda-nvcc-cu11==11.8.89": "f8e1e995166c884f2f5bf94975d7abb89175363b8712f7f81cd38d0df1b2cd85",
    "nvidia-cuda-runtime-cu11==11.8.89": "92d04069a987e1fbc9213f8376d265df0f7bb42617d44f5eda1f496acea7f2d1",
}
BINARIES = ("cudafe++", "fatbinary", "ptxas")
# As in NVIDIA's toolkit; Debian's names Debian's folders.
PROFILE = r"""
TOP              = $(_HERE_)/..

NVVMIR_LIBRARY_DIR = $(TOP)/$(_NVVM_BRANCH_)/libdevice

LD_LIBRARY_PATH += $(TOP)/lib:
PATH            += $(TOP)/$(_NVVM_BRANCH_)/bin:$(_HERE_):

INCLUDES        +=  "-I$(TOP)/$(_TARGET_DIR_)/include" $(_SPACE_)

LIBRARIES        =+ $(_SPACE_) "-L$(TOP)/$(_TARGET_DIR_)/lib$(_TARGET_SIZE_)"

CUDAFE_FLAGS    +=
PTXAS_FLAGS     +=
"""
# makeself's header refuses options that it does not know; NVIDIA's hands them on, and knows where to unpack.
REFUSES = '    -*)\n\techo Unrecognized flag : "\\$1" >&2\n\tMS_Help\n\texit 1\n\t;;\n'
HANDS_ON = "    -*)\n\tbreak ;;\n"
UNPACKS = "TMPROOT=\\${TMPDIR:=/tmp}\n"
UNPACKS_THERE = (
    'for argument in "\\$@"; do\n'
    '    case "\\$argument" in --tmpdir=*) TMPDIR="\\${argument#--tmpdir=}" ;; esac\n'
    "done\n" + UNPACKS
)


def run(*command: str | Path, **more) -> str:
    """Run a command and return what it prints; raise BundleError with its last words where it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if ended.returncode:
        words = (ended.stderr or ended.stdout).strip().splitlines()[-3:]
        raise BundleError(f"`{' '.join(map(str, command[:4]))} …` failed: {' '.join(words)}")
    return ended.stdout


def fetch_packages(folder: Path) -> None:
    """Let apt fetch the packages into a folder, signatures checked, with lists and sources of its own, and unpack them.

    Needs a Debian whose mirrors have non-free, as they all do.
    """
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    sources = "".join(f"deb {uri} {SUITE} main non-free\n" for uri in apt_uris())
    (folder / "sources.list").write_text(sources)
    options = [
        f"-oDir::Etc::sourcelist={folder}/sources.list",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State::Lists={folder}/lists",
        f"-oDir::Cache={folder}/cache",
        "-oAPT::Sandbox::User=root" if os.geteuid() == 0 else "-oAPT::Sandbox::User=",
        "-qq",
    ]
    # Some of the archives do not have the suite; what matters is whether one has the packages.
    subprocess.run(["apt-get", *options, "update"], capture_output=True, check=False)
    run("apt-get", *options, "download", *(f"{name}/{SUITE}" for name in PACKAGES), cwd=folder)
    for package in folder.glob("*.deb"):
        run("dpkg", "-x", package, folder / "packages")
        package.unlink()


def fetch_headers(folder: Path) -> None:
    """Let pip fetch the wheels, by their hashes, and unpack them."""
    wanted = folder / "wheels.txt"
    wanted.write_text("".join(f"{name} --hash=sha256:{sha256}\n" for name, sha256 in WHEELS.items()))
    wheels = folder / "wheels"
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    run(sys.executable, "-m", "pip", "download", *quiet, "--dest", wheels, "-r", wanted)
    for wheel in sorted(wheels.glob("*.whl")):
        shutil.unpack_archive(wheel, folder / "unpacked", "zip")


def lay_out(parts: Path, toolkit: Path) -> None:
    """Lay out the toolkit as NVIDIA does, as far as it is there."""
    debian, nvidia = parts / "packages" / "usr", parts / "unpacked" / "nvidia"
    own = debian / "lib" / "nvidia-cuda-toolkit"
    target = toolkit / "targets" / "x86_64-linux"
    for folder in ("bin", "nvvm/bin", "nvvm/libdevice", "samples", "targets/x86_64-linux/lib"):
        (toolkit / folder).mkdir(parents=True)
    shutil.copy(own / "bin" / "nvcc", toolkit / "bin")
    for name in BINARIES:
        shutil.copy(debian / "bin" / name, toolkit / "bin")
    (toolkit / "bin" / "nvcc.profile").write_text(PROFILE)
    shutil.copy(own / "bin" / "cicc", toolkit / "nvvm" / "bin")
    shutil.copy(own / "libdevice" / "libdevice.10.bc", toolkit / "nvvm" / "libdevice")
    for part in ("cuda_runtime", "cuda_nvcc"):
        shutil.copytree(nvidia / part / "include", target / "include", dirs_exist_ok=True)
    shutil.copy(nvidia / "cuda_runtime" / "lib" / "libcudart.so.11.0", target / "lib")
    (toolkit / "include").symlink_to("targets/x86_64-linux/include")
    (toolkit / "lib64").symlink_to("targets/x86_64-linux/lib")


def pack(parts: Path, content: Path, target: Path) -> None:
    """Make the runfile by makeself, with a header that takes options as NVIDIA's does."""
    header = (parts / "packages/usr/share/makeself/makeself-header.sh").read_text()
    for before, after in ((REFUSES, HANDS_ON), (UNPACKS, UNPACKS_THERE)):
        if header.count(before) != 1:
            raise BundleError("makeself's header is another one than tests/runfile/runfile.py was written for.")
        header = header.replace(before, after)
    (parts / "header.sh").write_text(header)
    owner = ("--tar-extra", "--owner=0 --group=0 --numeric-owner")
    kind = ("--nocomp", "--keep-umask", "--nox11", "--nomd5", "--nocrc", *owner, "--header", parts / "header.sh")
    draft = target.with_suffix(".draft")
    run(parts / "packages/usr/bin/makeself", *kind, content, draft, "NVIDIA CUDA Toolkit", "./cuda-installer")
    draft.replace(target)


def ensure() -> Path:
    """Return the runfile, made anew where what makes it has changed; raise BundleError with what to do."""
    recipe = hash_of([sha256_of(str(HERE / name)) for name in ("runfile.py", "cuda-installer")])[:12]
    runfile = CACHE / f"cuda-{recipe}.run"
    if runfile.exists():
        return runfile
    CACHE.mkdir(parents=True, exist_ok=True)
    for stale in CACHE.glob("cuda-*"):
        stale.unlink()
    parts = CACHE / f"parts-{hash_of([SUITE, PACKAGES, WHEELS])[:12]}"
    if not parts.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as draft:
            # apt as root writes as another user elsewhere.
            os.chmod(draft, 0o755)
            fetch_packages(Path(draft))
            fetch_headers(Path(draft))
            Path(draft).rename(parts)
            Path(draft).mkdir()  # for the context, which removes it
    with tempfile.TemporaryDirectory(dir=CACHE) as draft:
        content = Path(draft) / "content"
        lay_out(parts, content / "toolkit")
        shutil.copy(HERE / "cuda-installer", content / "cuda-installer")
        (content / "cuda-installer").chmod(0o755)
        pack(parts, content, runfile)
    return runfile


if __name__ == "__main__":
    try:
        print(ensure())
    except BundleError as error:
        sys.exit(str(error))
