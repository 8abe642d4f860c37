"""What came before the Transformer and before pre-training, on the same texts and tests: `model.training history`."""
