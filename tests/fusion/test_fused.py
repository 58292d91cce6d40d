"""Invariants of profiles in models that are not ours."""

from typing import Any

import numpy as np
import pytest
import torch
from made import DIM, EVERYTHING, ITEMS, MF, TEXT, USERS, Joint, augment, augmented, mlp_of, plain_weights
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import reclm
from reclm.data.dataset import Dataset
from reclm.errors import BadInput
from reclm.fusion.augment import Augmented
from reclm.fusion.parametrization import base_table, fused_table
from reclm.profiles.matrix import ProfileMatrix
from reclm.testing import checkerboard, profiles


def test_the_fused_table_is_what_the_equation_says(matrices: Any) -> None:
    model = augmented(matrices, offset=1)
    base = MF(offset=1)
    mlp = mlp_of(model)
    first, first_bias, second, second_bias = mlp.t_pro.parameters()

    def fused(rows: Tensor, text: np.ndarray, normalize: bool) -> Tensor:
        encoded = F.relu(torch.from_numpy(text) @ first.T + first_bias) @ second.T + second_bias
        encoded = encoded / encoded.norm(dim=1, keepdim=True) if normalize else encoded
        return F.relu(torch.cat([rows, encoded], 1) @ mlp.psi.weight.T + mlp.psi.bias)

    users = fused(base.user_embedding.weight, matrices["user"].vectors, True)
    items = fused(base.item_embedding.weight[1:], matrices["item"].vectors, False)
    torch.testing.assert_close(model.user_embedding.weight, users)
    torch.testing.assert_close(model.item_embedding.weight[1:], items)
    assert torch.equal(model.item_embedding.weight[0], base.item_embedding.weight[0])
    torch.testing.assert_close(model.scores(), users @ items.T)


@pytest.mark.parametrize("side", ["user", "item", "both"])
def test_only_the_named_side_changes(matrices: Any, side: str) -> None:
    model, plain = augmented({kind: one for kind, one in matrices.items() if side in (kind, "both")}), MF()
    for kind, table in (("user", "user_embedding"), ("item", "item_embedding")):
        touched = side in (kind, "both")
        assert (fused_table(getattr(model, table)) is not None) == touched
        assert torch.equal(getattr(model, table).weight, getattr(plain, table).weight) != touched
    counted = [one.kind for one in Augmented(model).coverage]
    assert counted == (["user", "item"] if side == "both" else [side])


def test_a_side_is_left_out_by_none_too(matrices: Any) -> None:
    model = MF()
    handle = augment(model, {"user": matrices["user"]}, items=None)
    assert list(handle.tables) == ["user_embedding"]


def test_equal_widths_share_one_mlp_and_others_do_not(matrices: Any) -> None:
    one, two = (
        [side.fusion.mlp for table in handle.fusions for side in table.sides]
        for handle in (augment(MF(), matrices), augment(MF(dim=5), matrices))
    )
    assert one[0] is one[1]
    assert [mlp.psi.out_features for mlp in two] == [DIM, 5]


def test_two_pairs_of_embeddings(matrices: Any) -> None:
    model = MF()
    model.users, model.items = nn.Embedding(USERS, 3), nn.Embedding(ITEMS, 3)
    augment(model, matrices)
    handle = augment(model, matrices, users="users", items="items")
    assert list(handle.tables) == ["user_embedding", "item_embedding", "users", "items"]
    assert [one.embedding for one in handle.coverage] == list(handle.tables)
    reclm.remove(model)
    assert not any(parametrize.is_parametrized(one) for one in model.modules())


def test_gradients_reach_both_mlps_and_the_base_tables(matrices: Any) -> None:
    model = augmented(matrices)
    model(EVERYTHING, EVERYTHING).sum().backward()
    names = [name for name, one in model.named_parameters() if one.grad.abs().sum() > 0]
    assert names == [name for name, _ in model.named_parameters()]
    assert sum("original" in name for name in names) == 2
    assert sum("t_pro" in name for name in names) == 4
    assert sum("psi" in name for name in names) == 2


def test_an_optimiser_made_afterwards_trains_all_of_it(matrices: Any) -> None:
    model = augmented(matrices)
    before = plain_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(EVERYTHING, EVERYTHING).sum().backward()
    optimizer.step()
    assert all(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    added = {id(one) for one in Augmented(model).parameters()}
    assert added == {id(one) for name, one in model.named_parameters() if "original" not in name}


def test_permuting_ids_with_their_rows_permutes_scores(matrices: Any) -> None:
    order = np.random.default_rng(0).permutation(ITEMS)
    plain = augmented(matrices)
    permuted = MF()
    with torch.no_grad():
        permuted.item_embedding.weight.copy_(permuted.item_embedding.weight[order])
    shuffled = ProfileMatrix(matrices["item"].vectors[order], matrices["item"].present[order])
    augment(permuted, {**matrices, "item": shuffled})
    torch.testing.assert_close(permuted.scores(), plain.scores()[:, order])
    by_rows = MF()  # the same table, said by rows
    augment(by_rows, {**matrices, "item": shuffled}, item_rows=order)
    torch.testing.assert_close(by_rows.scores(), plain.scores())


def test_one_table_for_both_sides(matrices: Any) -> None:
    model, plain = Joint(), Joint().encoder["nodes"].weight
    rows = {"user_rows": Joint.user_rows, "item_rows": Joint.item_rows}
    handle = augment(model, matrices, users="encoder.nodes", items="encoder.nodes", **rows)
    table = model.encoder["nodes"].weight
    nobodys = [0, ITEMS + 1, USERS + ITEMS + 2]
    assert torch.equal(table[nobodys], plain[nobodys])
    apart = MF()
    with torch.no_grad():
        apart.user_embedding.weight.copy_(plain[Joint.user_rows.copy()])
        apart.item_embedding.weight.copy_(plain[Joint.item_rows])
    augment(apart, matrices)
    torch.testing.assert_close(table[Joint.user_rows.copy()], apart.user_embedding.weight)
    torch.testing.assert_close(table[Joint.item_rows], apart.item_embedding.weight)
    ids = torch.tensor([0, 5, 5, ITEMS + 1, 30])
    torch.testing.assert_close(model.encoder["nodes"](ids), table[ids])
    assert list(handle.tables) == ["encoder.nodes"]
    with handle.off():
        assert torch.equal(model.encoder["nodes"].weight, plain)


def test_residual_begins_at_the_plain_model_and_trains_away_from_it(matrices: Any) -> None:
    model, plain = augmented(matrices, residual=True), MF()
    assert torch.equal(model.scores(), plain.scores())
    assert torch.equal(model(EVERYTHING, EVERYTHING), plain(EVERYTHING, EVERYTHING))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # the gate opens at the first step, the MLP follows at the second
        optimizer.zero_grad()
        model(EVERYTHING, EVERYTHING).sum().backward()
        optimizer.step()
    assert all(one.grad.abs().sum() > 0 for one in Augmented(model).parameters())
    side = fused_table(model.user_embedding).user
    base = base_table(model.user_embedding)
    expected = base + side.gate * side.fusion(base)
    torch.testing.assert_close(model.user_embedding.weight, expected)


def test_cold_rows_come_from_text_alone(matrices: Any, small: Dataset) -> None:
    model = augmented(matrices, data=small, cold="text")
    base = base_table(model.item_embedding)
    before = model.item_embedding.weight.detach().clone()
    with torch.no_grad():
        base += 1.0
    changed = (model.item_embedding.weight != before).any(1)
    assert changed.tolist() == [True] * (ITEMS - 4) + [False] * 4
    side = fused_table(model.item_embedding).item
    alone = side.fusion(torch.zeros(ITEMS, DIM))
    torch.testing.assert_close(model.item_embedding.weight[-4:], alone[-4:])
    model.item_embedding(EVERYTHING[-6:]).sum().backward()
    assert (base.grad.abs().sum(1) > 0).tolist() == [False] * 14 + [True] * 2 + [False] * 4
    counted = Augmented(model).coverage
    assert [(one.kind, one.cold, one.cold_without) for one in counted] == [("user", 0, 0), ("item", 4, 0)]
    with Augmented(model).off():
        assert torch.equal(model.item_embedding.weight, base)


def test_half_precision_and_autocast(matrices: Any) -> None:
    model = MF(offset=1).to(torch.bfloat16)
    augment(model, matrices, item_rows=np.arange(ITEMS) + 1)
    assert model(EVERYTHING, EVERYTHING).dtype == model.scores().dtype == torch.bfloat16
    model = augmented(matrices, offset=1)
    with torch.autocast("cpu", torch.bfloat16):
        for embedding in (model.user_embedding, model.item_embedding):
            assert embedding.weight.dtype == torch.float32
            rows = embedding(torch.arange(5))
            torch.testing.assert_close(rows, embedding.weight[:5], rtol=0.02, atol=0.02)


def test_the_generator_decides_the_initial_weights_alone(matrices: Any) -> None:
    torch.manual_seed(1)
    first = augmented(matrices).state_dict()
    torch.manual_seed(2)
    second = augmented(matrices).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_cold_rows_are_zero_where_asked(matrices: Any, small: Dataset) -> None:
    model = augmented(matrices, data=small, cold="zero")
    assert (model.item_embedding.weight == 0).all(1).tolist() == [False] * (ITEMS - 4) + [True] * 4
    assert torch.equal(model.item_embedding(EVERYTHING), model.item_embedding.weight)


def test_rows_by_id(matrices: Any, small: Dataset) -> None:
    order = np.random.default_rng(0).permutation(ITEMS)
    ids = [None, *(small.items.ids(order)), "unknown"]
    expected, model = MF(2), MF(2)
    augment(expected, matrices, data=small, cold="text", item_rows=np.argsort(order) + 1)
    augment(model, matrices, data=small, cold="text", item_ids=ids)
    torch.testing.assert_close(model.item_embedding.weight, expected.item_embedding.weight)
    some = MF(2)
    augment(some, matrices, data=small, cold="text", item_ids=[*ids[:6], *[None] * 16])
    torch.testing.assert_close(some.item_embedding.weight[:6], model.item_embedding.weight[:6])
    assert torch.equal(some.item_embedding.weight[6:], MF(2).item_embedding.weight[6:])


def test_tables_of_unlike_types_have_a_dual_mlp_each(matrices: Any) -> None:
    model = MF()
    model.item_embedding.to(torch.bfloat16)
    augment(model, matrices)
    assert model.user_embedding(EVERYTHING).dtype == torch.float32
    assert model.item_embedding(EVERYTHING).dtype == torch.bfloat16


@pytest.mark.parametrize("std", [1.0, 5.0])
@pytest.mark.parametrize("dim", [8, 64])
def test_fault_7_a_profile_weighs_as_much_as_a_row_of_any_length(
    small: Dataset, std: float, dim: int
) -> None:
    model = nn.Module()
    torch.manual_seed(0)
    model.user_embedding, model.item_embedding = nn.Embedding(USERS, dim), nn.Embedding(ITEMS, dim)
    for table in (model.user_embedding, model.item_embedding):
        nn.init.normal_(table.weight, std=std)
    reclm.augment(model, profiles(small, TEXT), data=small, generator=torch.Generator().manual_seed(1))
    for module in (model.user_embedding, model.item_embedding):
        side = fused_table(module).sides[0]  # pyright: ignore[reportOptionalMemberAccess]
        mlp, base = side.fusion.mlp, base_table(module)
        encoded = mlp.t_pro(side.fusion.vectors)
        encoded = F.normalize(encoded, dim=-1) if side.fusion.normalize else encoded
        of_base, of_profile = mlp.psi.weight.chunk(2, dim=1)
        ratio = (encoded @ of_profile.T).norm(dim=1).mean() / (base @ of_base.T).norm(dim=1).mean()
        assert 0.4 < float(ratio) < 2.5


def test_fault_7_shorter_rows_are_fused_as_before(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    for scaled in (True, False):
        model = MF()
        for module in (model.user_embedding, model.item_embedding):
            nn.init.xavier_uniform_(module.weight, generator=torch.Generator().manual_seed(3))
        if not scaled:
            monkeypatch.setattr("reclm.fusion.augment._scale", lambda *_: None)
        augment(model, profiles(small, TEXT), data=small, cold="text")
        tables.append(model.scores())
    assert torch.equal(*tables)


def test_fault_7_users_of_default_tables_get_lists_of_their_own(plain_mf: Any) -> None:
    """From the first epochs, for items that nobody has touched: chance is a half."""
    data = checkerboard(users=40, items=40, cold=12)
    torch.manual_seed(0)
    model = plain_mf.MF(40, 40, 64)
    for table in (model.user_embedding, model.item_embedding):
        table.reset_parameters()  # N(0, 1), as PyTorch makes it
    reclm.augment(model, profiles(data), data=data, generator=torch.Generator().manual_seed(1))
    plain_mf.train(model, data, epochs=2)
    assert plain_mf.recall(model, data, "zero-shot") > 0.9
    with torch.no_grad():
        scores = model.user_embedding.weight @ model.item_embedding.weight[28:].T
    assert len({tuple(sorted(row)) for row in scores.topk(6, dim=1).indices.tolist()}) > 1


@pytest.mark.parametrize("spoil", ["inf", "nan", "complex", "meta"])
def test_fault_21_a_table_that_cannot_be_fused_is_one_line(small: Dataset, spoil: str) -> None:
    model = MF()
    weight = model.item_embedding.weight.detach().clone()
    if spoil in ("inf", "nan"):
        weight[1, 0] = float(spoil)
    else:
        weight = weight.to("meta") if spoil == "meta" else weight.to(torch.complex64)
    model.item_embedding.weight = nn.Parameter(weight)
    with pytest.raises(BadInput) as error:
        augment(model, profiles(small, TEXT), data=small)
    assert error.value.where == "item_embedding"
    assert fused_table(model.user_embedding) is None


def test_fault_21_tables_of_two_types_have_their_own_mlps(small: Dataset) -> None:
    model = MF()
    model.item_embedding.to(torch.bfloat16)
    augment(model, profiles(small, TEXT), data=small)
    mlps = [
        fused_table(module).sides[0].fusion.mlp for module in (model.user_embedding, model.item_embedding)
    ]
    assert [mlp.psi.weight.dtype for mlp in mlps] == [torch.float32, torch.bfloat16]
    for module, kind in ((model.user_embedding, torch.float32), (model.item_embedding, torch.bfloat16)):
        for rows in (module(torch.arange(3)), module.weight):
            assert rows.dtype == kind
            rows.float().sum().backward()
        assert all(weights.grad is not None for weights in fused_table(module).parameters())
