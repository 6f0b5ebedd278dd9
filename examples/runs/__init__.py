"""What every example program needs around its training: flags, folder, records, stop, display."""
