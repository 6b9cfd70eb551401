"""What every command runs on: files, locks, processes, device, signals, progress."""
