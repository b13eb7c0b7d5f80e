"""What developers run by hand, and the generators of the demo data."""
