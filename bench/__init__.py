"""What a fire-and-forget POST costs its caller, and whether it arrived: `python -m bench`."""
