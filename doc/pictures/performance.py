"""All ratios of the page "Performance", read from its tables."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

page = Path("../performance.rst").read_text()  # Sphinx runs a picture in its own folder
page = page.partition(".. begin measured")[2].partition(".. end measured")[0]
labels, ratios, kinds = [], [], []
for title, table in re.findall(r"\.\. list-table:: ([^\n]*)\n(.*?)(?=\n\S|\Z)", page, re.S):
    rows = [
        re.split(r"\n? {3,5}(?:\* )?- ", "\n" + row)[1:] for row in re.findall(r" {3}\* - (?:.|\n(?! {3}\*))*", table)
    ]
    if [cell.strip() for cell in rows[0]] == ["What", "Shapes", "Ratio"]:
        for what, shapes, ratio in rows[1:]:
            ends = re.findall(r"[\d.]+", ratio.split(",")[0])
            labels.append(f"{what.strip()}: {shapes.strip()}".replace("``", ""))
            ratios.append(np.exp(np.mean(np.log([float(end) for end in ends]))))
            kinds.append(title)

groups = list(dict.fromkeys(kinds))
place = np.arange(len(labels)) + 1.2 * (1 + np.array([groups.index(kind) for kind in kinds]))
figure, axis = plt.subplots(figsize=(5.6, 0.26 * place[-1] + 0.8))
axis.barh(
    place + 0.25, np.array(ratios) - 1, left=1, height=0.4, color=[f"C{groups.index(kind) % 5}" for kind in kinds]
)
for y, label, ratio in zip(place, labels, ratios):
    axis.text(0.52, y - 0.2, label, fontsize=8, va="center")
    axis.annotate(
        f"{ratio:.0f}" if ratio > 20 else f"{ratio:.2g}",
        (max(ratio, 1), y + 0.25),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )
for group in groups:
    text = group.replace("``", "").partition(":")[0]
    axis.text(0.52, place[kinds.index(group)] - 1.1, text, fontsize=8, va="center", weight="bold")
axis.axvline(1, color="#bbbbbb", lw=1, zorder=0)
axis.set(xscale="log", xlabel="times as fast as the other package", xlim=(0.5, 200), ylim=(place[-1] + 1, 0))
axis.set_xticks([0.5, 1, 2, 5, 10, 100], ["0.5", "1", "2", "5", "10", "100"])
axis.set_yticks([])
axis.minorticks_off()
