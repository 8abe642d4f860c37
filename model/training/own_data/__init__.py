"""Training on a file of one's own: it is checked, split, trained on, scored, and what comes out is served."""
