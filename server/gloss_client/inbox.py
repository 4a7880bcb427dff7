"""A bounded line between threads that ends at once when its reader leaves."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """Many writers, one reader.

    Unlike queue.Queue, closing it wakes writers that wait for room.

    Args:
        size: items it holds before writers wait.
    """

    def __init__(self, size: int) -> None:
        self._size, self._closed = size, False
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()

    def put(self, item: Item) -> bool:
        """Adds an item once there is room; False, and nothing added, when it is closed."""
        with self._changed:
            # Closing empties it, and so lets writers go as well.
            self._changed.wait_for(lambda: len(self._items) < self._size)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def get(self) -> Item | None:
        """The oldest item, once there is one; None when it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            if self._closed:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Drops what waits and lets everyone go."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
