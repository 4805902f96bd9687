"""The campaign: a real daemon under kills, freezes and lost data, and a checker behind it.

trainer.py   a stand-in that is quick and proves that no step was skipped, doubled or reordered
serve.py     the real daemon, given that stand-in
world.py     one home with its daemon and its processes
ledger.py    what a client was told, written down before anything else happens
client.py    the client: uploads, jobs, cancels, pauses, events
faults.py    all faults by name, drawn from a seed
nemesis.py   those of processes
disk.py      those of spools, checkpoints and databases, and of the disk
checker.py   what must be true of it all, from outside
witness.py   what must be true of what the trainers saw
scrape.py    what must be true of the metrics
lane.py      cycle after cycle on one home after the other
sweep.py     kills the daemon at its n-th sync, write and rename, for every n
real.py      kills of real training: the same weights bit for bit
"""
