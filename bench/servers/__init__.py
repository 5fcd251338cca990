"""The real servers of the delivery matrix."""
