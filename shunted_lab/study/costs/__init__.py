"""What runs cost on a device: measured latency and memory, and the time and disk that a call will take."""
