"""Charts of the report as SVG: training loss and speed, utility by arm with intervals."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pipeline.arrays import Floats
from pipeline.artifacts.evaluation_report import ArmResult, Estimate
from pipeline.artifacts.privacy_report import PrivacyReport
from pipeline.evaluate.arm_names import REAL_ARMS, SYNTHETIC_ARMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1b2430", "#5b6673", "#dfe4e9"
REAL, SYNTHETIC, MIXED = "#2f6690", "#c0621a", "#7a4f9a"
ARM_ORDER = (*REAL_ARMS, *SYNTHETIC_ARMS)

MAX_PROGRESS_BYTES = 64 * 2**20
MAX_POINTS = 600
PANELS_A_ROW, MAX_PANELS = 4, 16
_RECALL = ("recall", "low", "high")
REFERENCE_DASHES = (0, (4, 3))

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "white",
    # Outlines instead of text: the page looks the same with any fonts.
    "svg.fonttype": "path",
    "svg.hashsalt": "phosphor",
}


def read_progress(path: Path) -> dict[str, Floats]:
    """Read `progress.csv` of a checkpoint as columns; damaged rows are skipped.

    Returns:
        Column name -> values (all of one length), empty if there is no readable file.
    """
    names = ("step", "images", "seconds", "loss", "images_per_second", "learning_rate")
    if not path.is_file() or path.stat().st_size > MAX_PROGRESS_BYTES:
        return {}
    rows: list[list[float]] = []
    with path.open(encoding="utf-8", errors="replace", newline="") as stream:
        for row in csv.DictReader(stream):
            try:
                values = [float(row[name]) for name in names]
            except (KeyError, TypeError, ValueError):
                continue
            if all(math.isfinite(value) for value in values):
                rows.append(values)
    table = np.asarray(rows, dtype=np.float64).reshape(-1, len(names))
    return {name: table[:, place] for place, name in enumerate(names)} if len(table) else {}


def training_chart(progress: dict[str, Floats]) -> str:
    """Draw loss and speed against images seen; return an SVG `data:` address, or "" without data."""
    if not progress or len(progress["images"]) < 2:
        return ""
    with styled():
        figure = figure_of(9.6, 2.9)
        left, right = figure.subplots(1, 2)
        seen, unit = _thousands(progress["images"])
        _curve(left, seen, progress["loss"], REAL)
        left.set_title("Training loss (lower is better)")
        positive = progress["loss"][progress["loss"] > 0]
        if len(positive) == len(progress["loss"]) and positive.max() > 4 * np.median(positive):
            _log_scale(left)
        _curve(right, seen, progress["images_per_second"], SYNTHETIC)
        right.set_title("Speed (images per second)")
        right.set_ylim(bottom=0)
        for axes in (left, right):
            axes.set_xlabel(f"images seen{unit}")
            axes.margins(x=0.01)
        return svg_address(figure)


def utility_chart(arms: Sequence[ArmResult], *, chosen: str, compared: str) -> str:
    """Draw the AUC of each arm with its 95 % interval; return an SVG `data:` address, or "" without arms.

    Args:
        arms: the arms as measured.
        chosen: key (`arm_key`) of the synthetic arm of the verdict.
        compared: key of the arm without synthetic images that it is compared with.
    """
    shown = [arm for arm in ordered_arms(arms) if "auc" in arm.val or "auc" in arm.test]
    if not shown:
        return ""
    with styled():
        figure = figure_of(9.6, 0.95 + 0.5 * len(shown))
        axes = figure.subplots()
        for place, arm in enumerate(shown):
            colour = arm_colour(arm)
            _seed_ticks(axes, place - 0.2, arm.val_auc_by_seed, colour)
            _point(axes, place - 0.2, arm.val.get("auc"), colour, filled=False)
            _seed_ticks(axes, place + 0.16, arm.test_auc_by_seed, colour)
            _point(axes, place + 0.16, arm.test.get("auc"), colour, filled=True)
        reference = next((arm for arm in shown if arm_key(arm) == compared and "auc" in arm.test), None)
        if reference is not None:
            axes.axvline(
                reference.test["auc"].value, color=REAL, linewidth=1, linestyle=REFERENCE_DASHES, zorder=1
            )
        axes.set_yticks(range(len(shown)), [arm_words(arm) for arm in shown])
        for arm, label in zip(shown, axes.get_yticklabels(), strict=True):
            label.set_color(INK)
            label.set_fontweight("bold" if arm_key(arm) in {chosen, compared} else "normal")
        axes.set_ylim(len(shown) - 0.45, -0.6)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.06)
        axes.set_xlabel("AUC (1 = perfect, 0.5 = guessing)")
        _legend(axes, with_reference=reference is not None)
        return svg_address(figure)


def recall_chart(report: PrivacyReport) -> str:
    """Draw the recall of planted copies against their strength, one panel per family, with 95 % intervals.

    Returns:
        An SVG `data:` address, or "" if nothing was planted at several strengths.
    """
    families = {
        name: [(strength, report.planted[kind]) for kind, strength in kinds.items() if kind in report.planted]
        for name, kinds in report.planted_strengths.items()
    }
    several = [(name, points) for name, points in families.items() if len(points) > 1]
    shown = dict(several[:MAX_PANELS])
    if not shown:
        return ""
    across = min(PANELS_A_ROW, len(shown))
    down = -(-len(shown) // across)
    with styled():
        figure = figure_of(9.6, 0.3 + 1.7 * down)
        panels = np.atleast_1d(figure.subplots(down, across, sharey=True, squeeze=False)).ravel()
        for axes, (name, points) in zip(panels, shown.items(), strict=False):
            x = [strength for strength, _ in points]
            bounds = [[found.get(name, found.get("recall", 0.0)) for name in _RECALL] for _, found in points]
            middle, low, high = 100 * np.clip(np.array(bounds), 0.0, 1.0).T
            spread = (np.maximum(middle - low, 0), np.maximum(high - middle, 0))
            axes.errorbar(x, middle, yerr=spread, color=REAL, marker="o", markersize=4, capsize=2)
            axes.set_title(name)
            axes.set_ylim(-3, 103)
            axes.margins(x=0.15)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        for row in range(down):
            panels[row * across].set_ylabel("caught, %")
        return svg_address(figure)


def ordered_arms(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """Return the arms in the order of the report: real ones first, then by ratio."""
    place = {name: index for index, name in enumerate(ARM_ORDER)}
    return sorted(arms, key=lambda arm: (place.get(arm.arm, len(place)), arm.arm, arm.ratio or 0.0))


def arm_key(arm: ArmResult) -> str:
    """Return the name of an arm in a verdict."""
    return arm.key or (arm.arm if arm.ratio is None else f"{arm.arm}-{arm.ratio:g}")


def arm_words(arm: ArmResult) -> str:
    """Return the display name of an arm."""
    return f"{arm.words[:1].upper()}{arm.words[1:]}" or arm_key(arm)


def arm_colour(arm: ArmResult) -> str:
    """Return the colour of an arm: real, mixed or synthetic training images."""
    if arm.num_synthetic == 0:
        return REAL
    return MIXED if arm.num_real else SYNTHETIC


def _legend(axes: Axes, *, with_reference: bool) -> None:
    from matplotlib.lines import Line2D

    def marker(face: str, edge: str, label: str) -> Line2D:
        return Line2D(
            [], [], marker="o", linestyle="", markerfacecolor=face, markeredgecolor=edge, label=label
        )

    handles = [
        marker(MUTED, MUTED, "test, 95 % interval"),
        marker("white", MUTED, "validation"),
        Line2D([], [], marker="|", linestyle="", color=MUTED, label="one classifier seed"),
    ]
    if with_reference:
        line = Line2D([], [], color=REAL, linewidth=1, linestyle=REFERENCE_DASHES)
        line.set_label("test, best without synthetic")
        handles.append(line)
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=8.5,
        handletextpad=0.3,
        columnspacing=1.6,
        borderaxespad=0.2,
    )


def _point(axes: Axes, height: float, value: Estimate | None, colour: str, *, filled: bool) -> None:
    if value is None or not math.isfinite(value.value):
        return
    if value.low is not None and value.high is not None:
        width = 2.2 if filled else 1.2
        axes.hlines(height, value.low, value.high, color=colour, linewidth=width, alpha=0.9, zorder=2)
    face = colour if filled else "white"
    size = 42 if filled else 26
    axes.scatter([value.value], [height], s=size, color=face, edgecolors=colour, linewidths=1.3, zorder=3)


def _seed_ticks(axes: Axes, height: float, values: Sequence[float], colour: str) -> None:
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        axes.scatter(finite, [height] * len(finite), marker="|", s=40, color=colour, alpha=0.45, linewidths=1)


def _curve(axes: Axes, x: Floats, y: Floats, colour: str) -> None:
    step = -(-len(x) // MAX_POINTS)
    axes.plot(x[::step], y[::step], color=colour, alpha=0.25, linewidth=0.8)
    window = max(1, len(y) // 30)
    # A trailing mean over whole windows only: missing neighbours would distort both ends.
    smooth = np.convolve(y, np.ones(window) / window, mode="valid")
    axes.plot(x[window - 1 :][::step], smooth[::step], color=colour, linewidth=1.8)


def _log_scale(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    # Plain numbers: the default powers of ten are formulas, which are disabled because names are untrusted.
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _thousands(values: Floats) -> tuple[Floats, str]:
    return (values / 1000, " (thousands)") if values[-1] >= 10_000 else (values, "")


def styled() -> Any:
    """Return a context in which matplotlib draws in the reports' style."""
    import matplotlib as mpl

    return mpl.rc_context(cast("Any", _STYLE))


def figure_of(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def svg_address(figure: Figure) -> str:
    """Return a figure as an SVG `data:` address."""
    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = stream.getvalue()
    # The document type names an external address, which is not needed.
    start = text.index("<svg")
    return "data:image/svg+xml;base64," + base64.b64encode(text[start:].encode()).decode("ascii")
