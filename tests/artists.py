"""What a figure holds: the data of its artists, and its texts."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator
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


def looks(figure: Figure) -> str:
    """What a figure shows and how, a line an artist: its place, texts, colours and widths. Nothing is rendered."""
    width, height = figure.get_size_inches()
    layout = type(figure.get_layout_engine()).__name__
    found = [f"{width:.3g} x {height:.3g} in, {layout}", f"title {figure.get_suptitle()!r} {_font(figure._suptitle)}"]
    found.append(f"caption {figure.get_supxlabel()!r} {_font(figure._supxlabel)}")
    found += [f"legend {_legend(legend)}" for legend in figure.legends]
    for axes in figure.axes:
        found += _panel(axes)
    return "\n".join(found)


def _panel(axes: Axes) -> list[str]:
    places = [f"{name} {text!r}" for name, text in (("x", axes.get_xlabel()), ("y", axes.get_ylabel())) if text]
    for name, axis, limits in (("x", axes.xaxis, axes.get_xlim()), ("y", axes.yaxis, axes.get_ylim())):
        ticks = axis.get_ticklabels() if isinstance(axis.get_major_locator(), FixedLocator) else []
        if any(text.get_text() for text in ticks):
            places.append(f"{name} ticks {[text.get_text() for text in ticks]} {_font(ticks[0])}")
        if not getattr(axes, f"get_autoscale{name}_on")():
            places.append(f"{name} from {limits[0]:.3g} to {limits[1]:.3g}")
        places += [] if axis.get_tick_params()["gridOn"] else [f"no grid over {name}"]
    found = [", ".join([f"panel {axes.get_title()!r}", *places])]
    points = {id(each[0]): each for each in axes.containers if isinstance(each, ErrorbarContainer)}
    for line in axes.lines:
        label = str((points.get(id(line)) or line).get_label() or "_")  # None before matplotlib 3.10
        bars = points[id(line)].lines[2] if id(line) in points else ()
        bar = {f", bars {_hex(each.get_color())} {each.get_linewidth()[0]:g}" for each in bars}
        found.append(f"  {'' if label.startswith('_') else label + ': '}{_line(line)}{''.join(sorted(bar))}")
    drawn = {id(each) for container in points.values() for each in container.lines[2]}
    for area in axes.collections:
        if id(area) not in drawn:
            corners = area.get_paths()[0].get_extents().extents
            colour = f"{_hex(area.get_facecolor())} {area.get_alpha()}, edge {area.get_linewidth()[0]:g}"
            found.append(f"  area {_numbers(corners)} {colour}")
    for image in axes.images:
        found.append(f"  image {image.cmap.name} {image.get_clim()} {np.asarray(image.get_array()).tolist()}")
    for text in axes.texts:
        of = "axes" if text.get_transform() == axes.transAxes else "data"
        place = f"{text.get_horizontalalignment()} {text.get_verticalalignment()}"
        if isinstance(text, Annotation) and text.arrow_patch:
            line = ", ".join(f"{name} {value}" for name, value in (text.arrowprops or {}).items())
            clipped = " clipped" * (text.get_annotation_clip() is not False)
            place += f", {_right(axes, text.anncoords)} pt right, from {_numbers(text.xy)}{clipped} ({line})"
        look = _font(text) + f" turned by {text.get_rotation():g}" * bool(text.get_rotation())
        look += f" {_hex(text.get_color())}" * (_hex(text.get_color()) != "#000000")
        found.append(f"  text {text.get_text()!r} {_numbers(text.get_position())} of {of}, {place}, {look}")
    legend = axes.get_legend()
    return found + ([f"  legend {_legend(legend)}"] if legend else [])


def _line(line: Line2D) -> str:
    marker = f"{line.get_marker()} {line.get_markersize():g} filled {_hex(line.get_markerfacecolor())}"
    points = " ".join(_numbers(point) for point in np.column_stack([line.get_xdata(), line.get_ydata()]))
    look = f"{_hex(line.get_color())} {line.get_linestyle()} {line.get_linewidth():g}"
    steps = "" if line.get_drawstyle() == "default" else f" {line.get_drawstyle()}"
    marker += "" if line.get_markevery() is None else f", marked {line.get_markevery()}"
    if line.get_label() == "_key":
        marker += f", {_right(line.axes, line.get_transform())} pt right" + ", clipped" * line.get_clip_on()
    return f"{points} {look}{steps} on {line.get_zorder():g}" + f", {marker}" * (line.get_marker() != "None")


def _legend(legend: Legend) -> str:
    names = [text.get_text() for text in legend.get_texts()]
    # "outside lower center" is kept in two parts
    place = f"{getattr(legend, '_outside_loc', None) or 'inside'} {legend._loc}"
    return f"{names} {place}, {legend._ncols} columns, {legend.get_texts()[0].get_fontsize():g}"


def _font(text: Text | None) -> str:
    if text is None:
        return "none"
    bold, as_it_is = text.get_fontweight() == "bold", not text.get_parse_math()
    box = text.get_bbox_patch()
    look = " wrapped" * text.get_wrap() + " bold" * bold + " as it is" * as_it_is
    return f"{text.get_fontsize():g}{look}" + (f" on {_hex(box.get_facecolor())}" if box else "")


def _right(axes: Any, transform: Any) -> str:
    """How many points right of the place in axes something is drawn."""
    moved = transform.transform((1, 1)) - axes.transAxes.transform((1, 1))
    assert moved[1] == 0
    return f"{72 * moved[0] / axes.figure.dpi:.4g}"


def _numbers(values: Any) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _hex(colour: Any) -> str:
    return str(to_hex(np.ravel(colour) if isinstance(colour, np.ndarray) else colour))


def misplaced(figure: Figure) -> list[str]:
    """What of a figure's texts is clipped, or lies over another text."""
    figure.draw_without_rendering()
    page = figure.bbox
    hidden = {id(text) for axes in figure.axes for text in _not_drawn(axes)}
    shown = [
        (text, Text.get_window_extent(text))  # of an annotation without its line
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and id(text) not in hidden
    ]
    found = [
        f"{text.get_text()!r} leaves the page"
        for text, box in shown
        if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1 or box.y0 < page.y0 - 1 or box.y1 > page.y1 + 1
    ]
    for number, (text, box) in enumerate(shown):
        for other, its in shown[number + 1 :]:
            wide, high = min(box.x1, its.x1) - max(box.x0, its.x0), min(box.y1, its.y1) - max(box.y0, its.y0)
            if wide > 1 and high > 2:  # pixels
                found.append(f"{text.get_text()!r} over {other.get_text()!r}")
    return found


def _not_drawn(axes: Axes) -> list[Text]:
    """Labels of ticks beyond the limits, and all where the axes are off."""
    if not axes.axison:
        return [*axes.xaxis.findobj(Text), *axes.yaxis.findobj(Text)]
    return [
        text
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim()))
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        if not min(limits) - 1e-9 <= tick.get_loc() <= max(limits) + 1e-9
        for text in (tick.label1, tick.label2)
    ]


def out_of_sight(figure: Figure) -> list[str]:
    """Which error bars of a figure end outside of their axes."""
    found = []
    for axes in figure.axes:
        limits = [*sorted(axes.get_xlim()), *sorted(axes.get_ylim())]
        for label, points in bars(axes):
            for x, y, *ends in points:
                places = ((x, 0), (y, 2), (ends[0], 0), (ends[1], 0), (ends[2], 2), (ends[3], 2))
                out = [
                    float(value) for value, of in places if value < limits[of] - 1e-9 or value > limits[of + 1] + 1e-9
                ]
                found += [f"{label} in {axes.get_title()!r}: {out}"] if out else []
    return found
