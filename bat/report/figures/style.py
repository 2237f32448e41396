"""What all figures share: the style, how a method looks, and how a figure is written.

Methods differ in marker, line and lightness, so that figures can be read in grey.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from bat.io.files import replacing

GROUPS = ("all", "typical", "atypical")
# from dark to light; the first four are Okabe and Ito's, safe for colour-blind readers
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "savefig.dpi": 200,
    # the same bytes at each run
    "svg.hashsalt": "bat",
    "pdf.fonttype": 42,
}


def look(number: int) -> dict[str, Any]:
    """Return colour and marker of the method of that number: 64 differ."""
    return {"color": COLOURS[number % 8], "marker": MARKERS[(number + number // 8) % 8]}


def attacks(tier: str) -> str:
    """Name the attacks behind a robust accuracy: its tier, or their names."""
    return f"AutoAttack {tier}" if tier in ("fast", "standard") else tier


def save(figure: Figure, paths: Sequence[Path]) -> None:
    """Write ``figure`` to each path; the ending chooses the format. The files hold no date."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context(STYLE):
        for path in paths:
            ending = path.suffix
            with replacing(path) as temporary:
                figure.savefig(temporary, format=ending[1:], metadata=dates.get(ending))


def show(axes: Axes, image: NDArray[np.float32]) -> None:
    """Draw an image (c, h, w) in [0, 1], dark on white where it is grey."""
    grey = image.shape[0] == 1
    axes.imshow(image[0] if grey else image.transpose(1, 2, 0), cmap="gray_r" if grey else None, vmin=0, vmax=1)


def note(axes: Axes, text: str) -> None:
    """Write a text in the middle of empty axes."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center")


def error_bars(
    axes: Axes,
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_range: tuple[ArrayLike, ArrayLike] | None = None,
    y_range: tuple[ArrayLike, ArrayLike] | None = None,
    **looks: Any,
) -> None:
    """Draw points with bars from the lower to the upper end of a range, an interval or the least and greatest value.

    x, y: (n,) or numbers, x_range, y_range: two of that shape, in the units of x and y. A mean can be a little outside
    the range of equal values by rounding, and an interval of a low confidence need not hold it: the bar then ends at
    the point. Where an end is NaN there is no bar.
    """
    x, y = (np.atleast_1d(np.asarray(values, dtype=np.float64)) for values in (x, y))
    bars: dict[str, Any] = {
        name: np.maximum([point - np.asarray(ends[0]), np.asarray(ends[1]) - point], 0)
        for name, point, ends in (("xerr", x, x_range), ("yerr", y, y_range))
        if ends is not None
    }
    axes.errorbar(x, y, **bars, **looks)


def about_failures(failed: Collection[str]) -> str:
    """Return a line on methods whose training failed, empty where none did."""
    return f"\nThe training of {', '.join(failed)} failed: no comparison." if failed else ""
