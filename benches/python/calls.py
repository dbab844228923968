"""The Python SDK's own dendrite: pulls and submits in turn, and reports the seconds of every call as JSON.

A submission's time begins with the encoding of the SPZ to base64 and its signature, as ours does.
"""

import argparse
import asyncio
import base64
import hashlib
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "peers"))

import peer  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--hotkey", required=True)
    parser.add_argument("--spz", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    return parser.parse_args()


options = arguments()
seed = "0x" + hashlib.blake2b(os.environ["SN17_SEED"].encode(), digest_size=32).hexdigest()
peer.quiet_bittensor()

import bittensor as bt  # noqa: E402
from bittensor_wallet import Keypair  # noqa: E402

from protocol import PullTask, SubmitResults, submission_message  # noqa: E402

peer.stay_offline("0.0.0.0")


async def measure() -> list[float]:
    keypair = Keypair.create_from_seed(seed)
    dendrite = bt.Dendrite(wallet=keypair)
    axon = bt.AxonInfo(
        version=1, ip="127.0.0.1", port=options.port, ip_type=4, hotkey=options.hotkey, coldkey=keypair.ss58_address
    )
    spz = options.spz.read_bytes()
    seconds = []
    for _ in range(options.rounds):
        started = time.perf_counter()
        pulled = await dendrite.call(axon, PullTask(), timeout=12.0, deserialize=False)
        seconds.append(time.perf_counter() - started)
        if pulled.task is None:
            raise RuntimeError(f"no task: {pulled.axon} {pulled.dendrite}")
        started = time.perf_counter()
        submit_time = time.time_ns()
        message = submission_message(submit_time, pulled.task.prompt, options.hotkey, keypair.ss58_address)
        submission = SubmitResults(
            task_id=pulled.task.id,
            results=base64.b64encode(spz).decode("ascii"),
            compression=2,
            submit_time=submit_time,
            signature=base64.b64encode(keypair.sign(message)).decode("ascii"),
        )
        reply = await dendrite.call(axon, submission, timeout=300.0, deserialize=False)
        seconds.append(time.perf_counter() - started)
        if reply.feedback is None:
            raise RuntimeError(f"no feedback: {reply.axon} {reply.dendrite}")
        await asyncio.sleep(1.0)
    await dendrite.aclose_session()
    return seconds


seconds = asyncio.run(measure())
peer.say({"seconds": seconds, "bittensor": bt.__version__})
