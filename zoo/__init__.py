"""A model zoo for discrete media tokens: audio codecs, image tokenizers and token decoders under one API."""
