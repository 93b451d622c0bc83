"""Loads the one tokenizer and the one model, and makes sure that they answer."""

import ctypes.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from demo_host.config import Config
from demo_host.facade import Facade
from demo_host.state import Host

PREFIX = "transformer.prefix_encoder."
QUANTIZED_BITS = {"int8": 8, "int4": 4}


class LoadError(Exception):
    """The model cannot be loaded; the message is one sentence."""


def load(host: Host) -> tuple[Any, Any]:
    """Return the tokenizer and the model from ``model_dir``, on the planned device in the planned precision.

    How much of the model's files is read is told to the host's state and log.

    Raises:
        LoadError: with the reason in one sentence.
    """
    config = host.config
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer

        tell_progress(host)
        if config.device == "cuda" and not torch.cuda.is_available():
            raise LoadError(
                f"The plan says device cuda, but torch {torch.__version__} finds no usable GPU: look at nvidia-smi."
            )
        leave_planning_out(torch)
        if config.precision in QUANTIZED_BITS:
            offer_cuda_runtime(Path(torch.__file__).parent)
        tokenizer = AutoTokenizer.from_pretrained(config.model_dir, trust_remote_code=True)
        if config.gpus > 1:
            return tokenizer, spread(config).eval()
        if config.checkpoint:
            return tokenizer, tuned(config).eval()
        model = AutoModel.from_pretrained(config.model_dir, trust_remote_code=True)
        return tokenizer, place(model, config.device, config.precision).eval()
    except LoadError:
        raise
    except Exception as error:
        # No prompt exists yet, so the message may be told; its first line is the telling one.
        reason = (str(error).strip().splitlines() or [""])[0]
        with_prefix = f" with the prefix of {config.checkpoint}" if config.checkpoint else ""
        raise LoadError(
            f"The model in {config.model_dir}{with_prefix} cannot be loaded on {config.device} as {config.precision}: "
            f"{type(error).__name__}: {reason}"
        ) from error


def leave_planning_out(torch: Any) -> None:
    """Keep torch from cuDNN's attention, which newer releases prefer on some cards (on an H100, for one).

    It plans anew for each length of a text and in each thread, so that here, where each request has a thread of its
    own, every token would be planned for: 100 ms a token where 33 would do. See docs/upstream.md.
    """
    prefer = getattr(torch.backends.cuda, "enable_cudnn_sdp", None)
    if prefer is not None:
        prefer(False)


def tell_progress(host: Host) -> None:
    """Make transformers tell after each of the model's files how many percent of their bytes are loaded."""
    import transformers.modeling_utils

    transformers.utils.logging.disable_progress_bar()
    files = sorted(Path(host.config.model_dir).glob("*.bin")) + sorted(
        Path(host.config.model_dir).glob("*.safetensors")
    )
    sizes = {str(path): path.stat().st_size for path in files}
    original, loaded = transformers.modeling_utils.load_state_dict, [0]

    def load_state_dict(checkpoint_file: Any, *arguments: Any, **options: Any) -> Any:
        state = original(checkpoint_file, *arguments, **options)
        loaded[0] += sizes.get(str(checkpoint_file), 0)
        percent = min(100, 100 * loaded[0] // max(sum(sizes.values()), 1))
        host.state.set_percent(percent)
        host.state.set("loading", f"the model is being loaded, {percent} %")
        host.log.write("loading", percent=percent, file=os.path.basename(str(checkpoint_file)))
        return state

    transformers.modeling_utils.load_state_dict = load_state_dict


def spread(config: Config) -> Any:
    """Load the model as float16 over several GPUs, by the function that upstream's utils.py has for it."""
    sys.path.insert(0, config.code_dir)
    from utils import load_model_on_gpus

    return load_model_on_gpus(config.model_dir, num_gpus=config.gpus)


def tuned(config: Config) -> Any:
    """Load the model with the prefix that P-Tuning has trained, as upstream's ptuning/web_demo.py does.

    The checkpoint holds the prefix alone and the settings that it was made with. Nothing in it is executed.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    with open(os.path.join(config.checkpoint, "config.json"), encoding="utf-8") as file:
        trained = json.load(file)
    if not trained.get("pre_seq_len"):
        raise LoadError(f"{config.checkpoint} holds no trained prefix: its config.json has no pre_seq_len.")
    settings = AutoConfig.from_pretrained(config.model_dir, trust_remote_code=True)
    settings.pre_seq_len = trained["pre_seq_len"]
    settings.prefix_projection = trained.get("prefix_projection", False)
    model = AutoModel.from_pretrained(config.model_dir, config=settings, trust_remote_code=True)
    weights = torch.load(os.path.join(config.checkpoint, "pytorch_model.bin"), map_location="cpu", weights_only=True)
    prefix = {name[len(PREFIX) :]: weight for name, weight in weights.items() if name.startswith(PREFIX)}
    model.transformer.prefix_encoder.load_state_dict(prefix)
    model = place(model, config.device, config.precision)
    # It was trained in float32.
    model.transformer.prefix_encoder.float()
    return model


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
    # What is quantized on disk already must not be quantized again.
    bits = None if getattr(model.config, "quantization_bit", 0) else QUANTIZED_BITS.get(precision)
    model = model.half()
    # Quantized before it is moved: the card then never holds the fp16 copy.
    return (model.quantize(bits) if bits else model).cuda()


def first_generation(host: Host, tokenizer: Any, model: Any) -> None:
    """Make the model say one token; whatever goes wrong is raised."""
    room = len(tokenizer.encode(tokenizer.build_prompt("你好", history=[]))) + 1
    for _ in Facade(model, "warm_up", host).stream_chat(tokenizer, "你好", history=[], max_length=room):
        pass
