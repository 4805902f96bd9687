"""One training attempt, top to bottom: data, masks, packing, model, loop, checkpoint."""
