"""Loads the one tokenizer and the one model, and makes sure that they answer."""

import ctypes.util
import os
import tempfile
from pathlib import Path
from typing import Any

from demo_host.config import Config
from demo_host.facade import Facade
from demo_host.state import Host

QUANTIZED_BITS = {"int8": 8, "int4": 4}


class LoadError(Exception):
    """The model cannot be loaded; the message is one sentence."""


def load(config: Config) -> tuple[Any, Any]:
    """Return the tokenizer and the model from ``model_dir``, on the planned device in the planned precision.

    Raises:
        LoadError: with the reason in one sentence.
    """
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer

        if config.device == "cuda" and not torch.cuda.is_available():
            raise LoadError(
                f"The plan says device cuda, but torch {torch.__version__} finds no usable GPU: look at nvidia-smi."
            )
        if config.precision in QUANTIZED_BITS:
            offer_cuda_runtime(Path(torch.__file__).parent)
        tokenizer = AutoTokenizer.from_pretrained(config.model_dir, trust_remote_code=True)
        model = AutoModel.from_pretrained(config.model_dir, trust_remote_code=True)
        return tokenizer, place(model, config.device, config.precision).eval()
    except LoadError:
        raise
    except Exception as error:
        # No prompt exists yet, so the message may be told; its first line is the telling one.
        reason = (str(error).strip().splitlines() or [""])[0]
        raise LoadError(
            f"The model in {config.model_dir} cannot be loaded on {config.device} as {config.precision}: "
            f"{type(error).__name__}: {reason}"
        ) from error


def offer_cuda_runtime(torch_dir: Path) -> None:
    """Let cpm_kernels, which quantizes, find the CUDA runtime that torch brought with it.

    It looks below CUDA_PATH and /usr/local/cuda and asks ldconfig; on a box without the toolkit none of them
    knows one, and quantize() would say that the library cudart is not initialized.
    """
    if os.path.exists("/usr/local/cuda/lib64/libcudart.so") or ctypes.util.find_library("cudart"):
        return
    brought = sorted([*torch_dir.glob("lib/libcudart*.so*"), *torch_dir.parent.glob("nvidia/*/lib/libcudart.so*")])
    if brought:
        folder = Path(tempfile.mkdtemp(prefix="cuda-"))
        (folder / "lib64").mkdir()
        (folder / "lib64" / "libcudart.so").symlink_to(brought[0])
        os.environ["CUDA_PATH"] = str(folder)


def place(model: Any, device: str, precision: str) -> Any:
    """Convert ``model`` to ``precision`` and move it to ``device``."""
    if device == "cpu":
        return model.float()
    bits = QUANTIZED_BITS.get(precision)
    model = model.half()
    # Quantized before it is moved: the card then never holds the fp16 copy.
    return (model.quantize(bits) if bits else model).cuda()


def first_generation(host: Host, tokenizer: Any, model: Any) -> None:
    """Make the model say one token; whatever goes wrong is raised."""
    room = len(tokenizer.encode(tokenizer.build_prompt("你好", history=[]))) + 1
    for _ in Facade(model, "warm_up", host).stream_chat(tokenizer, "你好", history=[], max_length=room):
        pass
