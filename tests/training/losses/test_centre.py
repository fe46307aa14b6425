import torch

from muse_core.training.losses.centre import TeacherCentre


def test_the_centre_follows_the_mean_of_all_rows_of_a_step():
    centre = TeacherCentre(3, momentum=0.9)
    first, second = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    centre.probabilities(first, 0.04)
    centre.probabilities(second, 0.04)  # a second part of the same step, of another length
    centre.update()
    torch.testing.assert_close(centre.centre, 0.1 * torch.tensor([4.0, 5.0, 6.0]))
    centre.probabilities(torch.tensor([[[10.0, 0.0, 0.0]]]), 0.04)
    centre.update()
    torch.testing.assert_close(centre.centre, 0.9 * 0.1 * torch.tensor([4.0, 5.0, 6.0]) + torch.tensor([1.0, 0, 0]))


def test_a_step_without_rows_leaves_the_centre_where_it_is():
    centre = TeacherCentre(3)
    centre.centre.copy_(torch.tensor([1.0, 2.0, 3.0]))
    centre.probabilities(torch.empty(0, 3), 0.04)
    centre.update()
    centre.update()
    torch.testing.assert_close(centre.centre, torch.tensor([1.0, 2.0, 3.0]))


def test_probabilities_are_a_softmax_of_centred_logits():
    centre = TeacherCentre(2)
    centre.centre.copy_(torch.tensor([0.5, 0.0]))
    found = centre.probabilities(torch.tensor([[0.5, 0.0], [0.5, 0.04]]), 0.04)
    odds = torch.exp(torch.tensor(1.0))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5], [1 / (1 + odds), odds / (1 + odds)]]))


def test_only_the_centre_is_kept_in_checkpoints():
    assert list(TeacherCentre(2).state_dict()) == ["centre"]
