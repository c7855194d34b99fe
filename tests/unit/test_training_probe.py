import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from headstart.training.probe import fit_head, fit_linear


@pytest.fixture
def blobs():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=generator)
    centres = torch.randn(3, 8, generator=generator) * 2
    return centres[labels] * 5 + 3 + torch.randn(300, 8, generator=generator) * 4, labels


def test_lbfgs_finds_scikit_learns_optimum(blobs):
    features, labels = blobs
    head = nn.Linear(8, 3)
    fit_linear(features, labels, head, l2=1e-3)
    standardised = (features - features.mean(0)) / (features.std(0) + 1e-6)
    # scikit-learn minimises C * sum of losses + half the squared weights.
    reference = LogisticRegression(C=1 / (2 * 1e-3 * len(labels)), tol=1e-8, max_iter=1000)
    reference.fit(standardised.numpy(), labels.numpy())
    with torch.no_grad():
        probabilities = head(features).softmax(1).numpy()
    assert probabilities == pytest.approx(reference.predict_proba(standardised.numpy()), abs=1e-3)


def test_class_weights_move_the_boundary(blobs):
    features, labels = blobs
    plain, weighted = nn.Linear(8, 3), nn.Linear(8, 3)
    fit_linear(features, labels, plain, l2=1e-1)
    fit_linear(features, labels, weighted, l2=1e-1, weights=torch.tensor([20.0, 1.0, 1.0]))
    shares = [(head(features).argmax(1) == 0).float().mean() for head in (plain, weighted)]
    assert shares[1] > shares[0]


def test_a_deeper_head_learns_and_the_seed_decides(blobs):
    features, labels = blobs

    def fitted(seed):
        torch.manual_seed(0)
        head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
        fit_head(features, labels, head, seed=seed, epochs=20, batch_size=32, lr=1e-2)
        return head

    one, same, other = fitted(1), fitted(1), fitted(2)
    assert not one.training
    assert (one(features).argmax(1) == labels).float().mean() > 0.9
    assert torch.equal(one[0].weight, same[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)
