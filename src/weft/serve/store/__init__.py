"""The store: database and content of one server, whole or not at all. Everything goes through `Store.open`.

folder, database, migrate      the data folder, its lock, its tables
blobs, adapters, pins          content by hash, kept from the sweep while it is being named
files, uploads, jobs, models   what owners see; every look-up takes the owner, a foreign id is not there
transitions, results           the states of jobs, what jobs leave; `serve/leases.py` stands on them
check                          names each damage
"""

from weft.serve.store.check import Damage
from weft.serve.store.store import Store

__all__ = ["Damage", "Store"]
