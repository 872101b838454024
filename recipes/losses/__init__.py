"""Losses, discriminators and their balance."""
