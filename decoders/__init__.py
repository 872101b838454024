"""Decoders of token streams; they know vocabularies and layouts, never a codec."""
