"""What a box must be, as pure functions of its facts."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from ansible_collections.glmbox.box.plugins.module_utils.plan import PlanError, plan

SUPPORTED = {"debian": ("11", "12"), "ubuntu": ("20.04", "22.04", "24.04")}
# NVIDIA's compatibility guide: the oldest driver that runs CUDA 11.x programs by minor-version compatibility.
OLDEST_DRIVER = (450, 80, 2)
# The driver that CUDA 11.8 was released with; between the two, CUDA's minor-version compatibility is what counts.
OWN_DRIVER = (520, 61, 5)
# The compute capabilities that torch's cu118 wheels have kernels for: 3.7 (Kepler) to 9.0 (Hopper).
OLDEST_CAPABILITY, NEWEST_CAPABILITY = (3, 7), (9, 0)
# torch+cu118 from this release on is built for glibc 2.28 (manylinux_2_28).
NEWER_GLIBC_TORCH, NEWER_GLIBC = (2, 7), (2, 28)
# One process of gcc takes up to half of that while it compiles OpenSSL or CPython; below, not even one is safe.
LEAST_MEMORY_MIB = 900
FULL_MEMORY_MIB = 4096
# What ssh says, and what it means here; the first that fits counts.
_CONSOLE = "against the console's SSH line, and that the box is running"
SSH_SAYS = {
    "permission denied": "the box refuses the login. Check ansible_user and ansible_ssh_private_key_file",
    "host key verification failed": "its host key is not the pinned one. If you rented the box anew, enrol it "
    "again with -e accept_new_host_key=true; one entered by hand needs ssh-keygen -R and a new login",
    "connection refused": f"nothing listens there. Check ansible_port {_CONSOLE}",
    "timed out": f"no answer in time. Check ansible_host and ansible_port {_CONSOLE}",
    "no route to host": f"the network knows no way there. Check ansible_host {_CONSOLE}",
    "could not resolve": "the name does not resolve. Check ansible_host",
    "banner exchange": "what listens there does not speak SSH. Check ansible_port against the console's SSH line",
    "connection closed": "the box closed the connection. If it is still booting, run again in a minute",
    "connection reset": "the box cut the connection. If it is still booting, run again in a minute",
}
# The int4 kernels are compiled into the model's quantization.py. On an H100 (9.0) quantize(4) ended with "no kernel
# image is available for execution on the device" (docs/upstream.md); cards up to 8.9 are taken to have one, since
# upstream's users run int4 there, which was not tried here. int8 needs no kernel of its own.
NEWEST_INT4_CAPABILITY = (8, 9)
# The answer to check_box's first question, behind whatever a login shell printed without a line end.
PROBED = re.compile(r"^(.*?)glmbox (\d+) (\d+)( conda)?\s*$", re.MULTILINE)
# From so many seconds on it is worth telling.
SLOW_SECONDS = 1.0
QUIET = "What is for people alone belongs below a line `[[ $- == *i* ]] || return` in ~/.bashrc"
# ProtectHome and PrivateTmp of the services' units hide these.
HIDDEN_FOLDERS = ("home", "root", "tmp")
# A download and its unpacked twin never fit to the byte.
SPARE = 1.1


def unreachable(error: str, address: str, says: dict[str, str] = SSH_SAYS) -> str:
    """Turn what ssh (or what else speaks by `says`) tells of a box out of reach into a sentence with the next step."""
    said = " ".join(error.split())
    for words, why in says.items():
        if words in said.lower():
            return f"{address} does not answer: {why}."
    return f"{address} does not answer: {said}"


def oldest_python(ansible_version: str) -> tuple[int, int]:
    """Return the oldest Python that an ansible-core manages, by its support matrix: 3.8 up to 2.19, then 3.9."""
    return (3, 8) if version_of(ansible_version)[:2] <= (2, 19) else (3, 9)


def python_problem(output: str, interpreter: str, ansible_version: str) -> str:
    """Return what is wrong with the box's Python, or nothing.

    output: what printing "glmbox 3 9" there printed, with whatever a login shell says around it.
    """
    oldest = oldest_python(ansible_version)
    told = PROBED.search(output)
    if not told:
        return (
            f"{interpreter} is missing on the box or does not run. Install it (apt-get install -y python3), "
            "or set ansible_python_interpreter."
        )
    version = (int(told[2]), int(told[3]))
    if told[4]:
        return (
            f"{interpreter} on the box is conda's Python, which does not know the system's packages and changes with "
            "conda's. Leave ansible_python_interpreter out: then /usr/bin/python3 is taken."
        )
    if version < oldest:
        way_out = (
            "Run glmbox with Python 3.11, whose ansible-core manages it"
            if version >= (3, 8)
            else "Rent an image of Ubuntu 20.04 or newer"
        )
        return (
            f"{interpreter} on the box is Python {version[0]}.{version[1]}, and ansible-core {ansible_version} "
            f"needs {oldest[0]}.{oldest[1]} or newer there. {way_out}, or set ansible_python_interpreter."
        )
    before = output[: told.start(1)].splitlines()
    # Ansible takes the first line that begins with a brace for a module's answer.
    if told[1] or any(line.lstrip().startswith("{") for line in before):
        said = told[1] or next(line for line in before if line.lstrip().startswith("{"))
        return (
            f"The login shell on the box prints `{said.strip()[:40]}` before all that is run, and Ansible cannot "
            f"tell that from an answer. {QUIET}."
        )
    return ""


def interpreter_problem(interpreter: str) -> str:
    """Return why Ansible must not look for the box's Python itself, where it is told to, or nothing."""
    if interpreter.startswith("/"):
        return ""
    return (
        f"ansible_python_interpreter is {interpreter}, by which conda's Python may be found. Leave it out: then "
        "/usr/bin/python3 is taken; or give a path that begins with /."
    )


def shell_note(seconds: float, slowest: dict) -> str:
    """Return what makes every task slow, or nothing.

    seconds: what running nothing at all takes over a connection that stands. slowest: what login_shell found.
    """
    if seconds < SLOW_SECONDS:
        return ""
    said = f"The box takes {seconds:.1f} s before it runs anything over SSH, and so does every task: "
    if slowest["seconds"] < seconds / 3:
        return said + (
            "the login shell's files are quick, so the link is slow, or the box is busy. A run takes long, and works."
        )
    where = slowest["file"] + (f", line {slowest['line']}" if slowest["line"] else "")
    return said + f"{slowest['seconds']:.1f} s of it in {where}. {QUIET}."


def unprepared_problems(tags: set[str], skipped: set[str], prepared: list[str], present: list[str]) -> list[str]:
    """Return that a box is to be activated that was not prepared, or nothing.

    tags, skipped: of this run. prepared: paths that prepare makes. present: paths that are on the box.
    """
    prepares, activates = ({"all", tag} & tags and tag not in skipped for tag in ("prepare", "activate"))
    missing = [path for path in prepared if path not in present]
    if not missing or not activates or prepares:
        return []
    return [
        f"The box was not prepared: it has no {' and no '.join(missing)}. Run site.yml with --tags prepare, "
        "then this again; or run it without tags, which does both."
    ]


def version_of(text: str) -> tuple:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


# What remove_box deletes with all that is in them.
REMOVED_WHOLE = {"box_install_dir", "box_install_on", "box_config_dir", "box_log_dir"}


def folder_problems(folders: dict) -> list[str]:
    """Return a sentence for each folder that cannot be glmbox's own. folders: variable to path.

    What is not below a folder named glmbox may hold what is somebody else's, and remove_box deletes it.
    """
    problems = []
    for name, path in folders.items():
        parts = PurePosixPath(path).parts
        if not path.startswith("/") or ".." in parts:
            problems.append(f"{name} is {path}, which is not an absolute path.")
        elif "glmbox" not in parts:
            problems.append(
                f"{name} is {path}; it has to lie in a folder named glmbox, such as {path.rstrip('/')}/glmbox."
            )
    for name in REMOVED_WHOLE & set(folders):
        for kept in {"box_data_dir", "box_state_dir"} & set(folders):
            inside = PurePosixPath(folders[kept])
            if PurePosixPath(folders[name]) in (inside, *inside.parents):
                problems.append(
                    f"{name} is {folders[name]}, and {kept} ({inside}) lies in it; remove_box would delete both."
                )
    return problems


def hidden_problems(folders: dict, init: str) -> list[str]:
    """Return a sentence for each folder that systemd's units would not see. folders: variable to absolute path."""
    return [
        f"{name} is {path}, and services see nothing below /{PurePosixPath(path).parts[1]}. Take a folder elsewhere."
        for name, path in folders.items()
        if init == "systemd" and PurePosixPath(path).parts[1] in HIDDEN_FOLDERS
    ]


def disk_problems(disks: dict, needs: list[dict]) -> list[str]:
    """Return a sentence for each disk that is too small.

    disks: path to {device, free_mib}. needs: {path, mib, what}; those of one device are summed.
    """
    by_device: dict = {}
    for need in needs:
        by_device.setdefault(disks[need["path"]]["device"], []).append(need)
    problems = []
    for wanted in by_device.values():
        free = disks[wanted[0]["path"]]["free_mib"]
        total = int(sum(need["mib"] for need in wanted) * SPARE)
        if total > free:
            parts = ", ".join(f"{need['what']} {need['mib']}" for need in wanted if need["mib"])
            problems.append(
                f"The disk of {wanted[0]['path']} has {free} MiB free and {total} are needed ({parts}, and a tenth to "
                "spare). Free some, or set box_data_dir to a folder on a larger disk."
            )
    return problems


def gpu_problems(facts: dict, wish: dict) -> list[str]:
    """Return what stands between the box and a model on its GPU. wish: model, device, precision."""
    if wish["device"] != "cuda":
        return []
    if not facts["gpus"]:
        return [
            f"The box has no usable GPU ({facts['gpu_problem']}). Start it with its GPU, or run --tags prepare now "
            "and the rest later, or set demos_device: cpu."
        ]
    card = facts["gpus"][0]
    problems = []
    if version_of(card["driver"]) < OLDEST_DRIVER:
        problems.append(
            f"The driver {card['driver']} is older than 450.80.02, the oldest for CUDA 11.8. Rent a box with a newer "
            "driver: glmbox never touches it."
        )
    # Drivers that do not tell the capability are older than the cards in question.
    if version_of(card["compute_capability"]) > NEWEST_CAPABILITY:
        problems.append(
            f"torch+cu118 has no kernels for the {card['name']} (compute capability "
            f"{card['compute_capability']}). Rent a card up to the RTX 40 or H100 generation."
        )
    elif card["compute_capability"] and version_of(card["compute_capability"]) < OLDEST_CAPABILITY:
        problems.append(
            f"torch+cu118 has no kernels for the {card['name']} any more (compute capability "
            f"{card['compute_capability']}). Rent a card from the Volta generation on."
        )
    if not card["memory_mib"]:
        return [
            *problems,
            f"nvidia-smi does not tell the memory of the {card['name']}. Rent a whole card, not a slice.",
        ]
    try:
        cards_mib = [each["memory_mib"] for each in facts["gpus"]]
        chosen = plan(wish["model"], wish["device"], wish["precision"], cards_mib, facts["memory_mib"])["precision"]
        if chosen == "int4" and version_of(card["compute_capability"]) > NEWEST_INT4_CAPABILITY:
            problems.append(
                f"The model brings no int4 kernels for the {card['name']} (compute capability "
                f"{card['compute_capability']}). Set demos_precision to int8 or fp16."
            )
    except PlanError as error:
        problems.append(str(error))
    return problems


def taken_problems(facts: dict, wish: dict) -> list[str]:
    """Return a sentence for each port that somebody else holds. facts, wish: as host_problems."""
    holders = {listener["port"]: listener.get("program", "") for listener in facts["listeners"]}
    problems = []
    for port in wish["ports"]:
        number = int(port["port"])
        if number not in holders or not set(port["unit"]).isdisjoint(facts["present"]):
            continue
        by = f": {holders[number]}" if holders[number] else ""
        others = ", ".join(str(each) for each in wish["other_ports"]) if port["name"] == "gateway_port" else ""
        to = f" to another port that is mapped ({others})" if others else ""
        problems.append(f"Port {number} is taken by something else on the box{by}. Stop it, or set {port['name']}{to}.")
    return problems


def host_problems(facts: dict, wish: dict) -> list[str]:
    """Return every reason why the box cannot become what is wished, each a sentence with the next step.

    facts: what box_facts returns. wish: disk_needs ({path, mib, what}), ports ({name, port, unit}: free, or glmbox's
    own where one of the unit's files is present), other_ports (that the provider maps too), needs_gpu,
    torch (the release of torch+cu118), and what gpu_problems takes.
    """
    problems = []
    supported = SUPPORTED.get(facts["distribution"], ())
    if facts["distribution_version"] not in supported:
        problems.append(
            f"The box runs {facts['distribution']} {facts['distribution_version']}; glmbox knows Debian 11 and 12 and "
            "Ubuntu 20.04, 22.04 and 24.04. Rent one of these images."
        )
    if facts["architecture"] != "x86_64":
        problems.append(f"The box is {facts['architecture']}, and torch's CUDA 11.8 wheels are for x86_64 alone.")
    if not facts["is_root"]:
        problems.append("The login is not root and does not become it. Set ansible_become: true, or log in as root.")
    if facts["has_compiler"] and not facts["compiler"]:
        problems.append(
            "The box's C compiler (cc) does not run. Run `apt-get install --reinstall gcc cpp` there, or remove the cc "
            "that stands before it on the system's PATH."
        )
    if facts["memory_mib"] < LEAST_MEMORY_MIB:
        problems.append(
            f"The box has {facts['memory_mib']} MiB of memory, and compiling takes up to {LEAST_MEMORY_MIB}. Rent one "
            "with 2 GB or more."
        )
    torch = version_of(wish["torch"])
    if torch >= NEWER_GLIBC_TORCH and version_of(facts["glibc"]) < NEWER_GLIBC:
        problems.append(
            f"torch {wish['torch']}+cu118 needs glibc 2.28, and the box has {facts['glibc']}. Set torch_version to an "
            "older release, or rent a newer image."
        )
    problems += taken_problems(facts, wish)
    problems += disk_problems(facts["disks"], [need for need in wish["disk_needs"] if need["mib"]])
    if wish["needs_gpu"]:
        problems += gpu_problems(facts, wish)
    return problems


def host_notes(facts: dict, wish: dict) -> list[str]:
    """Return what the operator should know and need not change, a sentence each. facts, wish: as host_problems."""
    notes = []
    if facts["init"] != "systemd":
        notes.append(
            "No systemd has booted the box, so supervisord keeps the services running: as the same user and without "
            "capabilities, but only file permissions keep them from the rest of the system, and nothing from networks."
        )
    if facts["memory_mib"] < FULL_MEMORY_MIB:
        notes.append(f"With {facts['memory_mib']} MiB of memory, builds may run fewer processes than there are cores.")
    if wish["device"] != "cuda":
        return notes
    if not facts["gpus"]:
        if not wish["needs_gpu"]:
            notes.append(
                f"The box has no usable GPU ({facts['gpu_problem']}), which preparing needs not. To activate it, start "
                "it with a card of 7 GiB or more (15 for float16), from Volta to the RTX 40 and H100 generations, and "
                "with a driver from 450.80.02 on."
            )
        return notes
    driver = facts["gpus"][0]["driver"]
    if OLDEST_DRIVER <= version_of(driver) < OWN_DRIVER:
        notes.append(
            f"The driver {driver} is older than 520.61.05, which CUDA 11.8 was released with; torch+cu118 runs on it "
            "by CUDA's minor-version compatibility."
        )
    return notes
