"""Pure readers of disk formats and partition tables: bytes that somebody else wrote, read with suspicion."""
