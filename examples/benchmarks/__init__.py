"""What is claimed of speed, memory and reliability, measured: one command each."""
