"""K-means, its initial centres, and sketches of wide rows."""
