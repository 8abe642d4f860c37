"""Blanks that tokenizers of words leave before marks, taken out as `transformers` does it."""

_REPLACED = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'")),
    *((" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)


def clean_up(text: str) -> str:
    """What `clean_up_tokenization_spaces` asks for. It is made for English."""
    for spaced, joined in _REPLACED:
        text = text.replace(spaced, joined)
    return text
