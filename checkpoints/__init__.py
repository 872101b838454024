"""Manifests, key maps and the small weights that ship with the project."""
