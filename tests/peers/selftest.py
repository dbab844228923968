"""Shows that the peers judge rightly before they judge us: against the golden vectors, against each other, and red
where they have to be. Run with the interpreter of scripts/python.sh; needs ../shared (or SN17_SHARED)."""

import base64
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Iterator

import peer

peer.quiet_bittensor()

from bittensor_wallet import Keypair  # noqa: E402

import protocol  # noqa: E402
import splat  # noqa: E402

PEERS = Path(__file__).parent
VECTORS = Path(os.environ.get("SN17_SHARED", PEERS.parents[1] / ".." / "shared")) / "vectors"
SPZ = VECTORS / "spz"
PLANE_WIDTHS = {"positions": 9, "alphas": 1, "colours": 3, "scales": 3, "rotations": 3, "sh": 9}
PATIENCE = 60


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())


def zstd(payload: bytes) -> bytes:
    return splat.zstandard.ZstdCompressor(level=1).compress(payload)


@unittest.skipIf(not VECTORS.exists() and os.environ.get("CI") != "true", f"{VECTORS} is missing")
class Case(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.home = self.folder / "home"
        self.home.mkdir()

    def spawn(self, script: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, PEERS / script, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), "BT_AXON_PORT": "1"},
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait, PATIENCE)
        self.addCleanup(process.kill)
        return process

    def report(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        lines = process.stdout.read().splitlines()
        process.wait(PATIENCE)
        self.assertEqual(len(lines), 1, lines)
        self.assertEqual(list(self.home.iterdir()), [], "a peer wrote into the home directory")
        return json.loads(lines[0])

    @contextlib.contextmanager
    def axon(
        self, tasks: list[dict[str, Any]], *arguments: object
    ) -> Iterator[tuple[subprocess.Popen[str], list[object]]]:
        file = self.folder / "tasks.json"
        file.write_text(json.dumps(tasks))
        process = self.spawn("axon.py", "--tasks", file, "--linger", 0.1, *arguments)
        ready = json.loads(process.stdout.readline())
        self.assertTrue(ready["ready"])
        yield process, ["--port", ready["port"], "--hotkey", ready["hotkey"]]


class Golden(Case):
    def test_the_encoder_writes_the_golden_payloads(self) -> None:
        cases = json_of(SPZ / "expected.json")["valid"]
        for name, case in cases.items():
            with self.subTest(name):
                wanted = splat.encode(splat.read_ply((SPZ / case["files"]["ply"]).read_bytes()))
                golden = splat.read_payload((SPZ / case["files"]["payload"]).read_bytes())
                sent = splat.unpack_spz((SPZ / case["files"]["spz"]).read_bytes())
                self.assertIsNone(splat.compare(golden, wanted).problem(0))
                self.assertIsNone(splat.compare(sent, wanted).problem(0))
        self.assertEqual(len(cases), len(list((SPZ / "valid").glob("*.payload"))))

    def test_one_changed_byte_in_any_plane_is_seen(self) -> None:
        payload = (SPZ / "valid/sh1_normals.payload").read_bytes()
        wanted = splat.encode(splat.read_ply((SPZ / "valid/sh1_normals.ply").read_bytes()))
        at = splat.HEADER_BYTES
        for plane, width in PLANE_WIDTHS.items():
            for offset in (0, wanted.points * width - 1):
                with self.subTest(plane, offset=offset):
                    changed = bytearray(payload)
                    changed[at + offset] ^= 0x01
                    found = splat.compare(splat.unpack_spz(zstd(bytes(changed))), wanted)
                    self.assertIsNotNone(found.problem(0))
            at += wanted.points * width
        self.assertEqual(at, len(payload))

    def test_a_changed_header_or_length_is_refused(self) -> None:
        payload = (SPZ / "valid/sh1_normals.payload").read_bytes()
        for at in range(splat.HEADER_BYTES):
            changed = bytearray(payload)
            changed[at] ^= 0x01
            with self.subTest(at=at), self.assertRaises(splat.SplatError):
                splat.unpack_spz(zstd(bytes(changed)))
        for bad in (zstd(payload[:-1]), zstd(payload + b"\0"), zstd(payload) + b"\0", zstd(payload)[:-1], payload, b""):
            with self.assertRaises(splat.SplatError):
                splat.unpack_spz(bad)

    def test_submission_signatures(self) -> None:
        vectors = json_of(VECTORS / "signatures.json")
        self.assertEqual(protocol.LICENSE_DECLARATION, vectors["license_declaration"])
        miner, validator = (vectors["keys"][name]["ss58"] for name in ("miner", "validator"))
        cases = [case for case in vectors["cases"] if case.get("kind") == "submit"]
        self.assertGreaterEqual(len(cases), 5)
        for case in cases:
            with self.subTest(case["name"]):
                prompt = case.get("prompt")
                if prompt is None:
                    prompt = (VECTORS / case["prompt_file"]).read_text().strip()
                message = protocol.submission_message(case["submit_time"], prompt, validator, miner)
                self.assertEqual(hashlib.sha256(message.encode()).hexdigest(), case["message_utf8_sha256"])
                signature = base64.b64decode(case["signature_base64"], validate=True)
                self.assertTrue(Keypair(ss58_address=miner).verify(message, signature))
                self.assertFalse(Keypair(ss58_address=miner).verify(message + " ", signature))
                self.assertFalse(Keypair(ss58_address=validator).verify(message, signature))

    def test_the_synapses_have_the_captured_shape(self) -> None:
        for capture, synapse in (
            ("01-pull-200", protocol.PullTask),
            ("02-submit-200", protocol.SubmitResults),
            ("03-submit-empty-200", protocol.SubmitResults),
        ):
            for side in ("request", "response"):
                with self.subTest(capture, side=side):
                    raw = (VECTORS / "synapse" / f"{capture}.{side}.http").read_bytes().partition(b"\r\n\r\n")[2]
                    body = json.loads(raw)
                    self.assertEqual(list(synapse(**body).model_dump()), list(body))
                    self.assertEqual(synapse(**body).model_dump(), body)


class Exchange(Case):
    ply = SPZ / "valid/sh1_normals.ply"
    spz = SPZ / "valid/sh1_normals.spz"

    def test_good_work_and_every_kind_of_mischief(self) -> None:
        tasks = [
            {"prompt": "a red cube"},
            {"prompt": '一只戴着草帽的猫 🦊 "quoted"\u2028'},
            {"type": "image", "prompt_file": str((VECTORS / "image_prompt.b64").resolve())},
            {"prompt": "the one that ends in a forged signature"},
        ]
        with self.axon(tasks, "--ply", self.ply, "--patient") as (axon, where):
            miner = self.report(self.spawn("dendrite.py", *where, "--spz", self.spz, "--count", 3, "--stride", 8))
            axon.send_signal(signal.SIGTERM)
            seen = self.report(axon)
        self.assertEqual(miner["errors"], [])
        self.assertEqual(len(miner["rounds"]), 3)
        self.assertEqual(len(miner["mischief"]), 22)
        self.assertEqual((seen["accepted"], seen["violations"], seen["misplaced"]), (3, 0, 1), seen)
        self.assertEqual([each["outcome"] for each in seen["per_task"]], ["accepted"] * 3 + ["bad signature"])
        self.assertEqual(
            len(seen["refused"]), sum(each["status"] != 200 for each in miner["mischief"]), seen["refused"]
        )
        self.assertEqual(len(seen["errors"]), 4, seen["errors"])
        self.assertEqual(axon.returncode, 1)

    def test_good_work_alone_ends_green(self) -> None:
        with self.axon([{"prompt": "a red cube"}, {"prompt": "b", "cooldown": 2}], "--ply", self.ply) as (axon, where):
            arguments = ["--spz", self.spz, "--count", 2, "--no-mischief"]
            miner = self.report(self.spawn("dendrite.py", *where, *arguments))
            seen = self.report(axon)
        self.assertTrue(miner["ok"], miner)
        self.assertTrue(seen["ok"], seen)
        self.assertEqual(axon.returncode, 0)

    def test_a_result_with_one_changed_byte_is_red(self) -> None:
        payload = bytearray((SPZ / "valid/sh1_normals.payload").read_bytes())
        payload[len(payload) // 2] ^= 0x01
        changed = self.folder / "changed.spz"
        changed.write_bytes(zstd(bytes(payload)))
        with self.axon([{"prompt": "a red cube"}], "--ply", self.ply) as (axon, where):
            self.report(self.spawn("dendrite.py", *where, "--spz", changed, "--no-mischief"))
            seen = self.report(axon)
        self.assertEqual((seen["accepted"], axon.returncode), (0, 1), seen)
        self.assertEqual(seen["per_task"][0]["outcome"], "bad result")

    def test_an_empty_answer_is_red_unless_expected(self) -> None:
        empty = self.folder / "empty.spz"
        empty.write_bytes(b"")
        for expect, status in (("result", 1), ("empty", 0)):
            with self.subTest(expect), self.axon([{"prompt": "a", "expect": expect}]) as (axon, where):
                self.report(self.spawn("dendrite.py", *where, "--spz", empty, "--no-mischief"))
                seen = self.report(axon)
                self.assertEqual((seen["declined"], axon.returncode), (1, status), seen)

    def test_silence_is_red(self) -> None:
        with self.axon([{"prompt": "a red cube"}], "--timeout", 0.2) as (axon, _):
            seen = self.report(axon)
        self.assertEqual(axon.returncode, 1)
        self.assertEqual(len(seen["errors"]), 1, seen)


class Generation(Case):
    def test_both_dialects_and_their_refusals(self) -> None:
        ply = SPZ / "valid/sh0_normals.ply"
        process = self.spawn("generator.py", "--ply", ply)
        base = f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"

        def post(path: str, content_type: str, body: bytes) -> tuple[int, bytes]:
            request = urllib.request.Request(base + path, body, {"Content-Type": content_type})
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
                    return reply.status, reply.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()

        form = "application/x-www-form-urlencoded"
        image = bytes(range(256)) * 3
        multipart = (
            b'--x\r\nContent-Disposition: form-data; name="prompt_image_file"; filename="prompt.png"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\n" + image + b"\r\n"
            b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n7\r\n--x--\r\n'
        )
        text = urllib.parse.urlencode({"prompt": "a 🦊 & b"}).encode()
        self.assertEqual(post("/generate/", form, text), (200, ply.read_bytes()))
        self.assertEqual(post("/generate", "multipart/form-data; boundary=x", multipart), (200, ply.read_bytes()))
        self.assertEqual(post("/generate/", form, b"other=1")[0], 422)
        self.assertEqual(post("/generate", form, text)[0], 422)
        process.send_signal(signal.SIGTERM)
        seen = self.report(process)
        self.assertEqual((seen["requests"], seen["served"], seen["most_at_once"]), (4, 2, 1))
        self.assertEqual(seen["log"][0]["prompt"], "a 🦊 & b")
        self.assertEqual(seen["log"][1]["image_sha256"], hashlib.sha256(image).hexdigest())
        self.assertEqual(seen["log"][1]["seed"], "7")


if __name__ == "__main__":
    unittest.main(verbosity=2 if os.environ.get("CI") else 1)
