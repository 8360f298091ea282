"""What all scripts share: options, a run's session, its photos page by page, and the process."""
