#!/usr/bin/env bash
# transformers 5.24.0 and opacus 1.6.0 with torch 2.13.0, seen on 2026-11-30: one text moves the clipped sum by many clip norms.
#
# Believed: Opacus clips the gradient of each record to the clip norm, so leaving one record out moves the clipped sum by one clip
# norm at most, whatever the Trainer does around it.
# Happens: the Trainer divides the loss of a language model by the tokens of the whole batch. A long text makes the gradients of
# all short ones small, below the clip norm; without it they are large. The sum moves by 11 clip norms with 41 texts.
# Who is hurt: anyone who fine-tunes a language model with differential privacy in a Trainer and batches of unequal texts. The noise
# is for one clip norm; no accountant sees it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 opacus==1.6.0 transformers==5.24.0 accelerate==1.15.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from opacus import PrivacyEngine
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

SHORT = [{"ids": [1, 2 + number % 5, 7]} for number in range(40)]
LONG = {"ids": [3 * position % 30 for position in range(600)]}
CONFIG = LlamaConfig(
    vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=1024,
)


def collate(records):
    """Pad to the longest text; padding has no loss."""
    longest = max(len(record["ids"]) for record in records)

    def padded(value):
        return torch.tensor([record["ids"] + [value] * (longest - len(record["ids"])) for record in records])

    return {"input_ids": padded(0), "labels": padded(-100), "attention_mask": (padded(-100) != -100).long()}


def clipped_sum(records):
    """Return the sum of the clipped gradients of one step of a Trainer, before the noise."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(CONFIG)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name == "lm_head.weight"
    weight, kept = model.lm_head.weight, []
    _, optimizer, loader = PrivacyEngine().make_private(
        module=model, optimizer=torch.optim.SGD([weight], lr=0.0), noise_multiplier=1.0, max_grad_norm=1.0,
        data_loader=DataLoader(records, batch_size=len(records), collate_fn=collate), poisson_sampling=False,
        wrap_model=False,
    )
    add = optimizer.add_noise
    optimizer.add_noise = lambda: (kept.append(weight.summed_grad.clone()), add())
    arguments = TrainingArguments(
        output_dir=".", max_steps=1, report_to=[], disable_tqdm=True, save_strategy="no", use_cpu=True
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=records, optimizers=(optimizer, None))
    trainer.get_train_dataloader = lambda: loader
    trainer.train()
    return kept[0]


moved = (clipped_sum([*SHORT, LONG]) - clipped_sum(SHORT)).norm().item()
print(f"one of {len(SHORT) + 1} texts moves the sum of clipped gradients by {moved:.1f} clip norms; believed: 1 at most")
assert moved > 5
print("still so")
PYTHON
