"""What `check.py` runs: the items, and the process that measures one."""
