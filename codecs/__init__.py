"""Codecs: media to tokens and back."""
