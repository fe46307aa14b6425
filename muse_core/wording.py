"""Numbers in messages: rounded for people, but never until a message contradicts itself."""

_MOST_DIGITS = 17  # tell any two floats apart


def figure(value: float, *limits: float, digits: int = 4) -> str:
    """A number in significant digits, as few as keep it on its side of every limit that the message names too.

    `figure(1.00003, 1.0)` is "1.00003", for "1 is too coarse, 1 or finer needed" helps nobody. Without limits the
    number is whole: the shortest text that reads back as it. Limits are written that way.

    Args:
        value: the number.
        limits: what it is compared with.
        digits: at least so many where there are limits.
    """
    number = float(value)
    if not limits:
        short = f"{number:g}"
        return short if float(short) == number or number != number else repr(number)
    for count in range(digits, _MOST_DIGITS):
        text = f"{number:.{count}g}"
        if all(_side(float(text), limit) == _side(number, limit) for limit in limits):
            return text
    return repr(number)


def percent(share: float, *limits: float, digits: int = 2) -> str:
    """A share of 1 in percent, kept on its side of other shares as `figure` does.

    Args:
        share: 0..1.
        limits: shares that it is compared with.
        digits: at least so many where there are limits.
    """
    return f"{figure(round(100 * share, 12), *(round(100 * limit, 12) for limit in limits), digits=digits)}%"


def _side(value: float, limit: float) -> int:
    return (value > limit) - (value < limit)
