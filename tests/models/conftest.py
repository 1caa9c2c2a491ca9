"""A model of a few thousand weights, and batches for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rayalign.algorithms.base import Algorithm, AlgorithmConfig
from rayalign.config import LearnerConfig
from rayalign.models.learner import Learner
from rayalign.types import Batch, LossSum, Metric, Metrics, Minibatch, Outputs, Role, Rollouts
from tests.ports import held_port

VOCABULARY = 40


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    pieces = ["<pad>", "<bos>", "<eos>", "<unk>"] + [f"w{i}" for i in range(VOCABULARY - 4)]
    raw = Tokenizer(WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    """A causal model whose logits are far from uniform."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=False,
        attention_dropout=0.5,
    )
    path = tmp_path_factory.mktemp("causal")
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def make_batch(rows: int = 12, longest: int = 14, seed: int = 0) -> Batch:
    """Rows of different lengths whose last part is the policy's; pairs of neighbours are units."""
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(6, longest + 1, (rows,), generator=generator)
    lengths_B[0] = longest
    steps_T = torch.arange(longest)
    mask_BT = (steps_T < lengths_B[:, None]).long()
    ids_BT = torch.randint(4, VOCABULARY, (rows, longest), generator=generator) * mask_BT
    tensors = {
        "input_ids_BT": ids_BT,
        "attention_mask_BT": mask_BT,
        "policy_mask_BT": mask_BT * (steps_T >= 4),
        "advantages_BT": torch.randn(rows, longest, generator=generator),
    }
    return Batch(tensors, torch.arange(rows) // 2)


class Weighted(Algorithm[AlgorithmConfig]):
    """Advantage times log-prob for a policy, squared error for a critic; sums over tokens."""

    Config = AlgorithmConfig
    unit = "pair"
    trains = ("policy", "critic")

    def prepare(self, rollouts: Rollouts) -> Batch:
        raise NotImplementedError

    def normaliser(self, role: Role, minibatch: Minibatch) -> float:
        return float(minibatch["policy_mask_BT"].sum())

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        count = self.normaliser(role, minibatch)
        if role == "policy":
            loss_BT = -minibatch["advantages_BT"] * outputs.logprobs_BT
        else:
            loss_BT = (outputs.values_BT - minibatch["advantages_BT"]).square()
        total = (loss_BT * minibatch["policy_mask_BT"]).sum()
        return LossSum(total, count, {"loss/toy": Metric(total.item() / count, count)})


WEIGHTED = Weighted(AlgorithmConfig(name="weighted"))
GRADIENT_LIKE = LearnerConfig(learning_rate=0.5, eps=1.0, betas=(0.0, 0.0), minibatch=8, micro_tokens=4096)
"""Adam with so large an eps moves by about learning rate times gradient, so weights compare gradients"""


def settings(**changes: object) -> LearnerConfig:
    """GRADIENT_LIKE, but for some settings."""
    return LearnerConfig.model_validate(GRADIENT_LIKE.model_dump() | changes)


def make_learner(folder: str, config: LearnerConfig = GRADIENT_LIKE, **changes: object) -> Learner:
    arguments = {"head": "causal", "role": "policy", "total_steps": 10, "seed": 0} | changes
    return Learner(folder, config=config, **arguments)


def train(learner: Learner, passes: int = 1) -> list[Metrics]:
    """All steps of some passes over the batch."""
    return [m for i in range(passes) for m in learner.update(make_batch(), WEIGHTED, pass_index=i, seed=3)]


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    """The whole weights on rank 0; nothing on the others, which take part."""
    tensors = {name: x.clone() for name, x in learner.weights(0).tensors}
    return {} if dist.get_rank() else tensors


def run_two_ranks(module: str, folder: str, out: Path) -> None:
    """Run a module of the tests as both ranks of a world of two, with a model's folder and one for what it leaves."""
    common = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    path = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-m", module, folder, str(out)]
    with held_port() as port:
        common |= {"MASTER_PORT": str(port)}
        environments = [os.environ | common | {"RANK": str(rank), "PYTHONPATH": path} for rank in (0, 1)]
        processes = [subprocess.Popen(command, env=e, stderr=subprocess.PIPE, text=True) for e in environments]
        for process in processes:
            _, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors
