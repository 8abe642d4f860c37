"""Quartet and other engines on the same work, by turns, in one run: see docs/performance.md."""
