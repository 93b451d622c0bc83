"""The box's half of `make bench-fetch`: times the fetcher and what a user would take instead, against nginx.

    python3 fetch_on_box.py <fetcher.pyz> <work folder> <runs>

Runs in the box: Python 3.8, with nginx, aria2c, wget and curl. Prints one JSON object: name to a list of seconds, one a
run, the ways taking turns so that a machine that is slow for a while is slow for all.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

MIB = 2**20
PORT = 8931
CAPPED_MIB, BIG_MIB, VERIFIED_MIB, KILLED_MIB = 128, 2048, 2048, 192
CONFIGURATION = """
daemon off; pid %(folder)s/nginx.pid; error_log %(folder)s/error.log; worker_processes 2;
events { worker_connections 256; }
http {
  sendfile on; sendfile_max_chunk 2m; tcp_nopush on;
  log_format sent '$body_bytes_sent';
  server {
    listen 127.0.0.1:%(port)d;
    access_log off;
    location / { root %(folder)s/srv; }
    location /capped/ { alias %(folder)s/srv/; limit_rate 2m; }
    location /slow/ { alias %(folder)s/srv/; limit_rate 512k; access_log %(folder)s/slow.log sent; }
  }
}
"""


def make(path, mib, seed):
    """Write a file of so many MiB that no disk compresses, and return its sha256."""
    digest = hashlib.sha256()
    block = hashlib.shake_256(seed.encode()).digest(MIB)
    with open(path, "wb") as file:
        for number in range(mib):
            piece = number.to_bytes(8, "big") + block[8:]
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def spec_for(folder, url, mib, sha256):
    """Write a job's specification for one file and return its path."""
    file = {"artifact": "bench", "path": "file.bin", "sha256": sha256, "size": mib * MIB, "part": sha256, "urls": [url]}
    settings = {"connections": 8, "stall_seconds": 15, "patience_seconds": 60, "sample_bytes": 2 * MIB, "proxy": "none"}
    settings.update(preferred_hosts=[], forbidden_hosts=[], keep_bad=False, peers=[])
    path = os.path.join(folder, "spec.json")
    with open(path, "w") as out:
        json.dump({"dest": folder + "/out", "artifact": "bench", "files": [file], "settings": settings}, out)
    return path


def fresh(folder):
    shutil.rmtree(folder + "/out", ignore_errors=True)
    os.makedirs(folder + "/out")
    os.sync()
    time.sleep(1)  # deleting a large file goes on for a while


def seconds_of(*command):
    begun = time.monotonic()
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{command[0]} ended with {ended.returncode}: {ended.stdout[-500:]}")
    return time.monotonic() - begun


def race(folder, runs, ways):
    """Return the seconds of each way, run in turn. ways: name to command."""
    times = {name: [] for name in ways}
    for _ in range(runs):
        for name, command in ways.items():
            fresh(folder)
            times[name].append(seconds_of(*command))
    return times


def capped(fetcher, folder, runs):
    """A server that gives each connection 2 MiB/s."""
    sha256 = make(folder + "/srv/capped.bin", CAPPED_MIB, "capped")
    url = f"http://127.0.0.1:{PORT}/capped/capped.bin"
    bare = ["aria2c", "--quiet", "--dir", folder + "/out", "-x8"]
    ways = {
        "glmbox": [sys.executable, fetcher, spec_for(folder, url, CAPPED_MIB, sha256)],
        "wget -c": ["wget", "--quiet", "-c", "-O", folder + "/out/file.bin", url],
        "aria2c -x8": [*bare, url],
        "aria2c -x8 -s8": [*bare, "-s8", url],
    }
    return race(folder, runs, ways)


def uncapped(fetcher, folder, runs):
    """A server that is as fast as loopback, onto the disk."""
    sha256 = make(folder + "/srv/big.bin", BIG_MIB, "big")
    url = f"http://127.0.0.1:{PORT}/big.bin"
    target = folder + "/out/file.bin"
    ways = {
        "glmbox": [sys.executable, fetcher, spec_for(folder, url, BIG_MIB, sha256)],
        "curl": ["curl", "--silent", "--output", target, url],
        # What glmbox does besides: the bytes are on the disk at the end, and proven.
        "curl, sync, sha256sum": [
            "sh",
            "-c",
            f"curl -s -o {target} {url} && sync {target} && sha256sum {target}",
        ],
        "aria2c": ["aria2c", "--quiet", "--dir", folder + "/out", url],
    }
    return race(folder, runs, ways)


def verified(fetcher, folder, runs):
    """2 GiB in 7 files, read and hashed."""
    fresh(folder)
    os.makedirs(folder + "/out/bench")
    files = []
    for number in range(7):
        mib = VERIFIED_MIB // 7 + (number < VERIFIED_MIB % 7)
        path = f"{number}.bin"
        sha256 = make(f"{folder}/out/bench/{path}", mib, path)
        files.append({"artifact": "bench", "path": path, "sha256": sha256, "size": mib * MIB, "part": sha256})
    sys.path.insert(0, fetcher)
    from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf

    times = {"glmbox": [], "sha256sum": []}
    for _ in range(runs):
        begun = time.monotonic()
        assert Shelf(folder + "/out").missing(files, recheck=True) == []
        times["glmbox"].append(time.monotonic() - begun)
        times["sha256sum"].append(seconds_of("sha256sum", *[f"{folder}/out/bench/{one['path']}" for one in files]))
    return times


def refetched(fetcher, folder, runs):
    """Killed -9 at half and started again: bytes that were sent twice, as a share of the file."""
    sha256 = make(folder + "/srv/slow.bin", KILLED_MIB, "slow")
    spec = spec_for(folder, f"http://127.0.0.1:{PORT}/slow/slow.bin", KILLED_MIB, sha256)
    log, shares = folder + "/slow.log", []
    for _ in range(runs):
        fresh(folder)
        with open(log, "w"):
            pass
        job = subprocess.Popen([sys.executable, fetcher, spec], stdout=subprocess.DEVNULL, start_new_session=True)
        part = f"{folder}/out/.partial/{sha256}"
        while not os.path.exists(part) or os.stat(part).st_blocks * 512 < KILLED_MIB * MIB / 2:
            time.sleep(0.01)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        subprocess.run([sys.executable, fetcher, spec], check=True, stdout=subprocess.DEVNULL)
        time.sleep(1)  # nginx writes its log at a request's end
        with open(log) as sent:
            total = sum(int(line) for line in sent if re.fullmatch(r"\d+\n", line))
        shares.append(total / (KILLED_MIB * MIB) - 1)
    return {"glmbox": shares}


def main():
    fetcher, folder, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.makedirs(folder + "/srv", exist_ok=True)
    with open(folder + "/nginx.conf", "w") as file:
        file.write(CONFIGURATION % {"folder": folder, "port": PORT})
    server = subprocess.Popen(["nginx", "-c", folder + "/nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        found = {}
        for measure in (capped, uncapped, verified, refetched):
            print("measuring: " + measure.__doc__.split("\n")[0], file=sys.stderr, flush=True)
            found[measure.__name__] = measure(fetcher, folder, runs)
    finally:
        server.terminate()
        server.wait()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
