"""A release from one command: `make release`, or `make rehearsal` without the tests."""
