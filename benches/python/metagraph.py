"""The Python SDK's own metagraph() of subnet 17: reports the seconds of every call as JSON.

The connection is open and everything was read once before the first measurement.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "peers"))

import peer  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="of the chain, ws://")
    parser.add_argument("--rounds", type=int, required=True)
    return parser.parse_args()


options = arguments()
peer.quiet_bittensor()

import bittensor as bt  # noqa: E402


def read(subtensor: bt.Subtensor) -> float:
    start = time.perf_counter()
    metagraph = subtensor.metagraph(netuid=17)
    seconds = time.perf_counter() - start
    assert len(metagraph.axons) == 1024
    return seconds


subtensor = bt.subtensor(network=options.url)
read(subtensor)
peer.say({"seconds": [read(subtensor) for _ in range(options.rounds)]})
