"""glmbox's stand-in of the upstream file ptuning/main.py, with the same interface: P-Tuning v2 and its evaluation.

Arguments, files and the names in them are upstream's: checkpoint-N with pytorch_model.bin and trainer_state.json,
train_results.json, predict_results.json, generated_predictions.txt.
"""

import json
import os

import jieba
import numpy as np
import torch
from arguments import DataArguments, ModelArguments
from datasets import load_dataset
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge
from trainer import PrefixTrainer
from transformers import AutoConfig, AutoModel, AutoTokenizer, HfArgumentParser, Seq2SeqTrainingArguments, set_seed
from transformers.data import default_data_collator

PREFIX = "transformer.prefix_encoder."
IGNORED = -100


def read_rows(data, model, files):
    """The data files by the part that they are for."""
    return load_dataset("json", data_files=files, cache_dir=model.cache_dir, use_auth_token=None)


def load(arguments):
    """The tokenizer and the model with a prefix encoder, fresh or out of a checkpoint."""
    path = arguments.model_name_or_path
    config = AutoConfig.from_pretrained(path, trust_remote_code=True)
    config.pre_seq_len = arguments.pre_seq_len
    config.prefix_projection = arguments.prefix_projection
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    model = AutoModel.from_pretrained(path, config=config, trust_remote_code=True)
    if arguments.ptuning_checkpoint is not None:
        weights = torch.load(os.path.join(arguments.ptuning_checkpoint, "pytorch_model.bin"))
        trained = {name[len(PREFIX) :]: weight for name, weight in weights.items() if name.startswith(PREFIX)}
        model.transformer.prefix_encoder.load_state_dict(trained)
    if arguments.quantization_bit is not None:
        model = model.quantize(arguments.quantization_bit)
    if torch.cuda.is_available():
        model = model.half()
        if arguments.pre_seq_len is not None:
            model.transformer.prefix_encoder.float()
        return tokenizer, model.cuda()
    return tokenizer, model.float()


def prompt_of(row, tokenizer, data):
    """The text that stands before the answer of a row."""
    history = row[data.history_column] if data.history_column else None
    return data.source_prefix + tokenizer.build_prompt(row[data.prompt_column], history)


def encode(row, tokenizer, data):
    """Token ids of prompt and answer, padded to one length, and labels for the answer alone."""
    asked = tokenizer.encode(prompt_of(row, tokenizer, data), truncation=True, max_length=data.max_source_length)
    answered = tokenizer.encode(row[data.response_column], truncation=True, max_length=data.max_target_length)
    answered.append(tokenizer.eos_token_id)
    rest = data.max_source_length + data.max_target_length + 1 - len(asked) - len(answered)
    return {
        "input_ids": asked + answered + [tokenizer.pad_token_id] * rest,
        "labels": [IGNORED] * len(asked) + answered + [IGNORED] * rest,
    }


def take(rows, most):
    """The first rows, or all of them where there is no limit."""
    return rows if most is None else rows.select(range(min(most, len(rows))))


def train(trainer, resume_from):
    result = trainer.train(resume_from_checkpoint=resume_from)
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()


def score(predicted, expected):
    """Rouge 1, 2 and L over words, and BLEU 4 over characters, in percent."""
    words = [" ".join(jieba.cut(text)) for text in (predicted, expected)]
    rouge = Rouge().get_scores(*words)[0] if words[0].strip() else {}
    scores = {name: 100 * rouge.get(name, {"f": 0.0})["f"] for name in ("rouge-1", "rouge-2", "rouge-l")}
    smooth = SmoothingFunction().method3
    return {**scores, "bleu-4": 100 * sentence_bleu([list(expected)], list(predicted), smoothing_function=smooth)}


def predict(trainer, tokenizer, data, rows):
    """Let the model answer each row, score the answers, and write both down."""
    model, answers, scores = trainer.model.eval(), [], []
    length = data.max_source_length + data.max_target_length + 1
    for row in rows:
        asked = tokenizer.encode(prompt_of(row, tokenizer, data), truncation=True, max_length=data.max_source_length)
        ids = torch.tensor([asked], device=model.device)
        with torch.inference_mode():
            drawn = model.generate(input_ids=ids, max_length=length, do_sample=True, top_p=0.7, temperature=0.95)
        answer = tokenizer.decode(drawn[0, len(asked) :], skip_special_tokens=True).strip()
        answers.append({"labels": row[data.response_column], "predict": answer})
        scores.append(score(answer, row[data.response_column]))
    metrics = {f"predict_{name}": round(float(np.mean([one[name] for one in scores])), 4) for name in scores[0]}
    metrics["predict_samples"] = len(rows)
    trainer.log_metrics("predict", metrics)
    trainer.save_metrics("predict", metrics)
    with open(os.path.join(trainer.args.output_dir, "generated_predictions.txt"), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)


def main():
    parser = HfArgumentParser((ModelArguments, DataArguments, Seq2SeqTrainingArguments))
    model_arguments, data, training = parser.parse_args_into_dataclasses()
    set_seed(training.seed)
    files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    rows = read_rows(data, model_arguments, {part: path for part, path in files.items() if path})
    tokenizer, model = load(model_arguments)
    trained = None
    if training.do_train:
        chosen = take(rows["train"], data.max_train_samples)
        trained = chosen.map(lambda row: encode(row, tokenizer, data), remove_columns=chosen.column_names)
    trainer = PrefixTrainer(
        model=model, args=training, train_dataset=trained, tokenizer=tokenizer, data_collator=default_data_collator
    )
    if training.do_train:
        train(trainer, training.resume_from_checkpoint)
    if training.do_predict:
        predict(trainer, tokenizer, data, take(rows["test"], data.max_predict_samples))


if __name__ == "__main__":
    main()
