import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from headstart.training.probe import Labelled, MiniBatches, fit_head, fit_linear

SETTINGS = MiniBatches(seed=1, epochs=20, batch_size=32, lr=1e-2)


@pytest.fixture
def blobs():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=generator)
    centres = torch.randn(3, 8, generator=generator) * 2
    return Labelled(centres[labels] * 5 + 3 + torch.randn(300, 8, generator=generator) * 4, labels)


def copied(train):
    """Return the same features in memory of their own, which fitting overwrites."""
    return Labelled(train.features.clone(), train.labels)


def test_features_are_standardized_where_they_are(blobs):
    features = blobs.features
    fit_linear(blobs, nn.Linear(8, 3), l2=1e-3)
    assert features.mean(0).tolist() == pytest.approx([0.0] * 8, abs=1e-5)
    assert features.std(0).tolist() == pytest.approx([1.0] * 8, abs=1e-5)


def test_lbfgs_finds_scikit_learns_optimum(blobs):
    from sklearn.linear_model import LogisticRegression

    features, labels = blobs
    head = nn.Linear(8, 3)
    fit_linear(copied(blobs), head, l2=1e-3)
    standardized = (features - features.mean(0)) / (features.std(0) + 1e-6)
    # scikit-learn minimizes C * sum of losses + half the squared weights.
    reference = LogisticRegression(C=1 / (2 * 1e-3 * len(labels)), tol=1e-8, max_iter=1000)
    reference.fit(standardized.numpy(), labels.numpy())
    with torch.no_grad():
        probabilities = head(features).softmax(1).numpy()
    assert probabilities == pytest.approx(reference.predict_proba(standardized.numpy()), abs=1e-3)


def test_class_weights_move_the_boundary(blobs):
    features, _ = blobs
    plain, weighted = nn.Linear(8, 3), nn.Linear(8, 3)
    fit_linear(copied(blobs), plain, l2=1e-1)
    fit_linear(copied(blobs), weighted, l2=1e-1, weights=torch.tensor([20.0, 1.0, 1.0]))
    shares = [(head(features).argmax(1) == 0).float().mean() for head in (plain, weighted)]
    assert shares[1] > shares[0]


def test_a_deeper_head_learns_and_the_seed_decides(blobs):
    features, labels = blobs

    def fitted(seed):
        torch.manual_seed(0)
        head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
        fit_head(blobs, blobs, head, replace(SETTINGS, seed=seed), image_size=48)
        return head

    one, same, other = fitted(1), fitted(1), fitted(2)
    assert not one.training
    assert (one(features).argmax(1) == labels).float().mean() > 0.9
    assert torch.equal(one[0].weight, same[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_the_epoch_that_did_best_on_validation_is_kept(blobs):
    features, labels = blobs
    # Validation labels that are wrong: the better the head learns, the worse it does there.
    val = Labelled(features[:60], (labels[:60] + 1) % 3)
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    best_epoch, records = fit_head(blobs, val, head, SETTINGS, image_size=48)
    assert [record.epoch for record in records] == list(range(1, 21))
    assert records[-1].train_loss < records[0].train_loss
    assert records[-1].train_accuracy > 0.9
    best = max(records, key=lambda record: (record.val_accuracy, -record.val_loss))
    assert best.epoch == best_epoch < 20
    with torch.no_grad():
        kept = (head(val[0]).argmax(1) == val[1]).float().mean().item()
    assert kept == pytest.approx(best.val_accuracy)
    assert kept > records[-1].val_accuracy
    assert {record.image_size for record in records} == {48}


def test_uneven_classes_are_selected_by_their_mean_recall(blobs):
    features, labels = blobs
    first, second = (labels == 0).nonzero()[:, 0], (labels == 1).nonzero()[:, 0]
    rows = torch.cat([(labels > 0).nonzero()[:, 0], first[:10]])
    # At first everything is taken for the last class. Learning the others loses the many images with a wrong label.
    tested = torch.cat([first[10:20], second[:35]])
    val = Labelled(features[tested], torch.tensor([0] * 10 + [1] * 5 + [2] * 30))
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    nn.init.constant_(head[2].bias[2:], 100.0)
    kept, records = fit_head(Labelled(features[rows], labels[rows]), val, head, SETTINGS, image_size=48)
    by_recall, by_accuracy = (
        max(records, key=lambda record: (getattr(record, name), -record.val_loss)).epoch
        for name in ("val_balanced_accuracy", "val_accuracy")
    )
    assert kept == by_recall != by_accuracy
    from sklearn.metrics import balanced_accuracy_score

    with torch.no_grad():
        expected = balanced_accuracy_score(val.labels, head(val.features).argmax(1))
    assert records[kept - 1].val_balanced_accuracy == pytest.approx(expected)
    even = fit_head(blobs, val, head, SETTINGS, image_size=48)[1]
    assert {record.val_balanced_accuracy for record in even} == {None}


def test_the_last_epoch_is_kept_where_that_is_asked_for(blobs):
    features, labels = blobs
    val = Labelled(features[:60], (labels[:60] + 1) % 3)
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    kept_epoch, records = fit_head(blobs, val, head, replace(SETTINGS, keep="last"), image_size=48)
    assert kept_epoch == len(records) == 20
    with torch.no_grad():
        loss = nn.functional.cross_entropy(head(val[0]), val[1]).item()
    assert loss == pytest.approx(records[-1].val_loss) != min(record.val_loss for record in records)


def test_validation_changes_nothing_but_the_choice(blobs):
    features, labels = blobs
    losses = []
    for val in ((features[:30], labels[:30]), (features[30:90], labels[30:90])):
        torch.manual_seed(0)
        head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        losses.append(
            [record.train_loss for record in fit_head(blobs, Labelled(*val), head, SETTINGS, image_size=48)[1]]
        )
    assert losses[0] == losses[1]


def test_class_weights_change_the_training_but_not_what_its_loss_means(blobs):
    head = nn.Linear(8, 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    weights = torch.tensor([20.0, 1.0, 1.0])
    # One batch, so that the loss is that of the head as it came in: chance.
    settings = MiniBatches(seed=1, epochs=1, batch_size=300, lr=1e-2, weights=weights)
    _, [record] = fit_head(blobs, blobs, head, settings, image_size=48)
    assert record.train_loss == pytest.approx(math.log(3))
    assert head.bias[0] > 0 > head.bias[1]
