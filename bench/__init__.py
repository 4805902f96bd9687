"""Programs that measure: one for each figure that the README quotes."""
