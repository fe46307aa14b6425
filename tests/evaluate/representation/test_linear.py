import torch

from muse_core.evaluate.representation import LinearSettings
from muse_core.evaluate.representation.accuracy import accuracy_report
from muse_core.evaluate.representation.linear import predict, train_linear


def blobs(n, seed):
    generator = torch.Generator().manual_seed(seed)
    class_ids = torch.randint(0, 3, (n,), generator=generator)
    centres = torch.tensor([[4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 4.0, 0]])
    return centres[class_ids] + torch.randn(n, 4, generator=generator) * 0.5, class_ids


def test_separable_classes_are_told_apart_the_same_way_each_time():
    train, validation, test = (blobs(n, seed) for seed, n in enumerate((600, 100, 200)))
    settings = LinearSettings(epochs=8)
    first, second = (train_linear(train, validation, n_classes=3, settings=settings) for _ in range(2))
    assert (predict(first.layer, test[0]) == test[1]).float().mean() > 0.99
    assert torch.equal(first.layer.weight, second.layer.weight)
    assert first.validation_accuracy == float((predict(first.layer, validation[0]) == validation[1]).float().mean())


def test_of_equal_epochs_the_later_is_kept_and_few_nuclei_are_one_batch():
    features, class_ids = torch.eye(4), torch.tensor([0, 0, 1, 1])
    result = train_linear((features, class_ids), (features, class_ids), n_classes=2)
    assert result.epoch == 99  # at 100 % from some epoch on, so the last
    assert result.validation_accuracy == 1.0


def test_the_report_counts_by_class():
    report = accuracy_report(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 0]), ("a", "b", "c"))
    assert report["confusion"] == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert report["per_class"] == {"a": 50.0, "b": 100 * 2 / 3, "c": None}
    assert (report["accuracy"], report["majority_accuracy"], report["n_nuclei"]) == (60.0, 60.0, 5)
