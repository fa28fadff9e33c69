"""Many prompts: which videos there are to be, in which batches; what became of each; one call of a network for several clips."""
