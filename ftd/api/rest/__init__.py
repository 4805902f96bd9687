"""The REST face, in OpenAI's shapes: decode, one service call, encode."""
