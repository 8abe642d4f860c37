"""Text to token ids and back, and chats to text, as a checkpoint's own files say. Torch-free."""

from model.tokenization.chat_template import ChatTemplate, ChatTemplateError
from model.tokenization.spelling import Spelling
from model.tokenization.tokenizer import Encoding, TextOrPair, Tokenizer

__all__ = ["ChatTemplate", "ChatTemplateError", "Encoding", "Spelling", "TextOrPair", "Tokenizer"]
