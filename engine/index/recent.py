"""`Recent`: what was read last, up to so many bytes for all indexes together."""

import weakref
from collections import OrderedDict
from typing import Any

from engine.system.forks import forkable_lock


class Recent:
    """Arrow tables by owner and number; with an owner go its tables."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Of those kept, and of those whose owner has gone since the others were asked for.
        self.bytes = 0
        self._tables: weakref.WeakKeyDictionary[Any, dict[int, Any]] = weakref.WeakKeyDictionary()
        self._order: OrderedDict[tuple[weakref.ref[Any], int], int] = OrderedDict()
        self._lock = forkable_lock()

    def get(self, owner: Any, number: int) -> Any:
        """The table, or None if it is not kept."""
        with self._lock:
            table = self._tables.get(owner, {}).get(number)
            if table is not None:
                self._order.move_to_end((weakref.ref(owner), number))
            return table

    def put(self, owner: Any, number: int, table: Any) -> None:
        """Keep a table; those that were not asked for longest go."""
        key, size = (weakref.ref(owner), number), int(table.nbytes)
        with self._lock:
            if key in self._order or size > self.limit:
                return
            self._tables.setdefault(owner, {})[number] = table
            self._order[key] = size
            self.bytes += size
            while self.bytes > self.limit:
                (known, oldest), freed = self._order.popitem(last=False)
                self.bytes -= freed
                holder = known()
                if holder is not None:
                    del self._tables[holder][oldest]
