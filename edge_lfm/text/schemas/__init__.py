"""JSON schemas made ready for grammars: read, rewritten into what the engine binds, taken apart for calls."""
