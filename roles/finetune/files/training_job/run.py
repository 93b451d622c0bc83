"""The job: trains, evaluates, reports. Whatever of it was done before is not done again.

As root it prepares folders and stops what has to make room; main.py itself runs as the user that serves. Runs on the
box: standard library alone, Python 3.8.
"""

import os
import pwd
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional

from training_job import checkpoints, report

LAUNCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launch.py")
POLL_SECONDS = 0.5
# Which evaluation the training's folder has.
EVALUATED = "evaluated.json"
# What main.py died of: a word of its log, and the sentence.
FULL = "The disk is full. Make room, or set box_data_dir to a larger disk."
REASONS = (
    (
        "holds no numbers any more",
        "What was learned grew beyond all numbers. Set finetune_learning_rate lower, and choose another finetune_name.",
    ),
    (
        "out of memory",
        "The card's memory did not suffice. Set finetune_batch lower (and finetune_accumulation higher), "
        "finetune_quantization to 4, or finetune_demos to stop.",
    ),
    ("No space left on device", FULL),
    # How torch says it.
    ("file write failed", FULL),
    ("unexpected pos", FULL),
    ("Disk quota exceeded", FULL),
    (
        "no kernel image is available",
        "There are no kernels for this precision: int4 does not run on an H100. Set finetune_quantization to 8.",
    ),
)


class RunError(Exception):
    """The training cannot be done, in a sentence with the next step."""


def tell(label: str, done: float = 0, total: Optional[float] = None, unit: str = "", rate: Any = None) -> None:
    """Tell whoever waits for the job how far it is."""
    item = {"label": label, "done": done, "total": total, "unit": unit, "rate": rate}
    checkpoints.write_json(os.environ["JOB_PROGRESS"], [item])


def words_of(name: str, told: Dict[str, Any]) -> str:
    """Return what stands before step and rate in the line of progress."""
    loss = "" if told.get("loss") is None else ", loss %.4f" % told["loss"]
    memory = ", %.1f GiB of GPU memory" % (told["gpu_mib"] / 1024) if told.get("gpu_mib") else ""
    return name + loss + memory


def check_identity(output: str, settings: Dict[str, Any]) -> None:
    """Take a training's folder, or refuse one that holds another training; raise RunError."""
    path = os.path.join(output, "identity.json")
    noted = checkpoints.read_json(path)
    if noted is None and checkpoints.steps(output):
        raise RunError("%s holds checkpoints that glmbox did not make. Choose another finetune_name." % output)
    if noted and noted["identity"] != settings["identity"]:
        keys = sorted(set(noted["inputs"]) | set(settings["inputs"]))
        other = [key for key in keys if noted["inputs"].get(key) != settings["inputs"].get(key)]
        raise RunError(
            "The training %s was begun with another %s. Choose another finetune_name, or delete %s on the box."
            % (settings["name"], ", ".join(other), output)
        )
    checkpoints.write_json(path, {"identity": settings["identity"], "inputs": settings["inputs"]})


def demote(user: str) -> Any:
    """Return what a child does first to become a user; nothing where this is no root."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(user)

    def become() -> None:
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.umask(0o022)

    return become


def own(path: str, user: str) -> None:
    """Make a folder the user's, where this is root."""
    os.makedirs(path, exist_ok=True)
    if os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        for folder, _, names in os.walk(path):
            for each in [folder, *(os.path.join(folder, name) for name in names)]:
                os.chown(each, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def command_of(settings: Dict[str, Any], folder: str, arguments: List[str]) -> List[str]:
    """Return how main.py is run: by the environment's Python, and by its torchrun for more than one card."""
    several = settings["gpus"] > 1
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc-per-node=%d" % settings["gpus"]]
    return [settings["python"], *(torchrun if several else []), LAUNCH, folder, settings["script"], *arguments]


def run_script(settings: Dict[str, Any], arguments: List[str], doing: str) -> None:
    """Run main.py to its end, telling how far it is; raise RunError with the reason where it fails."""
    folder = os.path.join(settings["output"], ".telling")
    own(settings["output"], settings["user"])
    own(folder, settings["user"])
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    environment = dict(os.environ, **settings["environment"])
    child = subprocess.Popen(
        command_of(settings, folder, arguments),
        cwd=os.path.dirname(settings["script"]),
        env=environment,
        stdin=subprocess.DEVNULL,
        preexec_fn=demote(settings["user"]),
    )
    try:
        while child.poll() is None:
            tell_of(settings, folder, doing)
            time.sleep(POLL_SECONDS)
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
    if child.returncode:
        raise RunError("%s failed (exit code %d). %s" % (doing.capitalize(), child.returncode, reason()))


def tell_of(settings: Dict[str, Any], folder: str, doing: str) -> None:
    """Tell what main.py has told."""
    told = checkpoints.read_json(os.path.join(folder, "step.json"))
    predicted = checkpoints.read_json(os.path.join(folder, "predicted.json"))
    if predicted:
        tell("%s, evaluating" % settings["name"], predicted["done"], predicted["total"], "answers")
    elif told:
        tell(words_of(settings["name"], told), told["step"], told["total"], "steps", told["rate"] or None)
    else:
        tell("%s, %s: data and model are being read" % (settings["name"], doing))


def reason() -> str:
    """Return why main.py died, by the end of this job's log."""
    try:
        with open(os.path.join(os.environ["JOB_DIR"], "log"), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            # Tracebacks may be broken into lines anywhere.
            text = " ".join(file.read().decode(errors="replace").split())
    except (OSError, KeyError):
        return ""
    return next((sentence for word, sentence in REASONS if word in text), "The lines above say why.")


def run_outside(name: str, command: List[str]) -> None:
    """Begin a command that outlives this job: nothing by which it would be ended as one of the job's is its own."""
    apart = ["setsid", "--fork"]
    if os.path.isdir("/run/systemd/system"):
        apart = ["systemd-run", "--quiet", "--collect", "--unit", name, "--"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JOB_")}
    nothing = subprocess.DEVNULL
    subprocess.run([*apart, *command], env=environment, stdin=nothing, stdout=nothing, stderr=nothing, check=True)


def make_room(settings: Dict[str, Any]) -> None:
    """Stop what has to make room, after it is seen to that it comes back whatever happens to this job.

    A process outside this job waits for the job's lock, which goes with the last process of it, and starts it again.
    """
    for service in settings["stop_services"]:
        lock = os.path.join(os.environ["JOB_DIR"], "lock")
        back = ["flock", "--shared", lock, settings["glmboxctl"], "start", service]
        run_outside("glmbox-finetune-%d-%s" % (os.getpid(), service), back)
        print("Stopping %s, which is started again when this job ends, however it ends." % service, flush=True)
        subprocess.run([settings["glmboxctl"], "stop", service], check=True)


def train(settings: Dict[str, Any]) -> float:
    """Train up to the last step, from the last whole checkpoint; return the seconds that it took here."""
    whole = checkpoints.tidy(settings["output"])
    if whole and whole[-1] >= settings["steps"]:
        return 0.0
    more = ["--resume_from_checkpoint", checkpoints.steps(settings["output"])[whole[-1]]] if whole else []
    print("Training from step %d on." % (whole[-1] if whole else 0), flush=True)
    begun = time.monotonic()
    run_script(settings, [*settings["train_arguments"], *more], "training")
    return time.monotonic() - begun


def evaluate(settings: Dict[str, Any], folder: str) -> None:
    """Let main.py answer the validation data with a checkpoint, unless it has answered just these."""
    if is_evaluated(settings):
        return
    run_script(settings, [*settings["evaluate_arguments"], "--ptuning_checkpoint", folder], "evaluating")
    noted = {"arguments": settings["evaluate_arguments"]}
    checkpoints.write_json(os.path.join(settings["output"], EVALUATED), noted)


def is_evaluated(settings: Dict[str, Any]) -> bool:
    """Tell whether nothing is to be evaluated, or just that was."""
    wanted = settings["evaluate_arguments"]
    noted = checkpoints.read_json(os.path.join(settings["output"], EVALUATED)) or {}
    return not wanted or noted.get("arguments") == wanted


def run(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Do all that is not done yet, and return the provenance of the training."""
    output = settings["output"]
    os.makedirs(output, exist_ok=True)
    check_identity(output, settings)
    done = checkpoints.read_json(os.path.join(output, report.PROVENANCE))
    if done and is_evaluated(settings) and checkpoints.is_whole(os.path.join(output, done["last"])):
        return dict(done)
    make_room(settings)
    seconds = train(settings) or (done or {}).get("train_seconds", 0.0)
    whole = checkpoints.tidy(output)
    if not whole or whole[-1] < settings["steps"]:
        raise RunError("main.py ended well and left no checkpoint of step %d." % settings["steps"])
    told = checkpoints.read_json(os.path.join(output, ".telling", "step.json")) or {}
    begun = time.monotonic()
    evaluate(settings, checkpoints.steps(output)[whole[-1]])
    evaluated = time.monotonic() - begun
    measured = {
        "train_seconds": round(seconds, 1),
        "evaluate_seconds": round(evaluated, 1),
        "gpu_mib": told.get("gpu_mib") or (done or {}).get("gpu_mib", 0),
    }
    provenance = report.write(output, settings, whole, measured)
    own(output, settings["user"])
    return provenance


def main(path: str) -> int:
    """Run the training whose settings stand in a JSON file; return the exit code."""
    # So that `finally` is run, and a child does not outlive this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = checkpoints.read_json(path)
    if settings is None:
        print("%s is not readable." % path)
        return 2
    try:
        provenance = run(settings)
    except RunError as error:
        print(error, flush=True)
        return 1
    except OSError as error:
        print("%s: %s. Mend that, and run the same command again." % (error.filename, error.strerror), flush=True)
        return 1
    checkpoints.write_json(os.environ["JOB_RESULT"], provenance)
    return 0
