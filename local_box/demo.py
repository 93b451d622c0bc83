"""`make demo`: a bare box on this machine, deployed by the real site.yml, and asked.

Shows what a user of a rented box will see, at the same speed or slower: nothing here is prepared beforehand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import box
import fill_bundle
from ansible_collections.glmbox.box.plugins.module_utils.questions import request, send

ROOT = box.ROOT
SITE = ["ansible-playbook", "site.yml", "-i", "inventory/local_box"]
URL = f"http://127.0.0.1:{box.GATEWAY_PORT}"
TOKEN_FILE = box.INVENTORY / ".state" / "gateway_token"
PROMPT = "你好"


def deploy() -> None:
    """Run exactly what a user runs."""
    print(f"$ {' '.join(SITE)}", flush=True)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if subprocess.run(SITE, cwd=ROOT, env=environment, check=False).returncode:
        raise box.BoxError("The deployment failed; the reason stands above. Mend it and run `make demo` again.")


def answer() -> str:
    """Return what the box answers to the demo's prompt, asked as curl would."""
    token = TOKEN_FILE.read_text(encoding="ascii").strip()
    status, text = send(request(URL + "/", token=token, body={"prompt": PROMPT, "history": []}))
    if status != 200:
        raise box.BoxError(f"{URL}/ gave status {status}: {text}")
    return json.loads(text)["response"]


def summary(said: str, stages: dict[str, float]) -> str:
    """Return the last screen: where to go on, and where the time went."""
    token = TOKEN_FILE.relative_to(ROOT)
    bearer = f'-H "Authorization: Bearer $(cat {token})" -H "Content-Type: application/json"'
    chat = {"model": "chatglm2-6b", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    plain = json.dumps({"prompt": PROMPT, "history": []}, ensure_ascii=False)
    rows = "\n".join(f"  {stage:<26}{seconds:>7.1f} s" for stage, seconds in stages.items())
    return f"""
The local box answers at {URL}
  {PROMPT}  ->  {said}
The token stands in {token}
The page, for a browser (user glmbox, password: the token): {URL}/

curl -X POST {URL}/ {bearer} -d '{plain}'

curl -N {URL}/v1/chat/completions {bearer} -d '{json.dumps(chat, ensure_ascii=False)}'

{rows}
  {"together":<26}{sum(stages.values()):>7.1f} s
"""


def main() -> None:
    stages: dict[str, float] = {}
    steps = (
        ("this machine's packages", box.ensure_packages),
        ("the box's image", box.ensure_image),
        ("starting the box", box.start),
        ("filling the bundle", fill_bundle.fill),
        ("site.yml", deploy),
    )
    try:
        for name, step in steps:
            print(f"== {name}", flush=True)
            begun = time.monotonic()
            step()
            stages[name] = time.monotonic() - begun
        print(summary(answer(), stages))
    except (box.BoxError, fill_bundle.BundleError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
