"""Two worker servers for a hand-off, holding real tensors where PyTorch and a GPU are.

    worker.py --role scorer --resident 4300 --device cuda
    worker.py --role generator --peak 19500 --device cuda

The scorer speaks the hand-off verbs of source documents 000 and 001, the generator takes a prompt as a form and
holds its peak while it works. With `--device none` nothing is held: the verbs alone are tried. Sizes are MiB of
tensors; the driver's context comes on top.
"""

import argparse
import gc
import json
import random
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MIB = 1 << 20
GIB = 1 << 30


class Memory:
    """Tensors on the card."""

    def __init__(self, device):
        self.torch = None
        self.held = None
        self.claimed = 0
        if device == "cuda":
            import torch

            self.torch = torch
            torch.zeros(1, device="cuda")

    def hold(self, mib):
        self.claimed = mib
        if self.torch and mib:
            # Written to: memory that is only promised need not be there.
            self.held = self.torch.empty(mib * MIB, dtype=self.torch.uint8, device="cuda").fill_(1)
            self.torch.cuda.synchronize()

    def drop(self):
        self.held = None
        self.claimed = 0
        gc.collect()
        if self.torch:
            self.torch.cuda.empty_cache()

    def status(self):
        if self.torch:
            free, total = self.torch.cuda.mem_get_info()
        else:
            # A card that nobody else is on.
            total = 24 * GIB
            free = total - self.claimed * MIB
        used = total - free
        return {
            "gpu_available": True,
            "memory_total_gb": total / GIB,
            "memory_free_gb": free / GIB,
            "memory_used_gb": used / GIB,
            "memory_used_percent": 100 * used / total,
        }


def splat(seed, count=7_100):
    """A cloud that keeps the validators' data rules, as binary PLY."""
    names = "x y z opacity f_dc_0 f_dc_1 f_dc_2 scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    chance = random.Random(seed)
    body = bytearray()
    for _ in range(count):
        place = [chance.uniform(-1, 1) for _ in range(3)]
        turn = [chance.uniform(-1, 1) for _ in range(4)]
        body += struct.pack("<14f", *place, 3.0, 1.0, -1.0, -1.0, -4.0, -4.0, -4.0, *turn)
    return "\n".join(header).encode() + bytes(body)


class Worker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One thing at a time, as the servers it stands for.
    turn = threading.Lock()

    def log_message(self, *_):
        pass

    def answer(self, body, kind="application/json", status=200):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        with self.turn:
            if self.role == "scorer" and self.path == "/version/":
                self.answer("2.2.0")
            elif self.role == "scorer" and self.path == "/gpu_status/":
                self.answer(self.memory.status())
            else:
                self.answer({"detail": "Not Found"}, status=404)

    def do_POST(self):
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.turn:
            verb = VERBS.get((self.role, self.path))
            if verb:
                verb(self, asked)
            else:
                self.answer({"detail": "Not Found"}, status=404)

    def unload(self, _):
        began = time.monotonic()
        self.memory.drop()
        type(self).loaded = False
        self.answer(
            self.memory.status()
            | {"status": "success", "models_unloaded": True, "unload_time": time.monotonic() - began}
        )

    def reload(self, _):
        began = time.monotonic()
        try:
            self.memory.hold(self.resident)
        except RuntimeError as error:
            self.answer({"status": "error", "error": str(error), "models_reloaded": False})
            return
        type(self).loaded = True
        self.answer(
            self.memory.status()
            | {
                "status": "success",
                "models_reloaded": True,
                "reinitialized": True,
                "reload_time": time.monotonic() - began,
            }
        )

    def clean(self, _):
        self.answer(self.memory.status() | {"cleanup_time": 0.0})

    def score(self, _):
        time.sleep(self.work)
        score = 0.8 if self.loaded else 0.0
        self.answer({key: score for key in ("score", "iqa", "alignment_score", "ssim", "lpips")})

    def generate(self, asked):
        try:
            self.memory.hold(self.peak)
        except RuntimeError:
            self.answer(b"Internal Server Error", "text/plain", 500)
            return
        time.sleep(self.work)
        body = splat(asked)
        self.memory.drop()
        self.answer(body, "application/octet-stream")


VERBS = {
    ("scorer", "/unload_models/"): Worker.unload,
    ("scorer", "/reload_models/"): Worker.reload,
    ("scorer", "/cleanup_gpu/"): Worker.clean,
    ("scorer", "/validate_txt_to_3d_ply/"): Worker.score,
    ("generator", "/generate/"): Worker.generate,
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--role", choices=("scorer", "generator"), required=True)
    arguments.add_argument("--device", choices=("cuda", "none"), default="none")
    arguments.add_argument("--resident", type=int, default=0, help="MiB of tensors while its models are loaded")
    arguments.add_argument("--peak", type=int, default=0, help="MiB of tensors while it generates")
    arguments.add_argument("--work", type=float, default=0.05, help="seconds that its work takes")
    chosen = arguments.parse_args()
    Worker.role, Worker.resident, Worker.peak, Worker.work = (
        chosen.role,
        chosen.resident,
        chosen.peak,
        chosen.work,
    )
    Worker.memory = Memory(chosen.device)
    Worker.memory.hold(chosen.resident)
    Worker.loaded = True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Worker)
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever()


main()
