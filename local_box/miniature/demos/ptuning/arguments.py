"""glmbox's stand-in of the upstream file ptuning/arguments.py: what the command lines beside it take."""

from dataclasses import dataclass


@dataclass
class ModelArguments:
    model_name_or_path: str
    ptuning_checkpoint: str | None = None
    cache_dir: str | None = None
    quantization_bit: int | None = None
    pre_seq_len: int | None = None
    prefix_projection: bool = False


@dataclass
class DataArguments:
    prompt_column: str = "prompt"
    response_column: str = "response"
    history_column: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    test_file: str | None = None
    overwrite_cache: bool = False
    preprocessing_num_workers: int | None = None
    max_source_length: int = 1024
    max_target_length: int = 128
    max_train_samples: int | None = None
    max_predict_samples: int | None = None
    source_prefix: str = ""
