"""Text to token ids and back, as a checkpoint's own files say. Torch-free."""

from model.tokenization.tokenizer import Encoding, TextOrPair, Tokenizer

__all__ = ["Encoding", "TextOrPair", "Tokenizer"]
