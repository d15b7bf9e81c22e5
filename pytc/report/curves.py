"""The curves of a threshold sweep as a PNG."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

from pytc.metrics.sweep import Sweep

# A panel shows the figures of one family that the sweep has.
PANELS = {
    "Run length": ("nerl", "nerl_5", "nerl_20", "nerl_100"),
    "Skeleton VOI (bits)": ("voi_sum", "voi_split", "voi_merge"),
    "Dense VOI (bits)": ("dense_voi_sum", "dense_voi_split", "dense_voi_merge"),
    "Overlap": ("jaccard", "dice", "precision", "recall"),
}
COLOURS = ("#1f5fbf", "#d1495b", "#2a9d8f", "#e9a03b")


def draw_sweep(sweep: Sweep) -> bytes:
    """PNG of each family of figures over the threshold, points on its whole curve where that is known, best marked."""
    metric, best, curve = sweep.metric, sweep.best, sweep.curve[::-1]
    panels = {title: [k for k in names if k in best] for title, names in PANELS.items()}
    panels = {title: names for title, names in panels.items() if names}
    if not any(metric in names for names in panels.values()):
        panels[metric] = [metric]
    figure = Figure(figsize=(4.2 * len(panels), 3.4), dpi=160, layout="constrained")
    thresholds, changes = ([row["threshold"] for row in rows] for rows in (sweep.rows, curve))
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for i, (name, colour) in enumerate(zip(names, COLOURS)):
            chosen = name == metric
            if curve and name in curve[0]:
                axes.step(changes, [row[name] for row in curve], where="post", linewidth=0.8, color=colour)
            axes.plot(thresholds, [row[name] for row in sweep.rows], "o" if curve and name in curve[0] else "o-",
                      markersize=4 if chosen else 2.5, linewidth=2.2 if chosen else 1.2, color=colour, label=name,
                      zorder=9 - i)
            if chosen:
                axes.plot(best["threshold"], best[name], marker="*", markersize=17, color=colour,
                          markeredgecolor="white", zorder=10)
                axes.set_title(f"{best[name]:.3f} at {best['threshold']:.3f}", fontsize=10, loc="right", color=colour)
        axes.axvline(best["threshold"], color="#888", linewidth=1, linestyle=":")
        axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
        axes.set(xlabel="threshold", ylim=(0, None), ymargin=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e7eb")
        axes.legend(frameon=False, fontsize=8)
    figure.get_layout_engine().set(wspace=0.05)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
