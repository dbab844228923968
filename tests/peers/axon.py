"""A stranger's validator: the real bittensor axon, handing out a fixed list of tasks on a loopback port.

It takes nothing on trust: header signatures through the axon's own verification (unsigned requests, which that
accepts, are refused), submission signatures through the real key library, and each result byte for byte against the
PLY file it was made from. Anything out of order makes the exit status 1.

Tasks: a JSON list of objects.
  type        "text" or "image"
  prompt      the prompt; or prompt_file, whose bytes are sent as base64 (a .b64 file is sent as it is)
  id          default: a fresh UUID
  cooldown    seconds from the answer to the next allowed pull, default 1
  expect      "result" (default), "empty" or "any"
  score       the fidelity reported for a result, default 0.8

stdout: {"ready": true, "port", "hotkey"}, then the report once every task is booked or the time is up.
"""

import argparse
import base64
import binascii
import functools
import json
import signal
import socket
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Tuple

import peer
import splat


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True, help="JSON file with the tasks")
    parser.add_argument("--ply", type=Path, help="the file every result must have been made from")
    parser.add_argument("--off-by-one", type=int, default=0, help="bytes per result that may differ by one")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds until it gives up")
    parser.add_argument("--linger", type=float, default=0.5, help="seconds it goes on answering after the last task")
    parser.add_argument("--patient", action="store_true", help="do not stop at the first thing out of order")
    parser.add_argument("--throttle", type=int, default=0, help="throttle_period of the replies, seconds")
    parser.add_argument("--threshold", type=float, default=0.6, help="validation_threshold of the replies")
    parser.add_argument("--penalty", type=float, default=5.0, help="seconds a bad signature adds to the cooldown")
    parser.add_argument("--seed", default=peer.seed_of("validator"), help="0x and 64 hex digits")
    return parser.parse_args()


options = arguments()
peer.quiet_bittensor()

import bittensor as bt  # noqa: E402
from bittensor_wallet import Keypair  # noqa: E402
from starlette.requests import Request  # noqa: E402

from protocol import Feedback, PullTask, SubmitResults, Task, submission_message  # noqa: E402


@dataclass
class Assignment:
    task: Task
    cooldown: float
    expect: str
    score: float
    pulls: int = 0
    pulled_at: float = 0.0
    outcome: str = "waiting"
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, entry: dict[str, Any], folder: Path) -> "Assignment":
        entry = dict(entry)
        if file := entry.pop("prompt_file", None):
            data = (folder / file).read_bytes()
            prompt = data.decode("ascii").strip() if file.endswith(".b64") else base64.b64encode(data).decode("ascii")
        else:
            prompt = entry.pop("prompt")
        made = cls(
            task=Task(type=entry.pop("type", "text"), id=entry.pop("id", str(uuid.uuid4())), prompt=prompt),
            cooldown=entry.pop("cooldown", 1.0),
            expect=entry.pop("expect", "result"),
            score=entry.pop("score", 0.8),
        )
        if entry or made.expect not in ("result", "empty", "any"):
            sys.exit(f"not a task: {entry or made.expect}")
        return made

    def report(self) -> dict[str, Any]:
        prompt = self.task.prompt
        return {
            "id": self.task.id,
            "type": self.task.type,
            "prompt": prompt if len(prompt) <= 100 else prompt[:100] + f"... ({len(prompt)} characters)",
            "pulls": self.pulls,
            "outcome": self.outcome,
            **self.details,
        }


class Validator:
    """The rules of rules.md R2 to R4 for one miner at a time, and the record of what came in."""

    def __init__(self, keypair: Keypair, assignments: list[Assignment], wanted: splat.Payload | None):
        self.keypair = keypair
        self.assignments = assignments
        self.wanted = wanted
        self.open: Assignment | None = None
        self.cooldown_until = 0
        self.violations = 0
        self.pulls = 0
        self.accepted = 0
        self.declined = 0
        self.misplaced = 0
        self.miner: str | None = None
        self.refused: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.over = threading.Event()
        # Calls that are not answered yet.
        self.present = 0

    def booked(self) -> int:
        return self.accepted + self.declined

    def fault(self, what: str) -> None:
        self.errors.append(what)
        if not options.patient:
            self.over.set()

    def refuse(self, path: str, status: int, reason: str) -> None:
        self.refused.append({"path": path, "status": status, "reason": reason})
        if not options.patient:
            self.over.set()

    def check_sender(self, synapse: bt.Synapse, request: Request) -> None:
        """The body is not signed, and the real validator goes by it: it must say what the signed headers say."""
        header = request.headers["bt_header_dendrite_hotkey"]
        if synapse.dendrite.hotkey != header:
            self.fault(f"the body names {synapse.dendrite.hotkey}, the headers {header}")
        if synapse.axon.hotkey != self.keypair.ss58_address:
            self.fault(f"the body is meant for {synapse.axon.hotkey}")
        if self.miner is None:
            self.miner = header
        elif self.miner != header:
            self.fault(f"a second miner: {header}")

    async def pull(self, synapse: PullTask, request: Request) -> PullTask:
        self.check_sender(synapse, request)
        self.pulls += 1
        now = time.time()
        synapse.validation_threshold = options.threshold
        synapse.throttle_period = options.throttle
        synapse.task = None
        synapse.cooldown_until = 0
        following = self.following()
        if self.open is None and now < self.cooldown_until:
            self.violations += 1
            synapse.cooldown_until = self.cooldown_until
            if following:
                self.fault(f"pulled {self.cooldown_until - now:.3f} s before the end of the cooldown")
        elif self.open is None and following is None:
            self.cooldown_until = int(now + 3600)
            synapse.cooldown_until = self.cooldown_until
        elif self.open is None:
            self.open = following
        if self.open is not None:
            self.open.pulls += 1
            self.open.pulled_at = self.open.pulled_at or now
            self.open.outcome = "open"
            synapse.task = self.open.task
        synapse.cooldown_violations = self.violations
        return synapse

    def following(self) -> Assignment | None:
        return next((each for each in self.assignments if each.outcome == "waiting"), None)

    async def submit(self, synapse: SubmitResults, request: Request) -> SubmitResults:
        self.check_sender(synapse, request)
        results, signature = synapse.results, synapse.signature
        synapse.results = synapse.signature = ""
        synapse.feedback = Feedback(generations_within_the_window=self.accepted)
        synapse.cooldown_until = self.cooldown_until
        assignment = self.open
        if assignment is None or synapse.task_id != assignment.task.id:
            self.misplaced += 1
            self.fault(f"a submission for task {synapse.task_id!r}, which is not the open one")
            return synapse

        now = time.time()
        message = submission_message(
            synapse.submit_time, assignment.task.prompt, synapse.axon.hotkey, synapse.dendrite.hotkey
        )
        try:
            raw = base64.b64decode(signature, validate=True)
            genuine = Keypair(ss58_address=synapse.dendrite.hotkey).verify(message, raw)
        except (binascii.Error, ValueError, TypeError) as error:
            self.fault(f"the submission signature cannot be read: {error}")
            raise

        assignment.details = {
            "seconds": round(now - assignment.pulled_at, 3),
            "submit_time": synapse.submit_time,
            "data_format": synapse.data_format,
            "data_ver": synapse.data_ver,
            "compression": synapse.compression,
            "signature_valid": genuine,
            "results_base64_bytes": len(results),
        }
        self.open = None
        self.cooldown_until = int(now + assignment.cooldown)
        if not genuine:
            self.cooldown_until = int(now + assignment.cooldown + options.penalty)
            assignment.outcome = "bad signature"
            self.fault("the submission signature does not verify")
        elif not results:
            self.declined += 1
            assignment.outcome = "empty"
            if assignment.expect == "result":
                self.fault(f"task {assignment.task.id} was answered empty")
        else:
            self.judge(assignment, synapse, results, now)
            synapse.feedback.task_fidelity_score = assignment.score
        synapse.feedback.generations_within_the_window = self.accepted
        synapse.cooldown_until = self.cooldown_until
        if self.booked() == len(self.assignments):
            self.over.set()
        return synapse

    def judge(self, assignment: Assignment, synapse: SubmitResults, results: str, now: float) -> None:
        if (synapse.data_format, synapse.data_ver, synapse.compression) != ("ply", 0, 2):
            self.fault(f"sent as {synapse.data_format}, version {synapse.data_ver}, compression {synapse.compression}")
        if abs(now - synapse.submit_time / 1e9) > 600:
            self.fault(f"submit_time {synapse.submit_time} is not the time in nanoseconds")
        if assignment.expect == "empty":
            self.fault(f"task {assignment.task.id} was answered with a result")
        try:
            spz = base64.b64decode(results, validate=True)
            sent = splat.unpack_spz(spz)
            assignment.details |= {"spz_bytes": len(spz), "points": sent.points, "degree": sent.degree}
            if self.wanted is not None:
                found = splat.compare(sent, self.wanted)
                assignment.details |= {
                    "position_error": found.position_error,
                    "off_by_one": found.off_by_one,
                    "wrong_bytes": found.wrong,
                }
                if problem := found.problem(options.off_by_one):
                    raise splat.SplatError(problem)
        except (binascii.Error, splat.SplatError) as error:
            assignment.outcome = "bad result"
            self.fault(f"the result of task {assignment.task.id}: {error}")
            return
        self.accepted += 1
        assignment.outcome = "accepted"

    def blacklist(self, what: str) -> Tuple[bool, str]:
        if what == "SubmitResults" and self.open is None:
            return True, "No task assigned"
        return False, ""

    def report(self, seconds: float) -> dict[str, Any]:
        return {
            "ok": self.ok(),
            "tasks": len(self.assignments),
            "pulls": self.pulls,
            "accepted": self.accepted,
            "declined": self.declined,
            "violations": self.violations,
            "misplaced": self.misplaced,
            "miner": self.miner,
            "refused": self.refused,
            "errors": self.errors,
            "seconds": round(seconds, 3),
            "per_task": [each.report() for each in self.assignments],
        }

    def ok(self) -> bool:
        return self.booked() == len(self.assignments) and not self.refused and not self.errors


def witness(app: Any, validator: Validator) -> Any:
    """Notes every reply that is not 200, also those the axon gives before a handler is asked."""

    async def record(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] != 200:
                headers = dict(message["headers"])
                reason = headers.get(b"bt_header_axon_status_message", b"").decode("latin-1")
                validator.refuse(scope["path"], message["status"], reason[:200])
            await send(message)

        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        validator.present += 1
        try:
            await app(scope, receive, note)
        finally:
            validator.present -= 1

    return record


def serve(validator: Validator) -> tuple[bt.Axon, int]:
    # With the protocol named, asyncio switches Nagle's delay off; without, each reply takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    wallet = SimpleNamespace(hotkey=validator.keypair, coldkeypub=validator.keypair)
    axon = bt.Axon(wallet=wallet, port=port, ip="127.0.0.1", external_ip="127.0.0.1", external_port=port)

    async def verify_signed(synapse: bt.Synapse) -> None:
        if not synapse.dendrite.signature:
            raise ValueError("Missing Signature")
        await axon.default_verify(synapse)

    async def forward_pull(synapse: PullTask, request: Request) -> PullTask:
        return await validator.pull(synapse, request)

    async def verify_pull(synapse: PullTask) -> None:
        await verify_signed(synapse)

    async def forward_submit(synapse: SubmitResults, request: Request) -> SubmitResults:
        return await validator.submit(synapse, request)

    async def verify_submit(synapse: SubmitResults) -> None:
        await verify_signed(synapse)

    async def blacklist_submit(synapse: SubmitResults) -> Tuple[bool, str]:
        return validator.blacklist("SubmitResults")

    axon.attach(forward_fn=forward_pull, verify_fn=verify_pull)
    axon.attach(forward_fn=forward_submit, verify_fn=verify_submit, blacklist_fn=blacklist_submit)
    # The axon would listen on every interface, and on a port that must be known beforehand.
    axon.fast_config.app = witness(axon.app, validator)
    axon.fast_server.run = functools.partial(axon.fast_server.run, sockets=[listener])
    axon.start()
    return axon, port


def main() -> int:
    tasks = json.loads(options.tasks.read_text())
    wanted = splat.encode(splat.read_ply(options.ply.read_bytes())) if options.ply else None
    validator = Validator(
        Keypair.create_from_seed(options.seed),
        [Assignment.read(entry, options.tasks.parent) for entry in tasks],
        wanted,
    )
    axon, port = serve(validator)
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: validator.over.set())
    deadline = started + options.timeout
    while not axon.fast_server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    peer.say({"ready": True, "port": port, "hotkey": validator.keypair.ss58_address})
    if validator.over.wait(options.timeout):
        time.sleep(options.linger)
        # The last answer is on its way until then.
        while validator.present > 0 and time.monotonic() < deadline:
            time.sleep(0.005)
    else:
        validator.errors.append(f"not done after {options.timeout} s")
    peer.say(validator.report(time.monotonic() - started))
    axon.stop()
    return 0 if validator.ok() else 1


if __name__ == "__main__":
    sys.exit(main())
