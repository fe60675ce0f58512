"""Semantic segmentation: heads, and the network of a backbone with one. Import `HEAD` from `segmentation.heads`."""
