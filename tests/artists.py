"""What a figure holds: the data of its artists, and its texts."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bars(axes: Axes) -> list[tuple[str, Floats]]:
    """The error bars of axes, in order: label, and rows of x, y, the ends of the bar in x, those in y (or NaN)."""
    found = []
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            x, y = container.lines[0].get_data()
            ends, collections = np.full((len(x), 4), np.nan), list(container.lines[2])
            for direction, there in enumerate((container.has_xerr, container.has_yerr)):
                if there:
                    for row, segment in enumerate(collections.pop(0).get_segments()):
                        if len(segment):  # none where an end is NaN
                            ends[row, 2 * direction : 2 * direction + 2] = segment[:, direction]
            found.append((str(container.get_label()), np.column_stack([x, y, ends])))
    return found


def texts(figure: Figure) -> list[str]:
    """All texts of a figure, with those of tick labels, titles and legends."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(Text)]
