"""What this machine has and lets this process use: processors, memory, temperatures. Knows no models."""
