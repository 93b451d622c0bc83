"""Starts one service under supervisord: run by it as root, and then replaced by the service itself.

    python3 launch.py /etc/glmbox/services/NAME.json

What a systemd unit would have said and supervisord has no word for: a limit of starts within a window, a pause before
the next, an end to what is left of the last process, marks of what it was started with, a /tmp of its own, no
capabilities and no way to new privileges. supervisord starts again whatever ends, unless with exit code 0, 2 (the
configuration is wrong) or 118 (from here: given up).
"""

import contextlib
import ctypes
import json
import os
import pwd
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, Dict, Iterator, List, NoReturn

RUN = "/run/glmbox-services"
GIVEN_UP = 118
LEFTOVER_SECONDS = 5.0
CAPABILITIES = {"CAP_NET_BIND_SERVICE": 10}
# include/uapi/linux/prctl.h and capability.h of the kernel.
PR_SET_KEEPCAPS, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 8, 23, 24, 38, 47
PR_CAP_AMBIENT_RAISE, CAPABILITY_VERSION_3 = 2, 0x20080522


def state_path(name: str) -> str:
    return os.path.join(RUN, name + ".json")


def read_state(name: str) -> Dict[str, Any]:
    """Return what is known of a service's starts.

    starts: when it was started, in seconds of the monotonic clock. restarts: how many of them followed a failure.
    waits: whether it pauses before the next. since: when its command began, in seconds since 1970. pid, ticks: of it.
    """
    state = {"starts": [], "restarts": 0, "waits": False, "since": 0, "pid": 0, "ticks": 0}
    with contextlib.suppress(OSError, ValueError), open(state_path(name), encoding="utf-8") as file:
        state.update(json.load(file))
    return state


def write_state(name: str, **state: Any) -> None:
    draft = state_path(name) + ".draft"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(state, file)
    os.replace(draft, state_path(name))


def started_by_hand(name: str) -> None:
    """Begin to count a service's starts anew; what is left of its last process is still known."""
    kept = read_state(name)
    if kept["pid"]:
        write_state(name, pid=kept["pid"], ticks=kept["ticks"])


def forget(name: str) -> None:
    """Forget what a service that is stopped ran with."""
    started_by_hand(name)
    for folder in ("/run/" + name, private_tmp(name)):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


def private_tmp(name: str) -> str:
    """Return the folder that stands for a service's /tmp."""
    return "/tmp/" + name


def process_ticks(pid: int) -> int:
    """Return when a process began, in clock ticks since the machine's boot; 0 where it is gone or a zombie."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def leftovers(group: int, ticks: int, uid: int) -> Iterator[int]:
    """Return the living processes of a user that are in the group of a service's last process.

    group: that process' pid. ticks: when it began; a number that was given to another since then is nobody of ours.
    """
    leader = process_ticks(group)
    if not group or group == os.getpid() or (leader and leader != ticks):
        return
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group and os.stat("/proc/%d" % pid).st_uid == uid and process_ticks(pid):
                yield pid


def end_leftovers(group: int, ticks: int, uid: int) -> None:
    """End what is left of the last process, such as workers whose master was killed, which hold its port."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        patience = time.monotonic() + LEFTOVER_SECONDS
        alive = list(leftovers(group, ticks, uid))
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        while alive and time.monotonic() < patience:
            time.sleep(0.05)
            alive = list(leftovers(group, ticks, uid))


def fresh_folder(path: str, uid: int, mode: int) -> None:
    """Make an empty folder; in /tmp nobody can have put one of theirs in its place, or mkdir fails."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.islink(path):
            os.unlink(path)
        else:
            shutil.rmtree(path)
    os.mkdir(path, 0o700)
    os.chown(path, uid, -1)
    os.chmod(path, mode)


def prctl(option: int, *arguments: int) -> int:
    given = [ctypes.c_ulong(one) for one in (*arguments, 0, 0, 0, 0)[:4]]
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, *given))


def confine(kept: List[int]) -> None:
    """Give up for good all capabilities but some, and every way to new privileges."""
    for number in range(64):
        if prctl(PR_CAPBSET_READ, number) < 0:
            break
        if number not in kept:
            prctl(PR_CAPBSET_DROP, number)  # refused in containers without CAP_SETPCAP; what counts is the next call
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def become(user: pwd.struct_passwd, capabilities: List[str], unconfined: bool) -> None:
    """Give up root for a user, who can have no capability but these any more unless unconfined."""
    kept = [CAPABILITIES[name] for name in capabilities]
    if not unconfined:
        confine(kept)
    if kept:
        prctl(PR_SET_KEEPCAPS, 1)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    if kept:
        mask = sum(1 << number for number in kept)
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
        if ctypes.CDLL(None, use_errno=True).capset(header, data) < 0:
            raise OSError("the container does not give %s" % " ".join(capabilities))
        for number in kept:
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


def environment_of(what: Dict[str, Any], user: pwd.struct_passwd) -> Dict[str, str]:
    """Return the service's environment; what it has in /tmp is in a folder of its own."""
    tmp = private_tmp(what["name"])
    own = {
        key: tmp + value[4:] if (value + "/").startswith("/tmp/") else value
        for key, value in what["environment"].items()
    }
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": user.pw_dir,
        "LOGNAME": user.pw_name,
        "USER": user.pw_name,
        "SHELL": user.pw_shell,
        "TMPDIR": tmp,
        **own,
    }


def say(text: str) -> None:
    print("glmbox: %s: %s" % (time.strftime("%Y-%m-%d %H:%M:%S"), text), file=sys.stderr, flush=True)


def begin(what: Dict[str, Any], user: pwd.struct_passwd) -> NoReturn:
    """Lay out what the service finds when it starts, and become it."""
    name = what["name"]
    fresh_folder("/run/" + name, 0, 0o755)
    for marker in what["markers"]:
        with open(marker, "w"):
            pass
    fresh_folder(private_tmp(name), user.pw_uid, 0o700)
    if what["devices"] and os.path.exists("/usr/bin/nvidia-modprobe"):
        # The first CUDA program makes /dev/nvidia-uvm, which an unprivileged one may not.
        subprocess.run(["/usr/bin/nvidia-modprobe", "-c", "0", "-u"], check=False)
    # nginx opens /dev/stdout by its name.
    for stream in (1, 2):
        os.fchown(stream, user.pw_uid, user.pw_gid)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, open_files), open_files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.umask(0o077)
    command, environment = shlex.split(what["command"]), environment_of(what, user)
    kept = read_state(name)
    write_state(name, **dict(kept, waits=False, since=time.time()))
    become(user, what["capabilities"], what["unconfined"])
    os.chdir(what["working_dir"])
    os.execve(command[0], command, environment)


def main(path: str) -> NoReturn:
    """Start the service that a file describes, or give it up."""
    try:
        with open(path, encoding="utf-8") as file:
            what = json.load(file)
        os.umask(0o022)
        name, now = what["name"], time.monotonic()
        kept = read_state(name)
        user = pwd.getpwnam(what["user"])
        end_leftovers(kept["pid"], kept["ticks"], user.pw_uid)
        recent = [begun for begun in kept["starts"] if 0 <= now - begun < what["window_seconds"]]
        again = bool(kept["starts"])
        pid = os.getpid()
        numbers = {"restarts": kept["restarts"] + again, "pid": pid, "ticks": process_ticks(pid)}
        if len(recent) >= what["restarts"]:
            forget(name)
            write_state(name, restarts=kept["restarts"])
            say("%s was started %d times within %d s, and is left alone" % (name, len(recent), what["window_seconds"]))
            sys.exit(GIVEN_UP)
        write_state(name, starts=[*recent, now], waits=again, **numbers)
    # Without a count of its starts it would be started for ever.
    except (OSError, KeyError, TypeError, ValueError) as error:
        say("%s cannot be started: %r" % (path, error))
        sys.exit(GIVEN_UP)
    if again:
        time.sleep(what["restart_seconds"])
    say("%s starts" % name)
    try:
        begin(what, user)
    except (OSError, KeyError, ValueError) as error:
        say("%s cannot be started: %s" % (name, error))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
