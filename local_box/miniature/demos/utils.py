"""glmbox's stand-in of the upstream file utils.py, with the same interface: load_model_on_gpus()."""

import os

from torch.nn import Module
from transformers import AutoModel


def spread_layers(num_layers: int, num_gpus: int) -> dict[str, int]:
    """GPU number of each module: all but the layers on GPU 0, the layers in equal runs over all GPUs."""
    device_map = dict.fromkeys(["word_embeddings", "final_norm", "output_layer"], 0)
    device_map.update({f"layers.{layer}": layer * num_gpus // num_layers for layer in range(num_layers)})
    return device_map


def load_model_on_gpus(
    checkpoint_path: str | os.PathLike,
    num_gpus: int = 2,
    device_map: dict[str, int] | None = None,
    **kwargs,
) -> Module:
    """Load the model as float16 on one GPU, or spread over several by `device_map`."""
    model = AutoModel.from_pretrained(checkpoint_path, trust_remote_code=True, **kwargs).half()
    if num_gpus < 2 and device_map is None:
        return model.cuda()

    from accelerate import dispatch_model

    return dispatch_model(model, device_map=device_map or spread_layers(model.config.num_layers, num_gpus))
