"""K-means, its initial centres, and how it spares distances."""
