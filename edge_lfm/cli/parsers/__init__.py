"""What each verb is told: its options, and an example. Imports nothing that a help page does not need."""
