"""A consumer in a process of its own, to be killed: `consumer.py URL GROUP FILE LEASE_S`.

Takes events with ack=manual and writes what it does, a line each: `got <time> <position> <session>`
before it counts as processed, `ack <time> <vector>` once the acknowledgement was answered.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from engine.errors import FirecellError
from topics.client import Consumer

BATCH = 25


def main(url: str, group: str, path: str, lease_s: str) -> None:
    """Runs until it is killed."""
    consumer = Consumer(url, group=group, since="earliest", ack="manual", lease_s=lease_s)
    with Path(path).open("w", buffering=1) as out:
        for number, event in enumerate(consumer, 1):
            out.write(f"got {time.time()} {event['position']} {consumer.session}\n")
            if number % BATCH == 0:
                time.sleep(0.05)  # so that a kill falls into the middle of a batch
                try:
                    consumer.ack()
                except FirecellError:  # lost: the stream connects again
                    continue
                vector = ",".join(f"{p}:{at}" for p, at in consumer.positions.items())
                out.write(f"ack {time.time()} {vector}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
