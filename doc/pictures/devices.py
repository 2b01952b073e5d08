"""What lies in main memory, and what is copied to the device."""

import matplotlib.pyplot as plt

figure, axis = plt.subplots(figsize=(6.2, 2.7))
boxes = {
    "X\nNumPy, SciPy, pandas": (0.14, 0.5, "#56B4E9"),
    "one batch\nat a time": (0.5, 0.78, "#E69F00"),
    "parameters,\noptimiser": (0.5, 0.22, "#E69F00"),
    "attributes, lists,\nscores: NumPy": (0.86, 0.5, "#56B4E9"),
}
for text, (x, y, colour) in boxes.items():
    box = {"boxstyle": "round,pad=0.5", "facecolor": colour, "alpha": 0.35, "edgecolor": colour}
    axis.text(x, y, text, ha="center", va="center", fontsize=10, bbox=box)
arrow = {"arrowstyle": "->", "lw": 1.5, "color": "#333333"}
for start, end in (((0.27, 0.58), (0.41, 0.74)), ((0.5, 0.63), (0.5, 0.37)), ((0.6, 0.26), (0.73, 0.4))):
    axis.annotate("", end, start, arrowprops=arrow)
axis.axvspan(0.34, 0.655, color="#E69F00", alpha=0.08, linewidth=0)
axis.text(0.5, 1.02, "device: GPU or CPU", ha="center", fontsize=10)
axis.text(0.14, 1.02, "main memory", ha="center", fontsize=10)
axis.text(0.86, 1.02, "main memory", ha="center", fontsize=10)
axis.set(xlim=(0, 1), ylim=(0, 1.1))
axis.axis("off")
