"""Text in, typed answers out: each module is one task. No HTTP and no tensors in here."""
