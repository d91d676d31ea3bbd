"""Text to tokens and back, and conversations to text."""

from pagoda.tokenizer.load import load_tokenizer
from pagoda.tokenizer.tokenizer import NoTokenizer, Tokenizer

__all__ = ["NoTokenizer", "Tokenizer", "load_tokenizer"]
