"""The campaign: a real daemon under kills, freezes and full disks, and a checker behind it.

trainer.py   a stand-in that is quick and proves that no step was skipped, doubled or reordered
serve.py     the real daemon, given that stand-in
world.py     one home with its daemon and its processes
ledger.py    what a client was told, written down before anything else happens
client.py    the client: uploads, jobs, cancels, pauses, events
nemesis.py   the faults, drawn from a seed
checker.py   what must be true of it all, from outside
lane.py      cycle after cycle on one home after the other
sweep.py     kills the daemon at its n-th sync, write and rename, for every n
real.py      kills of real training: the same weights bit for bit
"""
