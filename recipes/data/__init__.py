"""Data modules and corpora."""
