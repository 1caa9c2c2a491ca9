"""A checkpoint is read at another number of ranks and ZeRO stage, and training goes on as it would have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rayalign.errors import InputError
from rayalign.models.engine_pieces import Piece
from rayalign.models.engine_state import share_of, stored_tensors
from tests.models.conftest import make_learner, run_two_ranks, settings, train
from tests.models.layouts import OTHERS, Layout, place, read, write


@pytest.fixture(scope="module")
def root(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """States that one rank and two wrote in each layout, each read by the other world in another layout."""
    root = tmp_path_factory.mktemp("layouts")
    for layout in OTHERS:
        write(folder, layout, place(root / "written", 1, layout))
    run_two_ranks("tests.models.layouts", folder, root)
    for layout in OTHERS:
        other = OTHERS[layout]
        read(folder, other, place(root / "written", 2, layout) / "before", place(root / "read", 1, other))
    return root


@pytest.mark.parametrize("layout", OTHERS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_another_layout_goes_on_as_the_one_before_would_have(root: Path, ranks: int, layout: Layout) -> None:
    written, read = place(root / "written", ranks, layout), place(root / "read", 3 - ranks, OTHERS[layout])
    before, loaded = stored_tensors(written / "before"), stored_tensors(read / "before")
    assert {key.partition("/")[0] for key in before} == {"weight", "exp_avg", "exp_avg_sq", "average"}
    torch.testing.assert_close(loaded, before, atol=0, rtol=0)
    seen, seen_before = (torch.load(path / "seen.pt", weights_only=True) for path in (read, written))
    torch.testing.assert_close(seen["weights"], seen_before["weights"], atol=0, rtol=0)
    assert seen["rates"] == seen_before["rates"]
    after, wanted = stored_tensors(read / "after"), stored_tensors(written / "after")
    moved = max(float((wanted[key] - before[key]).abs().max()) for key in wanted if key.startswith("weight/"))
    assert moved > 0.02
    # bf16 rounds the activations of a forward pass, whose company differs between layouts, and averaged weights
    tolerance = 1e-6 if layout[0] == "fp32" else 5e-3
    torch.testing.assert_close(after, wanted, atol=tolerance, rtol=1e-5)


def test_the_state_of_another_model_is_refused(folder: str, tmp_path: Path) -> None:
    learner = make_learner(folder)
    with pytest.raises(InputError, match="has no rank-0.pt; remove the checkpoint"):
        learner.load_state(tmp_path)
    learner.save_state(tmp_path)
    critic = make_learner(folder, head="scalar", role="critic", initial="zero")
    with pytest.raises(InputError, match="of another model: model.lm_head.* missing here; resume with the model that"):
        critic.load_state(tmp_path)


def test_a_state_without_one_rank_is_refused(folder: str, tmp_path: Path) -> None:
    make_learner(folder, settings(zero_stage=2)).save_state(tmp_path)
    content = torch.load(tmp_path / "rank-0.pt", weights_only=True)
    key, (start, values) = next(iter(content["pieces"].items()))
    content["pieces"][key] = (start, values[:-1].clone())
    torch.save(content, tmp_path / "rank-0.pt")
    with pytest.raises(InputError, match=f"lacks a part of {key}"):
        make_learner(folder).load_state(tmp_path)


def test_a_state_before_the_first_step_has_moments_of_zero(folder: str, tmp_path: Path) -> None:
    make_learner(folder).save_state(tmp_path)
    learner = make_learner(folder, settings(zero_stage=2))
    fresh = make_learner(folder, settings(zero_stage=2))
    train(learner)
    learner.load_state(tmp_path)
    for one in (learner, fresh):
        train(one)
    learner.save_state(tmp_path / "learner")
    fresh.save_state(tmp_path / "fresh")
    torch.testing.assert_close(stored_tensors(tmp_path / "learner"), stored_tensors(tmp_path / "fresh"), atol=0, rtol=0)


def test_what_every_rank_holds_is_written_once_however_many_pieces_each_has_of_its_own() -> None:
    values = torch.zeros(1)
    common = [Piece(f"average/{name}", 0, values, shared=True) for name in "abc"]
    first = [Piece("weight/a", 0, values), *common]
    second = [Piece("weight/b", 0, values), Piece("weight/c", 0, values), *common]
    written = [piece.key for rank, pieces in enumerate((first, second)) for piece in share_of(pieces, rank, 2)]
    assert sorted(written) == ["average/a", "average/b", "average/c", "weight/a", "weight/b", "weight/c"]
