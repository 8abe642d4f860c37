"""Training of the Transformers that Quartet serves: recipes, objectives, loop, checkpoints, evaluation."""
