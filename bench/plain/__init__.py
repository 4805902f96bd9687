"""What ftd is measured against: scripts as people write them."""
