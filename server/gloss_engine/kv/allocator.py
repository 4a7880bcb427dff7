"""Which pages are free. Holds page numbers only, no tensors.

Page 0 is never handed out: rows that merely pad a batch write there.
"""

from __future__ import annotations

from heapq import heappop, heappush


class BlockAllocator:
    """Pages 1 .. num_pages - 1, of which the lowest free one is taken first.

    So pages in use lie close together however many have been used before: on a CPU attention reads
    pages in a row as they lie and gathers scattered ones first, which takes half a step's time. It
    rounds differently, too: a pool that has come to rest gives the same sums as a fresh one.

    Args:
        num_pages: pages of the pool, the padding page included; at least 2.
        page_size: tokens a page holds.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        if num_pages < 2 or page_size < 1:
            raise ValueError(
                f"pool: got {num_pages} pages of {page_size}, expected at least 2 pages of 1 token"
            )
        self.num_pages, self.page_size = num_pages, page_size
        self._free = list(range(1, num_pages))
        self._used: set[int] = set()

    @property
    def num_free(self) -> int:
        """Pages that can be allocated now."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages that somebody holds."""
        return len(self._used)

    @property
    def capacity(self) -> int:
        """Pages that can be allocated when nobody holds any."""
        return self.num_pages - 1

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` tokens."""
        return -(-num_tokens // self.page_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` pages; the caller has checked `num_free`."""
        assert 0 <= count <= len(self._free), f"{count} pages wanted, {len(self._free)} free"
        pages = [heappop(self._free) for _ in range(count)]
        self._used.update(pages)
        return pages

    def free(self, pages: list[int]) -> None:
        """Give pages back; each must be held."""
        for page in pages:
            assert page in self._used, f"page {page} is not held"
            self._used.remove(page)
            heappush(self._free, page)
