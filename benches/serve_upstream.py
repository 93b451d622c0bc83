"""Runs one of the demos as upstream means it, a process and a model copy of its own, in `make bench-serve`'s box.

    python serve_upstream.py <script> <port> <model folder>

The script itself is unmodified. It asks for the model by its name on the hub, puts it on a GPU and opens a port that
another of the scripts opens too, none of which is possible here: so the name is led to the folder, .cuda() does
nothing, and the port is the given one. Weights and libraries, which are what is measured, are loaded as ever.
"""

import os
import runpy
import sys


def main(script: str, port: int, model: str) -> None:
    os.environ.update(GRADIO_SERVER_PORT=str(port), GRADIO_SERVER_NAME="127.0.0.1")
    import torch
    import transformers
    import uvicorn

    for auto in (transformers.AutoModel, transformers.AutoTokenizer):
        original = auto.from_pretrained
        auto.from_pretrained = lambda *_, original=original, **options: original(model, **options)
    torch.nn.Module.cuda = lambda self, *_: self
    serve = uvicorn.run
    uvicorn.run = lambda app, **options: serve(app, **{**options, "host": "127.0.0.1", "port": port})
    sys.path.insert(0, os.path.dirname(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
