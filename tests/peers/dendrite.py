"""A stranger's miner: the real bittensor dendrite against an axon of ours.

First it works: `--count` tasks pulled and answered with the SPZ file, each correctly signed. Then it misbehaves:
every byte of a header signature changed in turn, every signed value changed, no signature, a replayed nonce; then
submissions with an unreadable signature, for a wrong task, and with one changed byte in the signature. The last one
costs the cooldown of a low score, so it comes last. Headers of the bad requests are bittensor's own but for the change.

stdout: one JSON report. Exit status 0 if every reply was the expected one.
"""

import argparse
import asyncio
import base64
import sys
import time
from pathlib import Path
from typing import Any, Callable

import peer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ip", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--hotkey", help="the axon's hotkey")
    parser.add_argument("--spz", type=Path, help="the result to submit")
    parser.add_argument("--count", type=int, default=1, help="tasks to answer correctly first")
    parser.add_argument("--no-mischief", action="store_true", help="leave the bad requests out")
    parser.add_argument("--stride", type=int, default=1, help="change every n-th byte of the header signature")
    parser.add_argument("--accept-score", type=float, default=0.0, help="scores of good results must be above this")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds it waits for one task")
    parser.add_argument("--seed", default=peer.seed_of("miner"), help="the miner's key, 0x and 64 hex digits")
    parser.add_argument("--print-hotkey", action="store_true", help="print the miner's hotkey as JSON and end")
    given = parser.parse_args()
    if not given.print_hotkey and None in (given.port, given.hotkey, given.spz):
        parser.error("--port, --hotkey and --spz are needed")
    return given


options = arguments()
peer.quiet_bittensor()

import bittensor as bt  # noqa: E402
from bittensor_wallet import Keypair  # noqa: E402

from protocol import PullTask, SubmitResults, submission_message  # noqa: E402

peer.stay_offline("0.0.0.0")

PULL_TIMEOUT = 12.0
SUBMIT_TIMEOUT = 300.0
Headers = dict[str, str]


class Miner:
    def __init__(self, keypair: Keypair):
        self.keypair = keypair
        self.dendrite = bt.Dendrite(wallet=keypair)
        self.axon = bt.AxonInfo(
            version=1,
            ip=options.ip,
            port=options.port,
            ip_type=4,
            hotkey=options.hotkey,
            coldkey=keypair.ss58_address,
        )
        self.spz = base64.b64encode(options.spz.read_bytes()).decode("ascii")
        self.cooldown_until = 0.0
        self.errors: list[str] = []
        self.rounds: list[dict[str, Any]] = []
        self.mischief: list[dict[str, Any]] = []

    def expect(self, what: str, holds: bool, seen: Any) -> None:
        if not holds:
            self.errors.append(f"{what}: {seen}")

    async def pull(self) -> PullTask:
        """Asks until there is a task, never before the cooldown's end."""
        deadline = time.monotonic() + options.timeout
        while True:
            wait = max(self.cooldown_until - time.time(), 0.0)
            if time.monotonic() + wait > deadline:
                raise RuntimeError(f"no task within {options.timeout} s, cooldown until {self.cooldown_until}")
            await asyncio.sleep(wait)
            reply = await self.dendrite.call(self.axon, PullTask(), timeout=PULL_TIMEOUT, deserialize=False)
            if reply.axon.status_code != 200 or reply.dendrite.status_code not in (None, 200):
                raise RuntimeError(f"pull: {reply.axon} {reply.dendrite}")
            if reply.task is not None:
                self.expect("violations", reply.cooldown_violations == 0, reply.cooldown_violations)
                return reply
            self.cool(reply.cooldown_until or time.time() + 1)

    def cool(self, until: float) -> None:
        self.cooldown_until = until + 0.1

    def submission(self, task_id: str, prompt: str) -> SubmitResults:
        submit_time = time.time_ns()
        message = submission_message(submit_time, prompt, options.hotkey, self.keypair.ss58_address)
        return SubmitResults(
            task_id=task_id,
            results=self.spz,
            compression=2,
            submit_time=submit_time,
            signature=base64.b64encode(self.keypair.sign(message)).decode("ascii"),
        )

    async def work(self) -> None:
        for _ in range(options.count):
            pulled = await self.pull()
            again = await self.pull()
            self.expect("the open task, pulled again", again.task == pulled.task, again.task)
            sent = self.submission(pulled.task.id, pulled.task.prompt)
            reply = await self.dendrite.call(self.axon, sent, timeout=SUBMIT_TIMEOUT, deserialize=False)
            self.expect("status of a submission", reply.axon.status_code == 200, reply.axon)
            kept = reply.results or reply.signature
            self.expect("results and signature in the reply", not kept, kept[:100])
            self.expect("cooldown after a submission", reply.cooldown_until > time.time() - 1, reply.cooldown_until)
            self.cool(reply.cooldown_until)
            feedback = reply.feedback.model_dump() if reply.feedback else None
            self.expect("feedback", feedback is not None, feedback)
            if feedback:
                score = feedback["task_fidelity_score"]
                self.expect("score of a good result", score > options.accept_score, score)
            self.rounds.append(
                {
                    "task": {**pulled.task.model_dump(), "prompt": pulled.task.prompt[:100]},
                    "validation_threshold": pulled.validation_threshold,
                    "throttle_period": pulled.throttle_period,
                    "cooldown_violations": pulled.cooldown_violations,
                    "status": reply.axon.status_code,
                    "feedback": feedback,
                    "cooldown_until": reply.cooldown_until,
                }
            )

    async def raw(self, name: str, headers: Headers, body: dict[str, Any]) -> tuple[int, dict[str, Any], Headers]:
        session = await self.dendrite.session
        url = f"http://{options.ip}:{options.port}/{name}"
        async with session.post(url, headers=headers, json=body) as response:
            text = await response.text()
            reply = await response.json() if text.startswith("{") else {"text": text}
            return response.status, reply, dict(response.headers)

    async def try_pull(self, what: str, status: int, change: Callable[[Headers], Any] = lambda _: None) -> Headers:
        """One raw pull whose headers were changed after signing; the open task makes an accepted one harmless."""
        synapse = self.dendrite.preprocess_synapse_for_request(self.axon, PullTask(), PULL_TIMEOUT)
        headers = {name: str(value) for name, value in synapse.to_headers().items()}
        change(headers)
        await self.send_raw(what, status, "PullTask", headers, synapse.model_dump())
        return headers

    async def send_raw(
        self, what: str, status: int, name: str, headers: Headers, body: dict[str, Any]
    ) -> dict[str, Any]:
        seen, reply, reply_headers = await self.raw(name, headers, body)
        message = reply.get("message")
        self.expect(what, seen == status, f"status {seen} instead of {status}, {message}")
        if seen >= 400:
            self.expect(f"{what}: a message", isinstance(message, str), reply)
            stated = reply_headers.get("bt_header_axon_status_code")
            self.expect(f"{what}: the header's status", stated == str(seen), stated)
        body = reply if seen == 200 else None
        self.mischief.append({"what": what, "status": seen, "message": message and message[:120], "body": body})
        return reply

    async def bad_headers(self) -> None:
        for at in range(0, 64, options.stride):
            await self.try_pull(f"header signature, byte {at} changed", 401, lambda h: change_hex(h, at))

        signed = "bt_header_dendrite_nonce"
        await self.try_pull("nonce changed", 401, lambda h: h.update({signed: str(int(h[signed]) + 1)}))
        await self.try_pull("uuid changed", 401, lambda h: h.update(bt_header_dendrite_uuid="x"))
        await self.try_pull("body hash changed", 401, lambda h: h.update(computed_body_hash="00"))
        stranger = Keypair.create_from_seed(peer.seed_of("stranger")).ss58_address

        def swap_axon(headers: Headers) -> None:
            uuid, body_hash = headers["bt_header_dendrite_uuid"], headers["computed_body_hash"]
            text = f"{headers[signed]}.{self.keypair.ss58_address}.{stranger}.{uuid}.{body_hash}"
            headers["bt_header_dendrite_signature"] = f"0x{self.keypair.sign(text).hex()}"

        await self.try_pull("signed for another axon", 401, swap_axon)
        await self.try_pull("no signature", 401, lambda h: h.pop("bt_header_dendrite_signature"))
        await self.try_pull("empty signature", 401, lambda h: h.update(bt_header_dendrite_signature=""))
        await self.try_pull("no nonce", 401, lambda h: h.pop(signed))

        first = await self.try_pull("a good request", 200)
        await self.try_pull("the same nonce again", 401, lambda h: h.update(first))

    async def try_submit(self, what: str, status: int, synapse: SubmitResults) -> dict[str, Any]:
        synapse = self.dendrite.preprocess_synapse_for_request(self.axon, synapse, SUBMIT_TIMEOUT)
        headers = {name: str(value) for name, value in synapse.to_headers().items()}
        return await self.send_raw(what, status, "SubmitResults", headers, synapse.model_dump())

    async def bad_submissions(self, task_id: str, prompt: str) -> None:
        unreadable = self.submission(task_id, prompt)
        unreadable.signature = unreadable.signature[:8] + "!" + unreadable.signature[9:]
        await self.try_submit("submission signature outside the alphabet", 500, unreadable)

        short = self.submission(task_id, prompt)
        short.signature = base64.b64encode(base64.b64decode(short.signature)[:63]).decode("ascii")
        await self.try_submit("submission signature of 63 bytes", 500, short)

        reply = await self.try_submit("submission for a wrong task", 200, self.submission("not-the-task", prompt))
        self.expect("score for a wrong task", score_of(reply) == 0.0, reply.get("feedback"))
        still = await self.pull()
        self.expect("the task after refused submissions", still.task.id == task_id, still.task)

        forged = self.submission(task_id, prompt)
        raw = bytearray(base64.b64decode(forged.signature))
        raw[40] ^= 0x01
        forged.signature = base64.b64encode(raw).decode("ascii")
        reply = await self.try_submit("submission signature, one byte changed", 200, forged)
        self.expect("score with a forged signature", score_of(reply) == 0.0, reply.get("feedback"))
        normal = self.rounds[-1]["cooldown_until"] if self.rounds else 0
        self.expect(
            "cooldown after a forged signature", reply.get("cooldown_until", 0) > max(normal, time.time()), reply
        )
        await self.try_submit("submission with no task assigned", 403, self.submission(task_id, prompt))

    async def run(self) -> None:
        try:
            await self.work()
            if not options.no_mischief:
                task = (await self.pull()).task
                await self.bad_headers()
                await self.bad_submissions(task.id, task.prompt)
        except RuntimeError as error:
            self.errors.append(str(error))
        finally:
            await self.dendrite.aclose_session()


def change_hex(headers: Headers, at: int) -> None:
    signature = bytearray.fromhex(headers["bt_header_dendrite_signature"][2:])
    signature[at] ^= 0x01
    headers["bt_header_dendrite_signature"] = "0x" + signature.hex()


def score_of(reply: dict[str, Any]) -> float | None:
    return (reply.get("feedback") or {}).get("task_fidelity_score")


def main() -> int:
    keypair = Keypair.create_from_seed(options.seed)
    if options.print_hotkey:
        peer.say({"hotkey": keypair.ss58_address})
        return 0
    miner = Miner(keypair)
    asyncio.run(miner.run())
    peer.say(
        {
            "ok": not miner.errors,
            "hotkey": keypair.ss58_address,
            "rounds": miner.rounds,
            "mischief": miner.mischief,
            "errors": miner.errors,
        }
    )
    return 1 if miner.errors else 0


if __name__ == "__main__":
    sys.exit(main())
