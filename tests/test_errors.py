"""Numbers in messages never round until the message contradicts itself."""

import pytest

from muse_core.errors import figure, percent


@pytest.mark.parametrize(
    ("value", "limits", "text"),
    [
        (1.00003, (1.0,), "1.00003"),
        (1.2345678, (1.0,), "1.235"),
        (0.99999999, (1.0,), "0.99999999"),
        (1.0, (1.0,), "1"),
        (1 + 2**-52, (1.0,), "1.0000000000000002"),
        (0.0004, (0,), "0.0004"),
        (-1e-12, (0, 1), "-1e-12"),
        (1.00002, (0, 1), "1.00002"),
        (0.25, (), "0.25"),
        (2.0, (), "2"),
        (1.0000001, (), "1.0000001"),
        (1234567.0, (), "1234567.0"),
    ],
)
def test_a_figure_stays_on_its_side_of_what_it_is_compared_with(value, limits, text):
    assert figure(value, *limits) == text
    assert all((float(text) > limit) == (value > limit) for limit in limits)


def test_places_behind_the_point_are_kept_and_more_are_taken_where_two_numbers_would_be_one():
    assert figure(0.6, 0.61, decimals=4) == "0.6000"
    assert (figure(0.70001, 0.70004, decimals=4), figure(0.70004, 0.70001, decimals=4)) == ("0.7000", "0.70004")
    assert figure(3.96, 4.0, decimals=1) == "3.96"


@pytest.mark.parametrize(
    ("share", "limits", "text"),
    [
        (0.0204, (0.02,), "2.04%"),
        (0.02004, (0.02,), "2.004%"),
        (0.4999, (0.5,), "49.99%"),
        (0.5, (0.5,), "50%"),
        (0.004, (0, 1), "0.4%"),
        (0.9999, (0, 1), "99.99%"),
        (1.0, (0.02,), "100%"),
    ],
)
def test_a_percentage_does_too(share, limits, text):
    assert percent(share, *limits) == text
