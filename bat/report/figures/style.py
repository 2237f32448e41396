"""What all figures share: the style, how a run looks, titles and captions, and how a figure is written.

A run's family chooses its colour, and its place in the family marker, lightness and line: figures can be read in grey.
"""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation, Transform
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from bat.io.files import replacing

BLACK, BLUE, ORANGE, GREY = "#000000", "#0072B2", "#E69F00", "#8C8C8C"
"""The first three are Okabe and Ito's, safe for colour-blind readers, and differ in lightness."""
PALE = "#BBBBBB"
"""Of lines that join or lead to something."""

_FAMILIES = {"baseline": BLACK, "bat": BLUE, "rival": ORANGE, "control": GREY}
_MARKERS = ("^", "D", "v", "P", "X", "p", "<", ">", "h", "d", "8", "*")
_LINES = ("-", "--", "-.", ":")
_FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "IPAexGothic",
    "IPAGothic",
    "NanumGothic",
    "Hiragino Sans",
    "PingFang SC",
    "Apple SD Gothic Neo",
    "Yu Gothic",
    "Meiryo",
    "Microsoft YaHei",
    "SimHei",
    "Malgun Gothic",
    "Arial Unicode MS",
)
"""Fonts with the glyphs of Chinese, Japanese and Korean names, on Linux, macOS and Windows."""


def fonts(installed: Collection[str]) -> list[str]:
    """Return the fonts that text is drawn in: each glyph by the first that has it. installed: names of fonts."""
    return ["DejaVu Sans", *(name for name in _FALLBACKS if name in installed)]


STYLE: dict[Any, Any] = {
    "font.family": fonts(fontManager.get_font_names()),
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "savefig.dpi": 200,
    # the same bytes at each run
    "svg.hashsalt": "bat",
    "pdf.fonttype": 42,
}


class RunLook(NamedTuple):
    """How a run is drawn. main: whether it is drawn last and larger, as the baseline and BAT are."""

    family: str
    color: str
    marker: str
    fill: str
    line: str
    main: bool

    def point(self) -> dict[str, Any]:
        """Return what ``error_bars`` takes for a point."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markerfacecolor": self.fill,
            "markersize": 7 if self.main else 5,
            "linestyle": "none",
            "elinewidth": 1.4 if self.main else 0.6,
            "zorder": 4 if self.main else 3,
        }

    def curve(self) -> dict[str, Any]:
        """Return what ``Axes.plot`` takes for a line."""
        return {
            "color": self.color,
            "linestyle": self.line,
            "linewidth": 1.8 if self.main else 1,
            "zorder": 4 if self.main else 3,
        }


def looks(runs: pd.DataFrame) -> dict[str, RunLook]:
    """Return how each run looks. runs: as in evaluation/runs.parquet.

    Families: natural training and the baseline; BAT and what is made of it; all other methods; and, in grey, controls
    and runs without some samples. The square is the baseline's, the circle BAT's; of the others, up to 24, no two have
    the same marker and filling.
    """
    baseline, found, counts, others = baseline_of(runs), {}, dict.fromkeys(_FAMILIES, 0), 0
    for run in runs.to_dict("records"):
        name = str(run["method"])
        if run["role"] not in ("method", "variant"):
            family = "control"
        elif name == baseline or run["objective"] == "natural":
            family = "baseline"
        else:
            family = "bat" if str(run["objective"]).startswith("bat") else "rival"
        number = counts[family]
        counts[family] += 1
        color = _shade(family, number)
        main = name == baseline or (family == "bat" and number == 0)
        marker = "s" if name == baseline else "o" if main else _MARKERS[others % 12]
        hollow = not main and others // 12 % 2 == 1
        others += not main
        found[name] = RunLook(family, color, marker, "white" if hollow else color, _LINES[number % 4], main)
    return found


def baseline_of(runs: pd.DataFrame) -> str | None:
    """Return the method that the others are compared with: in runs.parquet the first of each; None for none."""
    compared = runs.loc[runs["role"].isin(["method", "variant", "control"]), "compared_with"].fillna("")
    first = compared[compared != ""].str.split(", ").str[0]
    return str(first.iloc[0]) if len(first) else None


def ordered(names: Collection[str], looks: Mapping[str, RunLook]) -> list[str]:
    """Return names of runs in the order in which they are drawn: those that are drawn larger last."""
    return sorted(names, key=lambda name: looks[name].main)


def attacks(tier: str) -> str:
    """Name the attacks behind a robust accuracy: its tier, or their names."""
    return f"AutoAttack {tier}" if tier in ("fast", "standard") else tier


def printable(name: str, most: int = 0) -> str:
    """Return a name of a user's in glyphs that the fonts have, cut to ``most`` characters (0: whole).

    A character that none of them has is escaped, as in \\u4e2d.
    """
    known = [get_font(fontManager.findfont(FontProperties(family=font))) for font in STYLE["font.family"]]
    whole = "".join(
        letter
        if any(font.get_char_index(ord(letter)) for font in known)
        else letter.encode("ascii", "backslashreplace").decode()
        for letter in name
    )
    return whole if not most or len(whole) <= most else f"{whole[: most - 1]}…"


def headed(figure: Figure, title: str, caption: str) -> tuple[Text, Text]:
    """Give a figure its message as title, and its facts as small grey lines below; both are wrapped to its width.

    Returns both texts.
    """
    width = figure.get_figwidth()
    above = figure.suptitle(
        _wrapped(title, 10 * width),
        x=0.01,
        horizontalalignment="left",
        fontsize=11,
        fontweight="bold",
        parse_math=False,
    )
    below = figure.supxlabel(
        _wrapped(caption, 15 * width),
        x=0.01,
        horizontalalignment="left",
        multialignment="left",
        fontsize=7.5,
        color="#555555",
        parse_math=False,
    )
    return above, below


def _wrapped(text: str, letters: float) -> str:
    return "\n".join(textwrap.fill(line, int(letters)) for line in text.splitlines())


def save(figure: Figure, paths: Sequence[Path]) -> None:
    """Write ``figure`` to each path; the ending chooses the format. The files hold no date."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context(STYLE):
        for path in paths:
            with replacing(path) as temporary:
                figure.savefig(temporary, metadata=dates.get(path.suffix))


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


def label_ends(
    axes: Axes,
    ends: Mapping[str, tuple[float, float]],
    looks: Mapping[str, RunLook],
    *,
    height: float,
) -> None:
    """Write names in a column right of the axes, each beside its point (x, y), as near as they fit, with a thin line.

    The limits of the axes must be final. height: of the axes, in inches.
    """
    names = list(ends)
    line = {"arrowstyle": "-", "color": PALE, "linewidth": 0.5, "shrinkA": 12, "shrinkB": 3, "zorder": 1}

    def right(points: float) -> Transform:
        return axes.transAxes + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)

    low, high = axes.get_ylim()
    wanted = (np.array([ends[name][1] for name in names]) - low) / (high - low)
    for name, place in zip(names, spread(wanted, gap=0.135 / height), strict=True):
        look = looks[name]
        axes.annotate(
            name,
            ends[name],
            (1, place),
            textcoords=right(18),
            va="center",
            fontsize=7.5,
            fontweight="bold" if look.main else None,
            arrowprops=line | {"relpos": (0, 0.5)},
            annotation_clip=False,
            parse_math=False,
        )
        axes.plot(
            [1],
            [place],
            transform=right(11),
            clip_on=False,
            marker=look.marker,
            color=look.color,
            markerfacecolor=look.fill,
            markersize=4.5,
            label="_key",
        )


def spread(wanted: ArrayLike, *, gap: float) -> NDArray[np.float64]:
    """Return places from 0 to 1 at least ``gap`` apart, in the order of ``wanted`` and as near to it as that allows.

    The squares of the distances are least. Where there is no room for all, they share what there is.
    """
    wanted = np.asarray(wanted, dtype=np.float64)
    order = np.argsort(wanted, kind="stable")
    steps = min(gap, 1 / max(len(wanted) - 1, 1)) * np.arange(len(wanted))
    places = np.empty(len(wanted))
    if len(wanted):
        found = isotonic_regression(wanted[order] - steps).x
        places[order] = np.clip(found, 0, 1 - steps[-1]) + steps
    return places


def about_failures(failed: Collection[str]) -> str:
    """Return a sentence on runs whose training failed, empty where none did."""
    return f" The training of {', '.join(failed)} failed: no comparison." if failed else ""


def signed(points: float) -> str:
    """Return a difference in points with its sign, and a minus sign that is one."""
    return f"{points:+z.1f}".replace("-", "−")


def _shade(family: str, number: int) -> str:
    """Return the colour of a family, of every other run a shade of it: lighter for BAT, darker for rivals."""
    color = np.array(to_rgb(_FAMILIES[family]))
    if number % 2 and family == "bat":
        color = 1 - 0.65 * (1 - color)
    if number % 2 and family == "rival":
        color = 0.75 * color
    return str(to_hex(tuple(color)))
