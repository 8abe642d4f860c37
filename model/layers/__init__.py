"""The blocks of the one Transformer: each module is told its context and fetches nothing."""
