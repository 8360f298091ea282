"""Whole files, downloads, the course's data, checkpoints and the bundled weights."""
