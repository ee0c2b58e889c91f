"""The study store: one SQLite file with everything that was recorded; its tables: `migrations`.

A rollout and all its rows are one transaction, and so is a text's fidelity: after a kill it is
there whole or not at all. A study of an earlier schema is migrated when it is opened.
"""

from charprobe_lite.eval.store.measurements import MeasurementTables
from charprobe_lite.eval.store.provenance import ProvenanceTable
from charprobe_lite.eval.store.rollouts import RolloutTables


class Store(ProvenanceTable, RolloutTables, MeasurementTables):
    """A study file with all its tables; a context manager. See `Connection`."""
