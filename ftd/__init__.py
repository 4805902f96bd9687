"""ftd: the OpenAI fine-tuning API on your own workstation."""

__version__ = "0.1.0"
