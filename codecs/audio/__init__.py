"""Audio codecs, one architecture a file."""
