"""The services where there is no systemd: supervisord keeps them running, launch.py starts each.

supervisord listens on a socket of root's and nowhere else. /run may outlive a restart of the container, so what lies
there is forgotten before supervisord starts.
"""

import contextlib
import fcntl
import glob
import http.client
import json
import os
import pwd
import socket
import subprocess
import time
import xmlrpc.client
from typing import Any, Dict, Iterator, List

from glmbox_ctl import CtlError, Service, settings
from glmbox_ctl.launch import RUN, end_leftovers, forget, process_ticks, read_state, started_by_hand

SOCKET = os.path.join(RUN, "supervisor.sock")
PID_FILE = os.path.join(RUN, "supervisord.pid")
LOCK = RUN + ".lock"
# A service may take so long to stop, and a little more.
ANSWER_SECONDS = 180
BEGIN_SECONDS = 15
# The codes of supervisord's XML-RPC interface that say that it is so already.
ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED, BAD_NAME = 60, 70, 90, 10
STATES = {
    "STARTING": "running",
    "RUNNING": "running",
    "BACKOFF": "restarting",
    "STOPPING": "stopping",
    "STOPPED": "stopped",
    "FATAL": "failed",
    "UNKNOWN": "failed",
}
BEGUN = ("starting", "running", "restarting")


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(SOCKET)


class _Transport(xmlrpc.client.Transport):
    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection("localhost")


def call(method: str, *arguments: Any) -> Any:
    """Ask supervisord; raises OSError where it does not answer, xmlrpc.client.Fault where it refuses."""
    with xmlrpc.client.ServerProxy("http://localhost", transport=_Transport()) as server:
        return getattr(server.supervisor, method)(*arguments)


def call_unless(codes: List[int], method: str, *arguments: Any) -> None:
    """Ask supervisord, and take it for done where it refuses with one of these codes."""
    try:
        call(method, *arguments)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode not in codes:
            raise CtlError("supervisord refuses %s: %s" % (method, fault.faultString)) from fault


def is_up() -> bool:
    """Tell whether supervisord runs."""
    try:
        call("getState")
    except PermissionError as error:
        raise CtlError("Only root may ask supervisord. Run it as root.") from error
    except OSError:
        return False
    return True


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let nobody else start or end supervisord meanwhile: a provider's hook may run twice."""
    try:
        lock = open(LOCK, "a")
    except PermissionError as error:
        raise CtlError("Only root may start or stop services. Run it as root.") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def names() -> List[str]:
    """Return the names of all services."""
    found = glob.glob(os.path.join(settings()["services_dir"], "*.ini"))
    return sorted(os.path.basename(path)[: -len(".ini")] for path in found)


def description(name: str) -> Dict[str, Any]:
    """Return what the role has written of a service for launch.py."""
    with open(os.path.join(settings()["services_dir"], name + ".json"), encoding="utf-8") as file:
        return dict(json.load(file))


def boot() -> bool:
    """Start supervisord, and with it all services; return whether it had to be. One that runs is left as it is."""
    with alone():
        if is_up():
            return False
        known = settings()
        for name in names():
            forget(name)
        os.makedirs(RUN, mode=0o700, exist_ok=True)
        for path in (SOCKET, PID_FILE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        command = [known["supervisor_dir"] + "/bin/python", "-IB", "-m", "supervisor.supervisord"]
        command += ["-c", os.path.join(known["services_dir"], "supervisord.conf")]
        clean = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        try:
            subprocess.run(command, env=clean, cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CtlError("supervisord does not start (%s). Run site.yml: it makes it anew." % error) from error
        return True


def down() -> bool:
    """End all services and supervisord; return whether it ran."""
    with alone():
        up = is_up()
        if up:
            pid = call("getPID")
            ticks = process_ticks(pid)
            call("shutdown")
            patience = time.monotonic() + ANSWER_SECONDS
            while ticks and process_ticks(pid) == ticks:
                if time.monotonic() > patience:
                    raise CtlError("supervisord (process %d) does not end." % pid)
                time.sleep(0.1)
        for name in names():  # supervisord may have been killed, and they with nobody over them
            kept = read_state(name)
            end_leftovers(kept["pid"], kept["ticks"], pwd.getpwnam(description(name)["user"]).pw_uid)
            forget(name)
        return up


def look(name: str) -> Service:
    """Return how a service is."""
    try:
        info = call("getProcessInfo", name) if is_up() else {"statename": "STOPPED"}
    except xmlrpc.client.Fault:  # supervisord has not read of it yet
        info = {"statename": "STOPPED"}
    kept = read_state(name)
    state = STATES.get(info["statename"], "")
    if info["statename"] == "EXITED":  # by itself, and not to be started again
        state = "failed" if info["exitstatus"] else "stopped"
    if state == "running":  # as supervisord sees it: launch.py may be at work still
        mine = kept["pid"] == info["pid"]
        state = "restarting" if mine and kept["waits"] else "running" if mine and kept["since"] else "starting"
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(kept["since"])) if state == "running" else ""
    return Service(name, state, shown, kept["restarts"])


def start(name: str) -> None:
    """Start a service that does not run, and wait until its command runs."""
    if look(name).state in BEGUN:
        return
    started_by_hand(name)
    call_unless([ALREADY_STARTED], "startProcess", name)
    wait_until_begun(name)


def stop(name: str) -> None:
    """Stop a service, and forget what it ran with."""
    call_unless([NOT_RUNNING, BAD_NAME], "stopProcess", name)
    forget(name)


def wait_until_begun(name: str) -> None:
    """Wait until launch.py has handed over to the command; one that fails is found by whoever looks at it then."""
    patience = time.monotonic() + BEGIN_SECONDS
    while not read_state(name)["since"] and time.monotonic() < patience:
        time.sleep(0.05)


def change(verb: str, wanted: List[str]) -> None:
    """Start, stop or restart services; starting supervisord starts all of them."""
    fresh = verb != "stop" and boot()
    if verb == "stop" and not is_up():
        return
    for name in wanted:
        if verb != "start" and not fresh:
            stop(name)
    for name in wanted:
        if verb != "stop":
            start(name)


def ensure(name: str, state: str, check: bool) -> bool:
    """Make a service started, restarted, reloaded or absent, with what stands in its files; return whether it was not.

    check: change nothing.
    """
    up = is_up()
    if state == "absent":
        if up and not check:
            stop(name)
            call_unless([BAD_NAME], "removeProcessGroup", name)
        return up
    if check:
        return state != "started" or not up or look(name).state not in BEGUN
    if not up:
        boot()
        wait_until_begun(name)
        return True
    added, changed, _ = call("reloadConfig")[0]
    if name in changed:
        stop(name)
        call_unless([], "removeProcessGroup", name)
    if name in added + changed:
        started_by_hand(name)
        call_unless([ALREADY_ADDED], "addProcessGroup", name)
        wait_until_begun(name)
        return True
    if state == "started" and look(name).state in BEGUN:
        return False
    if state == "reloaded" and look(name).state == "running":
        reload_files(name)
        return True
    stop(name)
    start(name)
    return True


def reload_files(name: str) -> None:
    """Let a service read its files again, and leave the mark of what it has read."""
    what = description(name)
    main = {"MAINPID": str(call("getProcessInfo", name)["pid"]), "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    if subprocess.run(["/bin/sh", "-c", what["reload"]], env=main, check=False).returncode:
        raise CtlError("%s does not read its files again: `%s` failed." % (name, what["reload"]))
    for path in glob.glob("/run/%s/read-*" % name):
        os.unlink(path)
    with open(what["markers"][-1], "w"):
        pass


def log_file(name: str) -> str:
    """Return the file of a service's output."""
    return os.path.join(settings()["log_dir"], name + ".log")


def log_command(wanted: List[str], lines: int, follow: bool) -> List[str]:
    """Return the command that shows the end of services' logs."""
    return ["tail", "-n", str(lines)] + (["-F"] if follow else []) + [log_file(name) for name in wanted]
