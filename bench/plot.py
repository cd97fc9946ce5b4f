"""Draws the results: rate against associations, and what each instance costs."""

from pathlib import Path
from typing import Any

from bench.plan import ALL, ASSOCIATIONS, CT, LARGE, SMALL
from bench.results import Results

COLOURS = {
    "bucky": "#0b6e4f",
    "bucky bare": "#08a045",
    "storescp": "#9a7aa0",
    "storescp --fork": "#5f4b8b",
    "Orthanc": "#d1495b",
    "pynetdicom": "#edae49",
    "C sink": "#7f8c8d",
    "C sink, sync each": "#b0bec5",
    "C sink, group sync": "#455a64",
}


def draw(results: Results, path: Path) -> str:
    """Write the PNG; return why not, or an empty string."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return "matplotlib is not installed (uv sync --inexact --group bench)"
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    figure.suptitle("Receiving DICOM: one run, two-core machine shared with the senders (medians)")
    _lines(axes[0][0], results, CT, "0.5 MB instances")
    _lines(axes[0][1], results, SMALL, "20 KB instances")
    _bars(axes[1][0], results, "CPU ms per 0.5 MB instance, 4 associations", "cpu_ms", size=CT, associations=4)
    _bars(axes[1][1], results, "100 MB instances per second, 4 associations", "rate", size=LARGE, associations=4)
    if axes[0][0].has_data():
        axes[0][0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return ""


def _lines(axis: Any, results: Results, size: int, title: str) -> None:
    for name in ALL:
        points = []
        for associations in ASSOCIATIONS:
            load = {"size": size, "associations": associations, "pdu": 131072, "mode": "stream", "link": "loopback"}
            found = results.get(name, **load)
            if found:
                points.append((associations, found.rate, found.slowest, found.fastest))
        if not points:
            continue
        x, y, low, high = zip(*points, strict=True)
        style = "--" if name.startswith("C sink") else "-"
        width = 2.8 if name.startswith("bucky") else 1.4
        axis.plot(x, y, style, marker="o", markersize=4, color=COLOURS[name], linewidth=width, label=name)
        axis.fill_between(x, low, high, color=COLOURS[name], alpha=0.12, linewidth=0)
    axis.set(title=title, xlabel="associations", ylabel="instances per second", xscale="log", ylim=(0, None))
    axis.set_xticks(ASSOCIATIONS, [str(count) for count in ASSOCIATIONS])
    axis.grid(alpha=0.25)


def _bars(axis: Any, results: Results, title: str, value: str, **load: object) -> None:
    wanted = load | {"mode": "stream", "link": "loopback", "pdu": 131072}
    found = {name: getattr(summary, value) for name in ALL if (summary := results.get(name, **wanted))}
    bars = axis.barh(list(found), list(found.values()), color=[COLOURS[name] for name in found])
    axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axis.invert_yaxis()
    axis.set(title=title)
    axis.margins(x=0.12)
