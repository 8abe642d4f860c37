"""The HTTP side: parse, ask one task, shape the answer."""
