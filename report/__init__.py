"""The report: its pages, Markdown and fonts."""
