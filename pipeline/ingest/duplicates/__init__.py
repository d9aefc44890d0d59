"""Equal and nearly equal scans, and images that stand out."""
