from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soloist.models.backbones import Backbone
from soloist.models.densecl import DenseCL, DenseCLEncoder, info_nce, match_cells

BATCH = 4
SIZE = 5
QUEUE = 6


class TwoLevels(nn.Module):
    """A network with maps of stride 4 and 16; its norm tells who shares a batch with whom."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.BatchNorm2d(6)
        self.coarse = nn.Conv2d(6, 8, 4, stride=4)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.norm(self.fine(images))
        return [fine, self.coarse(fine.relu())]


def densecl(
    *, seed: int = 0, queue_size: int = QUEUE, dense_weight: float = 0.5, norm_groups: int = 2
) -> DenseCL:
    torch.manual_seed(seed)
    backbone = Backbone(
        TwoLevels(), channels=[6, 8], strides=[4, 16], modules_of_levels=["norm", "coarse"]
    )
    encoder = DenseCLEncoder(backbone, dense_stride=4, hidden_size=7, projection_size=SIZE)
    return DenseCL(
        encoder,
        projection_size=SIZE,
        queue_size=queue_size,
        temperature=0.2,
        dense_weight=dense_weight,
        norm_groups=norm_groups,
    )


def crops(seed: int, batch: int = BATCH) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def plain_order(batch: int = BATCH) -> Tensor:
    return torch.arange(batch)


# Pure functions


def slow_info_nce(logits: Tensor) -> float:
    """Equation 1 of DenseCL, row by row: the positive stands first."""
    total = 0.0
    for row in logits.tolist():
        total -= math.log(math.exp(row[0]) / sum(math.exp(value) for value in row))
    return total / len(logits)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("negatives", [0, 1, 30])
def test_info_nce_is_the_mean_of_the_papers_equation(rows: int, negatives: int) -> None:
    generator = torch.Generator().manual_seed(rows + negatives)
    logits = 3 * torch.randn(rows, 1 + negatives, generator=generator)
    assert info_nce(logits).item() == pytest.approx(slow_info_nce(logits), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        pytest.param([[0.0, 0.0, 0.0, 0.0]], math.log(4), id="no-idea"),
        pytest.param([[50.0, 0.0, 0.0]], 0.0, id="found"),
        pytest.param([[0.0, 50.0]], 50.0, id="a-negative-is-nearer"),
        pytest.param([[1000.0, 999.0]], math.log(1 + math.exp(-1)), id="large-values"),
    ],
)
def test_info_nce_of_literal_values(logits: list[list[float]], expected: float) -> None:
    assert info_nce(torch.tensor(logits)).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("query", "key", "expected"),
    [
        # Rows are channels, columns are cells.
        pytest.param([[1, 0], [0, 1]], [[1, 0], [0, 1]], [0, 1], id="same-cells"),
        pytest.param([[1, 0], [0, 1]], [[0, 1], [1, 0]], [1, 0], id="swapped-cells"),
        pytest.param([[1, 1], [0, 0]], [[0, 1], [1, 0]], [1, 1], id="two-queries-one-key"),
        pytest.param([[-1, 0], [0, -1]], [[1, 0], [0, 1]], [1, 0], id="least-unlike"),
        pytest.param([[1], [0]], [[0, 0.6, 1], [1, 0.8, 0]], [2], id="of-three"),
    ],
)
def test_match_cells(query: list[list[float]], key: list[list[float]], expected: list[int]) -> None:
    match = match_cells(torch.tensor([query]).float(), torch.tensor([key]).float())
    assert match.tolist() == [expected]


def test_match_cells_stays_within_an_image() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (F.normalize(torch.randn(3, 8, 10, generator=generator), dim=1) for _ in range(2))
    together = match_cells(query, key)
    for image in range(3):
        slow = []
        for cell in range(10):
            likeness = [float(query[image, :, cell] @ key[image, :, k]) for k in range(10)]
            slow.append(likeness.index(max(likeness)))
        assert together[image].tolist() == slow


# Encoder


def test_projections_are_unit_vectors_of_every_cell() -> None:
    encoder = densecl().query_encoder
    projections = encoder(crops(0))
    assert projections.image.shape == (BATCH, SIZE)
    assert projections.cells.shape == (BATCH, SIZE, 64)
    assert projections.features.shape == (BATCH, 6, 64)
    for vectors in projections:
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones_like(vectors[:, 0]))


# Losses


def slow_losses(model: DenseCL, query_crops: Tensor, key_crops: Tensor) -> dict[str, float]:
    """The losses image by image and cell by cell, with the queues as they are."""
    query, key = model.query_encoder(query_crops), model.key_encoder(key_crops)
    image_rows, cell_rows = [], []
    for b in range(len(query_crops)):
        positive = query.image[b] @ key.image[b]
        image_rows.append(torch.cat([positive[None], model.image_queue @ query.image[b]]))
        for cell in range(query.cells.shape[2]):
            likeness = query.features[b, :, cell] @ key.features[b]
            vector = query.cells[b, :, cell]
            positive = vector @ key.cells[b, :, int(likeness.argmax())]
            cell_rows.append(torch.cat([positive[None], model.cell_queue @ vector]))
    rows = torch.stack(image_rows)
    return {
        "loss_global": (1 - model.dense_weight) * slow_info_nce(rows / 0.2),
        "loss_dense": model.dense_weight * slow_info_nce(torch.stack(cell_rows) / 0.2),
        "metric_accuracy": float((rows.argmax(dim=1) == 0).float().mean()),
    }


@pytest.mark.parametrize("dense_weight", [0.0, 0.5, 1.0])
def test_losses_equal_the_slow_reference(dense_weight: float) -> None:
    model = densecl(dense_weight=dense_weight).eval()
    with torch.no_grad():
        expected = slow_losses(model, crops(1), crops(2))
        terms = model(crops(1), crops(2), plain_order())
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        expected, rel=1e-4, abs=1e-5
    )


def test_the_order_of_shuffling_does_not_change_whose_key_it_is() -> None:
    """With fixed statistics the shuffled batch gives what the plain one gives."""
    orders = [plain_order(), torch.tensor([2, 0, 3, 1]), torch.tensor([3, 2, 1, 0])]
    results = []
    for order in orders:
        model = densecl().eval()
        with torch.no_grad():
            terms = model(crops(1), crops(2), order)
        results.append((terms, model.image_queue.clone(), model.cell_queue.clone()))
    for terms, image_queue, cell_queue in results[1:]:
        for name, value in results[0][0].items():
            torch.testing.assert_close(terms[name], value)
        torch.testing.assert_close(image_queue, results[0][1])
        torch.testing.assert_close(cell_queue, results[0][2])


def test_in_training_the_order_decides_who_is_normalised_together() -> None:
    losses = []
    for order in (plain_order(), torch.tensor([0, 2, 1, 3])):
        terms = densecl().train()(crops(1), crops(2), order)
        losses.append(terms["loss_global"].item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("norm_groups", [1, 2, 3, 9])
def test_any_number_of_groups_keeps_the_batch_whole(norm_groups: int) -> None:
    model = densecl(norm_groups=norm_groups).eval()
    with torch.no_grad():
        terms = model(crops(1), crops(2), torch.tensor([1, 3, 0, 2]))
        expected = densecl(norm_groups=1).eval()(crops(1), crops(2), plain_order())
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


def test_gradients_reach_the_query_encoder_only() -> None:
    model = densecl().train()
    terms = model(crops(1), crops(2), plain_order())
    (terms["loss_global"] + terms["loss_dense"]).backward()
    for name, parameter in model.query_encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(parameter.grad is None for parameter in model.key_encoder.parameters())


def test_training_on_one_batch_lowers_the_loss() -> None:
    model = densecl().train()
    optimizer = torch.optim.SGD(model.query_encoder.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(30):
        terms = model(crops(1), crops(1), plain_order())
        loss = terms["loss_global"] + terms["loss_dense"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.update_key_encoder(0.9)
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[2:7])


# Queues and momentum


def test_the_queue_wraps_and_replaces_the_oldest() -> None:
    model = densecl(queue_size=QUEUE).eval()
    first = model.image_queue.clone()
    with torch.no_grad():
        keys = [model.key_encoder(crops(seed)) for seed in (1, 2)]
        model(crops(0), crops(1), plain_order())
        assert int(model.queue_position) == 4
        torch.testing.assert_close(model.image_queue[:4], keys[0].image)
        torch.testing.assert_close(model.image_queue[4:], first[4:])
        model(crops(0), crops(2), plain_order())
    assert int(model.queue_position) == 2
    torch.testing.assert_close(model.image_queue[[4, 5, 0, 1]], keys[1].image)
    torch.testing.assert_close(model.image_queue[2:4], keys[0].image[2:])
    # Of the cells, an image's mean enters.
    means = F.normalize(keys[1].cells.mean(dim=2), dim=1)
    torch.testing.assert_close(model.cell_queue[[4, 5, 0, 1]], means)


def test_a_batch_meets_the_keys_of_earlier_batches_only() -> None:
    model = densecl().eval()
    with torch.no_grad():
        expected = slow_losses(model, crops(1), crops(2))
        terms = model(crops(1), crops(2), plain_order())
        again = model(crops(1), crops(2), plain_order())
    assert terms["loss_global"].item() == pytest.approx(expected["loss_global"], rel=1e-4)
    # Now its own keys are among the negatives.
    assert again["loss_global"] > terms["loss_global"]


@pytest.mark.parametrize(
    ("momentum", "share"),
    [
        pytest.param(1.0, 0.0, id="stands-still"),
        pytest.param(0.0, 1.0, id="follows-at-once"),
        pytest.param(0.75, 0.25, id="a-quarter-of-the-way"),
    ],
)
def test_the_key_encoder_moves_by_momentum(momentum: float, share: float) -> None:
    model = densecl()
    before = [value.clone() for value in model.key_encoder.parameters()]
    with torch.no_grad():
        for value in model.query_encoder.parameters():
            value.add_(1.0)
    model.update_key_encoder(momentum)
    for key, old in zip(model.key_encoder.parameters(), before, strict=True):
        torch.testing.assert_close(key, old + share)


def test_the_key_encoder_starts_as_a_copy_of_its_own() -> None:
    model = densecl()
    pairs = zip(model.query_encoder.parameters(), model.key_encoder.parameters(), strict=True)
    for query, key in pairs:
        assert torch.equal(query, key)
        assert query.data_ptr() != key.data_ptr()
        assert (query.requires_grad, key.requires_grad) == (True, False)


def test_the_queues_are_part_of_the_state() -> None:
    model = densecl().eval()
    with torch.no_grad():
        model(crops(0), crops(1), plain_order())
    other = densecl(seed=5).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.image_queue, model.image_queue)
    assert int(other.queue_position) == 4
