"""Image codecs, image files, and pictures larger than memory allows at once."""
