"""TRL: a record is a row in supervised fine-tuning without packing, and two rows in preference training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from ledger.client import Ledger
from ledger.client.transformers import NotCovered, mean_of_records
from tests.integrations.transformers.scene import arguments, asked, private, small
from tests.kit.opacus_scene import Executed

pytestmark = pytest.mark.filterwarnings("ignore")
torch.set_num_threads(1)
WORDS = [f"w{number}" for number in range(37)]
TEXTS = [" ".join(WORDS[start % 30 : start % 30 + 2 + start % 6]) for start in range(60)]
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 20,
    "max_steps": 4,
    "max_length": 16,
    "bf16": False,
    "gradient_checkpointing": False,
}
ADAPTER = LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM")


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """What is really drawn and added in this test."""
    return Executed.watch(monkeypatch)


def words() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are words."""
    names = ["<pad>", "<s>", "</s>", *WORDS]
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(names)}, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    )


def tuning(folder: Path, *, loss: Any = mean_of_records, **options: Any) -> Any:
    """Supervised fine-tuning of an adapter, with batches of 20 of 60 texts."""
    given: dict[str, Any] = {**arguments(folder), **COMMON, **options}
    return SFTTrainer(
        model=GPT2LMHeadModel(small()),
        args=SFTConfig(**given),
        train_dataset=Dataset.from_list([{"text": text} for text in TEXTS]),
        processing_class=words(),
        peft_config=ADAPTER,
        compute_loss_func=loss,
    )


def preferring(folder: Path, kind: type[Any] = DPOTrainer, config: type[Any] = DPOConfig, **options: Any) -> Any:
    """Preference training of an adapter, with batches of 20 of 60 pairs."""
    pairs: list[dict[str, Any]] = [{"prompt": "w1 w2", "chosen": f" {text}", "rejected": " w3 w4 w5"} for text in TEXTS]
    if kind is KTOTrainer:
        pairs = [{"prompt": "w1 w2", "completion": f" {text}", "label": len(text) % 2 == 0} for text in TEXTS]
    given: dict[str, Any] = {**arguments(folder), **COMMON, **options}
    return kind(
        model=GPT2LMHeadModel(small()),
        args=config(**given),
        train_dataset=Dataset.from_list(pairs),
        processing_class=words(),
        peft_config=ADAPTER,
    )


def test_a_text_is_a_row(ledger: Ledger, records: str, executed: Executed, tmp_path: Path) -> None:
    """Goal: without packing, fine-tuning is asked for as it is executed."""
    one = tuning(tmp_path)
    callback = private(ledger, records, one, nominal_size=60)
    one.train()
    mechanism = asked(ledger, callback)
    assert (mechanism["steps"], mechanism["noise_multiplier"]) == (one.state.global_step, 2.0) == (4, 2.0)
    assert set(executed.rates) == {1 / 3}
    # One draw of noise for each of the adapter's two matrices.
    assert len(executed.noises) == 2 * 4
    evidence = ledger.run_info(callback.training.run.id)["settled"]["evidence"]["opacus"]
    assert evidence["libraries"]["trl"].startswith("1.16.")
    assert {"trl-packing", "trl-preference-pairs"} <= set(evidence["rules_out"])


PACKED: dict[str, dict[str, Any]] = {
    "bfd": {"packing": True},
    "wrapped": {"packing": True, "packing_strategy": "wrapped"},
    "free": {"padding_free": True, "max_length": None},
}


@pytest.mark.parametrize("name", PACKED)
def test_packing_is_refused(ledger: Ledger, records: str, executed: Executed, tmp_path: Path, name: str) -> None:
    """Goal: packing and padding-free batches join records in rows: no guarantee for a record."""
    one = tuning(tmp_path, **PACKED[name])
    private(ledger, records, one, nominal_size=60)
    with pytest.raises(NotCovered, match="packing=False, padding_free=False"):
        one.train()
    assert not executed.noises


def test_checkpointed_gradients_are_refused(ledger: Ledger, records: str, tmp_path: Path) -> None:
    """Goal: with TRL's default, Opacus' hooks lose the gradients of the records: refused at the start."""
    one = tuning(tmp_path, gradient_checkpointing=True)
    private(ledger, records, one, nominal_size=60)
    with pytest.raises(NotCovered, match="gradient_checkpointing=False"):
        one.train()


def test_a_mean_over_tokens_is_refused(ledger: Ledger, records: str, executed: Executed, tmp_path: Path) -> None:
    """Goal: TRL's own loss divides by the tokens of the batch. It is refused, with the function to give."""
    one = tuning(tmp_path, loss=None)
    private(ledger, records, one, nominal_size=60)
    with pytest.raises(NotCovered, match="compute_loss_func=mean_of_records"):
        one.train()
    assert not executed.noises


def test_a_mean_of_records_joins_none() -> None:
    """Goal: with mean_of_records, what a record adds to the sum does not depend on the other one; with a mean over the
    tokens it does. Method: the gradient of the first of two records, times two, beside a short and a long companion."""
    torch.manual_seed(0)
    first = torch.randn(1, 9, 5)
    labels = torch.randint(5, (1, 9))

    def added(loss: Any, companion: int) -> Any:
        logits = torch.cat([first, torch.randn(1, 9, 5)]).requires_grad_()
        beside = torch.randint(5, (1, 9)).masked_fill(torch.arange(9) > companion, -100)
        loss(SimpleNamespace(logits=logits), torch.cat([labels, beside])).backward()
        assert logits.grad is not None
        return 2 * logits.grad[0]

    def tokens(outputs: Any, targets: Any) -> Any:
        return torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())

    assert torch.allclose(added(mean_of_records, 1), added(mean_of_records, 8))
    assert torch.allclose(
        added(mean_of_records, 0)[:-1],
        torch.autograd.functional.jacobian(
            lambda one: torch.nn.functional.cross_entropy(one, labels[0, 1:]), first[0, :-1]
        ),
    )
    assert added(tokens, 1).norm() > 1.5 * added(tokens, 8).norm()


def test_a_pair_is_two_rows(ledger: Ledger, records: str, executed: Executed, tmp_path: Path) -> None:
    """Goal: a preference pair is two rows, each of which is clipped: its sum moves by up to two clip norms, so half of
    the noise multiplier is asked for. Method: the rows that were clipped, beside the records drawn and the noise."""
    one = preferring(tmp_path)
    callback = private(ledger, records, one, nominal_size=60)
    rows: list[int] = []
    step = one.training_step

    def counted(*given: Any) -> Any:
        loss = step(*given)
        rows.append(len(one.optimizer.optimizer.grad_samples[0]))
        return loss

    one.training_step = counted
    one.train()
    assert rows == [2 * size for size in executed.batches[:4]]
    mechanism = asked(ledger, callback)
    assert (mechanism["steps"], mechanism["noise_multiplier"]) == (4, 1.0)
    assert {std for std, _ in executed.noises} == {2.0}


def test_pairs_that_are_asked_for_as_single_rows(
    ledger: Ledger, records: str, executed: Executed, tmp_path: Path
) -> None:
    """Goal: a pair that is asked for as one row is refused before the noise, by the rows that are clipped."""
    one = preferring(tmp_path)
    private(ledger, records, one, nominal_size=60, rows_per_record=1)
    with pytest.raises(NotCovered, match=r"gradients of \d+ rows, and \d+ records were drawn"):
        one.train()
    assert not executed.noises


def test_losses_and_trainers_that_join_pairs(ledger: Ledger, records: str, tmp_path: Path) -> None:
    """Goal: a loss with a mean over the pairs seen, and a trainer that nobody read, are refused."""
    one = preferring(tmp_path, loss_type=["bco_pair"])
    private(ledger, records, one, nominal_size=60)
    with pytest.raises(NotCovered, match="loss_type=bco_pair"):
        one.train()
    with pytest.raises(NotCovered, match="KTOTrainer of TRL is not known here"):
        private(ledger, records, preferring(tmp_path, KTOTrainer, KTOConfig))
