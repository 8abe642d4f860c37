"""Measurements behind every speed claim: paired, alternated runs, medians, the machine told with them."""
