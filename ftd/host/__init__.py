"""The machine around us: devices, model directories, stored bytes, systemd, locks."""
