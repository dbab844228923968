"""What every peer does before it speaks: keep stdout for JSON, keep bittensor offline and out of the home directory.

Import this module before bittensor and parse the command line first: bittensor reads `sys.argv` and logs to
`sys.stdout` from the moment it is imported.
"""

import hashlib
import json
import os
import sys
import threading
from typing import Any

_report = os.fdopen(os.dup(1), "w", buffering=1)
_report_lock = threading.Lock()


def say(message: dict[str, Any]) -> None:
    """Writes one line of JSON to the caller. Nothing else ever reaches stdout."""
    with _report_lock:
        _report.write(json.dumps(message) + "\n")
        _report.flush()


def quiet_bittensor() -> None:
    """Prepares the process for `import bittensor`."""
    # Without it the import creates ~/.bittensor.
    os.environ["READ_ONLY"] = "1"
    for name in [name for name in os.environ if name.startswith(("BT_", "BITTENSOR_"))]:
        del os.environ[name]
    sys.argv = sys.argv[:1]
    os.dup2(2, 1)
    sys.stdout = sys.stderr


def stay_offline(claimed_ip: str) -> None:
    """A dendrite asks public services for its address when it is built; this answers in their place."""
    from bittensor.utils import networking

    networking.get_external_ip = lambda: claimed_ip


def seed_of(name: str) -> str:
    """A throwaway seed, the same on every machine."""
    return "0x" + hashlib.blake2b(f"sn17-peer/{name}".encode(), digest_size=32).hexdigest()
