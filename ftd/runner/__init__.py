"""One attempt of one job: begun, followed, stopped, settled."""
