"""Invariants of profiles in models that are not ours."""

import copy
import io
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import reclm
from reclm.adapter import ProfileMatrix
from reclm.augmentation import Augmented
from reclm.data.dataset import Dataset
from reclm.errors import ReclmError
from reclm.fused import base_table, fused_table
from reclm.fusion import DualMLP
from reclm.testing import checkerboard, profiles

USERS, ITEMS, DIM, TEXT = 24, 20, 8, 6
EVERYONE, EVERYTHING = torch.arange(USERS), torch.arange(ITEMS)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return checkerboard(USERS, ITEMS)


@pytest.fixture
def matrices(dataset: Dataset) -> dict[Any, ProfileMatrix]:
    return profiles(dataset, TEXT)


class MF(nn.Module):
    """Two tables, the items' with room for ``offset`` rows of nobody's, the first of them padding."""

    def __init__(self, offset: int = 0, dim: int = DIM, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user_embedding = nn.Embedding(USERS, DIM)
        padding = 0 if offset else None
        self.item_embedding = nn.Embedding(ITEMS + offset, dim, padding_idx=padding, **options)
        self.offset = offset

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user_embedding(users) * self.item_embedding(items + self.offset)).sum(-1)

    def scores(self) -> Tensor:
        """All pairs, from whole tables: ``(U, I)``."""
        return self.user_embedding.weight @ self.item_embedding.weight[self.offset :].T


class Joint(nn.Module):
    """Items and users in one table, with a row of nobody's in front, between and at the end."""

    user_rows = np.arange(USERS)[::-1] + ITEMS + 2
    item_rows = np.arange(ITEMS) + 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder: Any = nn.ModuleDict({"nodes": nn.Embedding(USERS + ITEMS + 3, DIM)})


def augment(model: nn.Module, given: Any, **options: Any) -> Augmented:
    return reclm.augment(model, profiles=given, generator=torch.Generator().manual_seed(1), **options)


def augmented(given: Any, offset: int = 0, **options: Any) -> MF:
    model = MF(offset)
    rows = np.arange(ITEMS) + offset if offset else None
    augment(model, given, item_rows=rows, **options)
    return model


def mlp_of(model: MF) -> DualMLP:
    return fused_table(model.user_embedding).user.adapter.mlp


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


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
    model, plain = augmented(matrices, side=side), MF()
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
        [side.adapter.mlp for table in handle.fusions for side in table.sides.values()]
        for handle in (augment(MF(), matrices), augment(MF(dim=5), matrices))
    )
    assert one[0] is one[1]
    assert [mlp.psi.out_features for mlp in two] == [DIM, 5]


def step(model: MF, look_up: bool) -> dict[str, Tensor]:
    """Gradients of a loss that reads rows (some twice) by look-up, or from whole tables."""
    users, items = torch.tensor([[3, 5], [3, 0]]), torch.tensor([[1, 1], [4, 19]])
    if look_up:
        scores = model(users, items)
    else:
        rows = F.embedding(items + model.offset, model.item_embedding.weight, 0 if model.offset else None)
        scores = (model.user_embedding.weight[users] * rows).sum(-1)
    model.zero_grad()
    (scores.square() + scores).sum().backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return gradients | {"scores": scores.detach()}


@pytest.mark.parametrize("missing", ["zeros", "plain"])
@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.filterwarnings("ignore:.*without")
def test_a_look_up_equals_the_whole_table(matrices: Any, offset: int, missing: Any) -> None:
    matrices["item"].present[[1, 7]] = False
    model = augmented(matrices, offset, missing=missing, cold={"item": np.array([4, 1])})
    found, expected = step(model, True), step(model, False)
    assert len(found) == 2 + 6 + 1  # two tables, six tensors of the MLP, the scores
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    more_than_the_table = torch.arange(1000) % (ITEMS + offset)
    rows = model.item_embedding(more_than_the_table)
    torch.testing.assert_close(rows, model.item_embedding.weight[more_than_the_table])
    assert model.item_embedding(torch.empty(0, dtype=torch.long)).shape == (0, DIM)


def test_a_look_up_transforms_the_rows_asked_for_once_and_no_others(
    matrices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = augmented(matrices)
    mlp = mlp_of(model)
    seen: list[int] = []
    fuse = mlp.fuse
    monkeypatch.setattr(mlp, "fuse", lambda base, *rest: seen.append(len(base)) or fuse(base, *rest))
    assert model.user_embedding(torch.tensor([[5, 5], [2, 5]])).shape == (2, 2, DIM)
    assert seen == [2]


def test_a_cached_table_is_fused_once_for_all_its_look_ups(
    matrices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = augmented(matrices, offset=1)
    expected = model.item_embedding(EVERYTHING)
    mlp = mlp_of(model)
    seen: list[int] = []
    fuse = mlp.fuse
    monkeypatch.setattr(mlp, "fuse", lambda base, *rest: seen.append(len(base)) or fuse(base, *rest))
    with parametrize.cached():
        for id in EVERYTHING:
            torch.testing.assert_close(model.item_embedding(id), expected[id])
    assert seen == [ITEMS]


def test_two_pairs_of_embeddings(matrices: Any) -> None:
    model = MF()
    model.users, model.items = nn.Embedding(USERS, 3), nn.Embedding(ITEMS, 3)
    augment(model, matrices)
    handle = augment(model, matrices, users="users", items="items")
    assert list(handle.tables) == ["user_embedding", "item_embedding", "users", "items"]
    assert [one.embedding for one in handle.coverage] == list(handle.tables)
    reclm.remove(model)
    assert not any(parametrize.is_parametrized(one) for one in model.modules())


def test_padding_gets_no_gradient_and_stays_as_it_is(matrices: Any) -> None:
    model = augmented(matrices, offset=1)
    rows = model.item_embedding(torch.tensor([0, 3, 0]))
    assert torch.equal(rows[0], torch.zeros(DIM))
    rows.sum().backward()
    grad = base_table(model.item_embedding).grad
    assert torch.equal(grad[0], torch.zeros(DIM))
    assert grad[3].abs().sum() > 0
    assert torch.equal(model.item_embedding(torch.zeros(2, 1, dtype=torch.long)), torch.zeros(2, 1, DIM))


def test_off_is_the_plain_model_to_the_bit(matrices: Any) -> None:
    plain, model = MF(), augmented(matrices)
    handle = Augmented(model)
    before = model.scores()
    with handle.off():
        assert not handle.enabled
        assert torch.equal(model.scores(), plain.scores())
        assert torch.equal(model(EVERYTHING, EVERYTHING), plain(EVERYTHING, EVERYTHING))
        expected, off = step(plain, True), step(model, True)
    assert torch.equal(off["scores"], expected["scores"])
    for table in ("user_embedding", "item_embedding"):
        gradient = off.pop(f"{table}.parametrizations.weight.original")
        assert torch.equal(gradient, expected[f"{table}.weight"])
    assert list(off) == ["scores"]  # the MLP has no gradient at all
    assert torch.equal(model.scores(), before)


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


def test_baked_is_a_plain_embedding_that_scores_the_same(matrices: Any) -> None:
    model = MF(offset=1).eval()
    augment(model, matrices, item_rows=np.arange(ITEMS) + 1, dropout=0.5)
    expected = model.scores()
    Augmented(model).enabled = False  # what is baked is the fused table all the same
    model.train()
    assert reclm.remove(model) is model
    torch.testing.assert_close(model.scores(), expected, rtol=0, atol=1e-6)
    assert [type(model.user_embedding), type(model.item_embedding)] == [nn.Embedding, nn.Embedding]
    assert list(model.state_dict()) == list(MF(1).state_dict())
    assert model.item_embedding.weight.requires_grad
    assert model.item_embedding.padding_idx == 0
    MF(1).load_state_dict(model.state_dict())
    assert not hasattr(model.user_embedding, "parametrizations")
    torch.save(model, io.BytesIO())  # an augmented one cannot be pickled whole
    with pytest.raises(ReclmError, match="MF is not augmented"):
        reclm.remove(model)


def test_removed_without_baking_is_the_model_as_it_was(matrices: Any) -> None:
    model = augmented(matrices)
    reclm.remove(model, bake=False)
    plain = MF()
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    augment(model, matrices)  # and can be augmented again
    assert not torch.equal(model.scores(), plain.scores())


def test_a_copy_is_a_model_of_its_own(matrices: Any) -> None:
    model = augmented(matrices)
    expected = model.scores().detach()
    copied = copy.deepcopy(model)
    assert torch.equal(copied.scores(), expected)
    with Augmented(copied).off():
        assert torch.equal(model.scores(), expected)
    reclm.remove(copied)
    torch.testing.assert_close(copied.scores(), expected)
    assert torch.equal(model.scores(), expected)
    torch.testing.assert_close(model(EVERYTHING, EVERYTHING), expected.diagonal())
    reclm.remove(model, bake=False)
    assert torch.equal(model.scores(), MF().scores())


def test_a_state_dict_returns_into_a_freshly_augmented_model(matrices: Any) -> None:
    model = augmented(matrices, residual=True)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = MF()
    augment(fresh, matrices, residual=True)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh.scores(), model.scores())
    assert not any(TEXT in value.shape and len(value) >= ITEMS for value in model.state_dict().values())


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
    expected = base + side.gate * side.adapter(base)
    torch.testing.assert_close(model.user_embedding.weight, expected)


def test_cold_rows_come_from_text_alone(matrices: Any, dataset: Dataset) -> None:
    model = augmented(matrices, dataset=dataset, cold="text")
    base = base_table(model.item_embedding)
    before = model.item_embedding.weight.detach().clone()
    with torch.no_grad():
        base += 1.0
    changed = (model.item_embedding.weight != before).any(1)
    assert changed.tolist() == [True] * (ITEMS - 4) + [False] * 4
    side = fused_table(model.item_embedding).item
    alone = side.adapter(torch.zeros(ITEMS, DIM))
    torch.testing.assert_close(model.item_embedding.weight[-4:], alone[-4:])
    model.item_embedding(EVERYTHING[-6:]).sum().backward()
    assert (base.grad.abs().sum(1) > 0).tolist() == [False] * 14 + [True] * 2 + [False] * 4
    counted = Augmented(model).coverage
    assert [(one.kind, one.cold, one.cold_without) for one in counted] == [("user", 0, 0), ("item", 4, 0)]
    with Augmented(model).off():
        assert torch.equal(model.item_embedding.weight, base)


@pytest.mark.parametrize(
    ("missing", "said"), [("zeros", "fused with zeros in its place"), ("plain", "stay as they are")]
)
def test_half_of_the_users_without_profile_are_counted_and_reported(
    matrices: Any, missing: Any, said: str
) -> None:
    matrices["user"].present[1::2] = False
    model = MF()
    with pytest.warns(UserWarning, match=f"12 of 24 users have a profile; 12 without .*{said}"):
        handle = augment(model, matrices, missing=missing)
    counted = handle.coverage[0]
    assert (counted.with_profile, counted.without, counted.missing) == (12, 12, missing)
    assert str(handle).splitlines()[1] == "item_embedding: 20 of 20 items have a profile"
    table, base = model.user_embedding.weight, MF().user_embedding.weight
    if missing == "plain":
        assert torch.equal(table[1::2], base[1::2])
    else:
        mlp = mlp_of(model)
        torch.testing.assert_close(table[1::2], mlp.fuse(base[1::2], torch.zeros(12, DIM)))
    assert not torch.equal(table[::2], base[::2])
    torch.testing.assert_close(model.user_embedding(EVERYONE[:3]), table[:3])


def test_complete_profiles_are_no_matter_for_a_warning(matrices: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augment(MF(), matrices, missing="error")


def test_sparse_gradients_stay_sparse(matrices: Any) -> None:
    model, dense = MF(sparse=True), MF()
    for one in (model, dense):
        augment(one, matrices)
        one(EVERYTHING, EVERYTHING).square().sum().backward()
    grad, expected = (base_table(one.item_embedding).grad for one in (model, dense))
    assert grad.is_sparse
    torch.testing.assert_close(grad.to_dense(), expected)


def test_gradients_scaled_by_frequency(matrices: Any) -> None:
    model = MF(scale_grad_by_freq=True)
    augment(model, matrices)
    original = base_table(model.item_embedding)
    gradients = []
    for ids in (torch.tensor([3, 3, 3, 4]), torch.tensor([3, 4])):
        original.grad = None
        model.item_embedding(ids).sum().backward()
        gradients.append(original.grad)
    torch.testing.assert_close(*gradients)


def test_an_embedding_that_looks_up_in_its_own_way_keeps_it(matrices: Any) -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return 10 * super().forward(input)

    model = MF()
    model.user_embedding = Scaled(USERS, DIM)
    augment(model, matrices)
    torch.testing.assert_close(model.user_embedding(EVERYONE), 10 * model.user_embedding.weight)
    reclm.remove(model)
    assert type(model.user_embedding) is Scaled


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


def test_importing_reclm_stays_light() -> None:
    code = "import sys, reclm; assert 'torch' not in sys.modules; print(reclm.augment.__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "augment"


def tied() -> nn.Module:
    model = MF()
    model.out = nn.Linear(DIM, ITEMS)
    model.out.weight = model.item_embedding.weight
    return model


def parametrized() -> nn.Module:
    model = MF()
    parametrize.register_parametrization(model.item_embedding, "weight", nn.Identity())
    return model


BAD: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "no such attribute": (
        MF,
        {"users": "user_emb"},
        r"MF has no 'user_emb'; its embeddings: user_embedding \(24 × 8\), item_embedding \(20 × 8\)$",
    ),
    "no such path": (Joint, {"users": "encoder.edges"}, r"encoder\.nodes \(47 × 8\)$"),
    "no embedding at all": (lambda: nn.Linear(1, 1), {}, "Linear has no 'user_embedding'.*: none$"),
    "not an embedding": (Joint, {"users": "encoder"}, "Joint has a ModuleDict as 'encoder'"),
    "too few rows": (
        lambda: nn.ModuleDict({"user_embedding": nn.Embedding(9, 2)}),
        {"side": "user"},
        "'user_embedding' has 9 rows for 24 users; build",
    ),
    "too many rows": (
        lambda: MF(1),
        {},
        r"'item_embedding' has 21 rows for 20 items; .* item_rows=, .* np.arange\(20\) \+ 1",
    ),
    "max_norm": (lambda: MF(max_norm=1.0), {}, "'item_embedding' of MF has max_norm=1, .* without max_norm"),
    "tied": (tied, {}, "'item_embedding' of MF shares its weight with 'out.weight'"),
    "parametrized": (parametrized, {}, "'item_embedding' of MF is augmented, or parametrized, already"),
    "padding": (
        lambda: MF(1),
        {"item_rows": np.arange(ITEMS)},
        "row 0 of embedding 'item_embedding' is padding and cannot be that of item 0",
    ),
    "rows outside": (MF, {"item_rows": np.arange(ITEMS) + 1}, "item_rows name row 20; .* 0 to 19"),
    "rows twice": (MF, {"item_rows": np.zeros(ITEMS, int)}, "item_rows name row 0 twice"),
    "rows of the wrong number": (MF, {"item_rows": np.arange(5)}, "item_rows has 5 entries for 20 items"),
    "rows of floats": (MF, {"item_rows": np.arange(20.0)}, "one dimension of integers, not float64"),
    "rows shared": (
        Joint,
        {
            "users": "encoder.nodes",
            "items": "encoder.nodes",
            "user_rows": Joint.user_rows,
            "item_rows": Joint.item_rows + 2,
        },
        "row 22 of embedding 'encoder.nodes' is given to a user and to an item",
    ),
    "side": (MF, {"side": "users"}, "unknown side 'users'; did you mean 'user'"),
    "nothing": (MF, {"side": "user", "users": None}, "nothing to augment"),
    "missing": (MF, {"missing": "zero"}, "unknown missing= 'zero'; did you mean 'zeros'"),
    "cold": (MF, {"cold": "cold"}, "unknown cold= 'cold'.*text"),
    "cold without a data set": (MF, {"cold": "text"}, "give dataset= too"),
    "cold of no kind": (MF, {"cold": {"items": np.arange(2)}}, "unknown kind of cold rows 'items'"),
    "cold outside": (MF, {"cold": {"item": np.array([-1])}}, "cold item rows name row -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_the_model_alone(matrices: Any, case: str) -> None:
    make, options, message = BAD[case]
    model = make()
    before = list(model.state_dict())
    with pytest.raises(ReclmError, match=message) as caught:
        augment(model, matrices, **options)
    assert "\n" not in str(caught.value)
    assert list(model.state_dict()) == before


def test_bad_profiles(matrices: Any, dataset: Dataset) -> None:
    def refuses(message: str, given: Any, **options: Any) -> None:
        with pytest.raises(ReclmError, match=message):
            augment(MF(), given, **options)

    refuses("no item of the data set has a profile; .* side='user'", {"user": matrices["user"]})
    refuses("unknown kind of profiles 'users'", {"users": matrices["user"]})
    nobody = ProfileMatrix(matrices["user"].vectors, np.zeros(USERS, bool))
    refuses("no user of the data set has a profile", {**matrices, "user": nobody})
    short = ProfileMatrix(matrices["user"].vectors[:9], matrices["user"].present[:9])
    refuses("user profiles have 9 rows, the data set 24 users", {**matrices, "user": short}, dataset=dataset)
    matrices["item"].present[[3, 5]] = False
    refuses("2 of 20 items have no profile, e.g. 3, 5; .*missing='zeros'", matrices, missing="error")
    refuses("e.g. i3, i5; write", matrices, missing="error", dataset=dataset)
    matrices["item"].vectors[4, 0] = np.nan
    refuses("item profiles are not finite in row 4", matrices)


def test_augmenting_twice_is_an_error(matrices: Any) -> None:
    model = augmented(matrices)
    with pytest.raises(ReclmError, match=r"reclm\.remove\(model\)"):
        augment(model, matrices)
