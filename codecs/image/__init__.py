"""Image codecs, one architecture a file."""
