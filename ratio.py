"""Numbers as people write them: `8/255` in a config or on the command line."""

import math
from typing import TYPE_CHECKING

from jsonargparse.typing import register_type


class Ratio(float):
    """A float that may be written as a fraction, `8/255`; it prints as it was written.

    Raises:
        ValueError: the text is neither a number nor a fraction of two numbers.
    """

    def __new__(cls, value: float | str) -> "Ratio":
        ratio = super().__new__(cls, _parse(value))
        ratio._written = value.replace(" ", "") if isinstance(value, str) else repr(float(value))
        return ratio

    def __init__(self, value: float | str):
        self._written: str

    def __str__(self) -> str:
        return self._written

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        return (self._written,)  # pickling and copying keep the fraction


def _parse(value: float | str) -> float:
    if not isinstance(value, str):
        return float(value)
    above, slash, below = value.partition("/")
    try:
        number = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no number; write 0.03 or a fraction such as 8/255")
    return number


def _from_config(value: object) -> Ratio:
    if isinstance(value, bool) or not isinstance(value, float | int | str):
        raise ValueError(f"{value!r} is no number; write 0.03 or a fraction such as 8/255")
    return Ratio(value)


def _to_config(value: float) -> float | str:
    return str(value) if isinstance(value, Ratio) and "/" in str(value) else float(value)


# here and not in the command line's parser, so that a config read by any other parser knows fractions too
register_type(Ratio, _to_config, _from_config, type_check=lambda value, kind: isinstance(value, Ratio))

if TYPE_CHECKING:
    Number = float  # Python code passes any float
else:
    Number = Ratio  # a config may write a fraction; a union with float would hide what is wrong with `8/0`
