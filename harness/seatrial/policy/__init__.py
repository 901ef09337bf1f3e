"""What is required and what follows from an observation. Pure: no clock, no file, no guest, no pytest."""
