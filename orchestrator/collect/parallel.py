"""The same work on many items in a few threads, which end with whoever asked for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def spread(
    work: Callable[[_Item], _Result], items: Sequence[_Item], num_threads: int, stop: Callable[[], None]
) -> Iterator[_Result]:
    """Results in the order in which they come to be; with one thread, that of the items.

    The threads are daemons, unlike those of :mod:`concurrent.futures`: a process that ends does not wait for them.

    Args:
        stop: called when the rest is not wanted any more (an item failed, or the caller left), to hurry the threads up.

    Raises:
        Exception: what ``work`` raised first. The threads have ended by then.
    """
    if num_threads <= 1 or len(items) <= 1:
        yield from map(work, items)
        return
    waiting: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    done: queue.SimpleQueue[tuple[_Result | None, BaseException | None]] = queue.SimpleQueue()
    is_over = threading.Event()

    def labour() -> None:
        while not is_over.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((work(item), None))
            except BaseException as error:  # noqa: BLE001 - raised again where the results are taken
                done.put((None, error))
                return

    threads = [
        threading.Thread(target=labour, name=f"collect-{number}", daemon=True)
        for number in range(min(num_threads, len(items)))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in items:
            result, error = done.get()
            if error is not None:
                raise error
            yield result  # type: ignore[misc]  # None only beside an error
    except BaseException:
        stop()
        raise
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
