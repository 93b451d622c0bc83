"""The driver's fingerprint and the CUDA toolkit's states, on folders made here."""

from __future__ import annotations

import copy
import json
import os

import pytest
from ansible_collections.glmbox.box.plugins.modules import cuda_toolkit, driver_fingerprint

KERNEL = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12\n"


@pytest.fixture
def root(tmp_path):
    """A system with a driver in the places that distributions and containers use."""
    files = {
        "proc/driver/nvidia/version": KERNEL,
        "proc/modules": "nvidia 56000000 2 - Live 0x0 (POE)\ni2c_nvidia_gpu 16384 0 - Live 0x0\n",
        "usr/bin/nvidia-smi": "smi",
        "usr/bin/python3": "python",
        "usr/lib/x86_64-linux-gnu/libcuda.so.535.104.05": "cuda",
        "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.104.05": "ml",
        "usr/lib/x86_64-linux-gnu/libc.so.6": "c",
        "usr/lib/x86_64-linux-gnu/nvidia/current/libGLX.so": "glx",
        "usr/local/nvidia/lib64/libcuda.so.1": "cuda too",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/lib/x86_64-linux-gnu/libcuda.so.1").symlink_to("libcuda.so.535.104.05")
    return tmp_path


@pytest.fixture
def found(root, monkeypatch):
    """Its fingerprint, with what programs say replaced."""
    monkeypatch.setattr(driver_fingerprint, "said", lambda *command: "")
    found = driver_fingerprint.fingerprint(str(root))
    found["packages"] = {
        name: {"version": "535.104.05-0", "want": want}
        for name, want in {"nvidia-driver-535": "install", "nvidia-container-toolkit": "install"}.items()
    }
    return found


def test_the_fingerprint_has_the_drivers_files_and_no_others(root, found):
    names = {os.path.relpath(path, root.resolve()) for path in found["files"]}
    assert names == {
        "usr/bin/nvidia-smi",
        "usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "usr/lib/x86_64-linux-gnu/libcuda.so.535.104.05",
        "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.104.05",
        "usr/lib/x86_64-linux-gnu/nvidia/current/libGLX.so",
        "usr/local/nvidia/lib64/libcuda.so.1",
    }
    assert driver_fingerprint.version_of(found) == "535.104.05"
    assert list(found["modules"]) == ["nvidia"]
    assert driver_fingerprint.driver_packages(found) == {"nvidia-driver-535": False}
    assert json.loads(json.dumps(found)) == found


def test_a_box_without_a_driver_has_a_fingerprint_too(tmp_path, monkeypatch):
    monkeypatch.setattr(driver_fingerprint, "said", lambda *command: "")
    found = driver_fingerprint.fingerprint(str(tmp_path))
    assert driver_fingerprint.version_of(found) == ""
    assert (found["files"], found["modules"], found["packages"]) == ({}, {}, {})


def test_each_difference_is_named(root, found):
    after = driver_fingerprint.fingerprint(str(root))
    after["packages"] = copy.deepcopy(found["packages"])
    assert driver_fingerprint.differences(found, after, []) == []
    libraries = root / "usr/lib/x86_64-linux-gnu"
    (libraries / "libcuda.so.535.104.05").write_text("other")
    (libraries / "libnvidia-ml.so.535.104.05").unlink()
    (libraries / "libcuda.so.1").unlink()
    (libraries / "libcuda.so.1").symlink_to("libcuda.so.520.61.05")
    (libraries / "libnvidia-ml.so.520.61.05").write_text("new")
    (root / "proc/driver/nvidia/version").write_text(KERNEL.replace("535.104.05", "520.61.05"))
    after = driver_fingerprint.fingerprint(str(root))
    after["packages"] = {"nvidia-driver-535": {"version": "535.183.01-0", "want": "install"}}
    said = "\n".join(driver_fingerprint.differences(found, after, []))
    for part in (
        "What kernel says of the version: NVRM version: NVIDIA UNIX x86_64 Kernel Module 535.104.05",
        "libcuda.so.535.104.05 was changed: mtime_ns",
        "libnvidia-ml.so.535.104.05 is gone.",
        "libcuda.so.1 was changed: link libcuda.so.535.104.05 became libcuda.so.520.61.05.",
        "libnvidia-ml.so.520.61.05 is new.",
        "The package nvidia-driver-535 was changed: version 535.104.05-0 became 535.183.01-0.",
        "The package nvidia-container-toolkit is gone.",
    ):
        assert part in said
    assert len(said.splitlines()) == 7


def test_own_holds_and_modules_that_a_program_loaded_are_no_difference(found):
    found["modules"]["nvidia_uvm"] = {"version": "535.104.05", "srcversion": "", "filename": "/x.ko", "loaded": False}
    after = copy.deepcopy(found)
    after["modules"]["nvidia_uvm"]["loaded"] = True
    after["packages"]["nvidia-driver-535"]["want"] = "hold"
    assert driver_fingerprint.differences(found, after, ["nvidia-driver-535"]) == []
    assert driver_fingerprint.differences(found, after, []) == [
        "The package nvidia-driver-535 was changed: want install became hold."
    ]
    assert driver_fingerprint.differences(after, found, ["nvidia-driver-535"]) == [
        "The kernel module nvidia_uvm was changed: loaded True became False.",
        "The package nvidia-driver-535 was changed: want hold became install.",
    ]


def nvcc(folder, version="11.8.89"):
    """Put a program into a folder that says what nvcc says."""
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "nvcc"
    program.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release 11.8, V{version}'\n")
    program.chmod(0o755)


def test_whose_a_folder_is(tmp_path):
    def origin(name):
        return cuda_toolkit.origin_of(str(tmp_path / name), "11.8.89")

    assert origin("absent") == "none"
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / cuda_toolkit.DRAFT).write_text("{")
    assert origin("begun") == "none"
    nvcc(tmp_path / "image")
    nvcc(tmp_path / "older", "11.7.99")
    assert (origin("image"), origin("older")) == ("found", "foreign")
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert (origin("file"), origin("dangling")) == ("foreign", "foreign")
    for installed, word in ((False, "half"), (True, "installed")):
        (tmp_path / "older" / cuda_toolkit.MARKER).write_text(json.dumps({"installed": installed}))
        assert origin("older") == word


def test_a_record_proves_one_toolkit_with_its_inputs(tmp_path):
    nvcc(tmp_path)
    beside = [str(tmp_path / "profile.sh")]
    record = cuda_toolkit.record_of(str(tmp_path), "found", {"version": "11.8.0"})
    assert not cuda_toolkit.is_finished(str(tmp_path), record, {"version": "11.8.0"}, beside)
    (tmp_path / "profile.sh").write_text("")
    assert cuda_toolkit.is_finished(str(tmp_path), record, {"version": "11.8.0"}, beside)
    assert not cuda_toolkit.is_finished(str(tmp_path), record, {"version": "11.8.1"}, beside)
    assert not cuda_toolkit.is_finished("/usr/local/cuda-11.8", record, {"version": "11.8.0"}, beside)
    assert not cuda_toolkit.is_finished(str(tmp_path), None, {"version": "11.8.0"}, beside)
    (tmp_path / "bin" / "nvcc").write_text("other")
    assert not cuda_toolkit.is_finished(str(tmp_path), record, {"version": "11.8.0"}, beside)


def test_what_was_broken_off_counts_as_free(tmp_path, monkeypatch):
    half = tmp_path / "toolkit" / "lib"
    half.mkdir(parents=True)
    (half / "libcublas.so").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr(cuda_toolkit, "disk_of", lambda path: {"device": 1, "free_mib": 10})
    needs = [{"path": str(tmp_path / "toolkit"), "mib": 8}, {"path": str(tmp_path / "tmp"), "mib": 5}]
    assert cuda_toolkit.disk_problem(needs) == ""
    needs[1]["mib"] = 6
    assert (
        f"needs 14 MiB on the disk of {tmp_path}/toolkit ({tmp_path}/toolkit 8, {tmp_path}/tmp 6), beside its runfile, "
        "and 13 are free. Free some, or set cuda_tmp_dir" in cuda_toolkit.disk_problem(needs)
    )


def test_only_what_the_runfile_left_beside_it_goes_with_it(tmp_path, monkeypatch):
    linker = tmp_path / "ld.so.conf.d"
    linker.mkdir()
    folder = "/usr/local/cuda-11.8"
    for name, text in {
        "cuda-11-8.conf": f"{folder}/targets/x86_64-linux/lib\n",
        "cuda-12-1.conf": "/usr/local/cuda-12.1/lib64\n",
        "older.conf": f"{folder}/lib64\n",
        "shared.conf": f"{folder}/lib64\n/opt/lib\n",
        "empty.conf": "",
    }.items():
        (linker / name).write_text(text)
    monkeypatch.setattr(cuda_toolkit, "LINKER_FOLDER", str(linker))
    monkeypatch.setattr(cuda_toolkit, "LINK", str(tmp_path / "cuda"))
    own = [str(linker / "cuda-11-8.conf")]
    assert cuda_toolkit.beside_of(folder, {"linker_files": ["older.conf"]}) == own
    (tmp_path / "cuda").symlink_to(folder)
    assert cuda_toolkit.beside_of(folder, {"linker_files": ["older.conf"]}) == [str(tmp_path / "cuda"), *own]
