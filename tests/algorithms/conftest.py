import pytest
import torch

from rayalign.types import Outputs, Rollouts

LENGTHS = (3, 5, 1, 4, 2, 5)
GROUPS = (0, 0, 0, 1, 1, 2)
REWARD_TOKENS = (90, 91, 92, 93)


@pytest.fixture
def make_rollouts():
    """Six answers of three groups; one has a token of the environment within.

    Prompts are two tokens, the first a reward token.
    """

    def make(poison: float = 0.0, seed: int = 0) -> Rollouts:
        generator = torch.Generator().manual_seed(seed)
        lengths, place = torch.tensor(LENGTHS)[:, None], torch.arange(8)[None, :]
        attention = (place < lengths + 2).long()
        mask = attention * (place >= 2)
        mask[1, 4] = 0

        def numbers() -> torch.Tensor:
            x = torch.randn(6, 8, dtype=torch.float64, generator=generator)
            return x.masked_fill(mask == 0, poison)

        logprobs = numbers()
        input_ids = torch.randint(0, 9, (6, 8), generator=generator)
        input_ids[:, 0] = REWARD_TOKENS[0]
        return Rollouts(
            input_ids_BT=input_ids,
            attention_mask_BT=attention,
            policy_mask_BT=mask,
            group_B=torch.tensor(GROUPS),
            scores_B=torch.tensor([1.0, 3.0, 2.0, 0.5, 0.5, -1.0], dtype=torch.float64),
            preferences_B=torch.full((6,), 0.75, dtype=torch.float64),
            desirable_B=torch.tensor([1.0, 0.0, 0.75, 1.0, 0.0, 0.0], dtype=torch.float64),
            ended_B=torch.tensor([1, 0, 1, 1, 1, 0]),
            behaviour_logprobs_BT=logprobs + 0.1 * numbers(),
            logprobs_BT=logprobs,
            reference_logprobs_BT=logprobs + 0.3 * numbers(),
            values_BT=numbers(),
            staleness_B=torch.tensor([0, 1, 0, 2, 0, 0]),
            reward_tokens=REWARD_TOKENS,
        )

    return make


@pytest.fixture
def make_outputs():
    """What a model made after some updates; leaves, so that gradients can be asked for."""

    def make(mask_BT: torch.Tensor, poison: float = 0.0) -> Outputs:
        generator = torch.Generator().manual_seed(7)

        def leaf() -> torch.Tensor:
            x = torch.randn(mask_BT.shape, dtype=torch.float64, generator=generator)
            return x.masked_fill(mask_BT == 0, poison).requires_grad_()

        scores = torch.randn(len(mask_BT), dtype=torch.float64, generator=generator).requires_grad_()
        return Outputs(leaf(), leaf(), leaf(), scores, leaf())

    return make
