"""The laboratory: every claim of the method, and the systems before it, repeated in miniature on the little world."""
