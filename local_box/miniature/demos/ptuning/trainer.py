"""glmbox's stand-in of the upstream trainer: saves what was trained, which is the prefix alone."""

import os

import torch
from transformers import Trainer


class PrefixTrainer(Trainer):
    """Writes `pytorch_model.bin` with the trained weights, `config.json`, and the tokenizer, as upstream's does."""

    def _save(self, output_dir=None, state_dict=None):
        folder = output_dir or self.args.output_dir
        os.makedirs(folder, exist_ok=True)
        weights = self.model.state_dict()
        trained = {name: weights[name] for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.model.save_pretrained(folder, state_dict=trained)
        self.tokenizer.save_pretrained(folder)
        torch.save(self.args, os.path.join(folder, "training_args.bin"))
