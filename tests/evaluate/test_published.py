import pytest

from muse_core.evaluate.representation import published_scores


@pytest.mark.parametrize(
    ("protocol", "dataset", "mpp", "method", "accuracy"),
    [
        ("knn", "brca-m2c", 0.5, "MUSE ViT-S/16", 86.88),
        ("knn", "puma", 0.25, "LFoV-MUSE ViT-B/16", 83.16),
        ("linear", "brca-m2c", 0.25, "LFoV-MUSE ViT-B/16", 90.18),
        ("linear", "ocelot", 0.5, "UNI", 86.17),
        ("finetune", "ocelot", 0.25, "MUSE ResNet-50", 84.85),
        ("finetune", "puma", 0.5, "CONCH", 82.52),
    ],
)
def test_cells_of_the_papers_tables(protocol, dataset, mpp, method, accuracy):
    cells = {row.method: row.accuracy for row in published_scores(protocol, dataset, mpp)}
    assert len(cells) == 24
    assert cells[method] == accuracy


def test_no_column_for_other_scales():
    assert published_scores("knn", "brca-m2c", 0.4) == []
