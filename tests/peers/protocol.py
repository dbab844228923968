"""The two synapses of subnet 17 as a validator declares them, written from the captures in vectors/synapse."""

import bittensor as bt
from pydantic import BaseModel

LICENSE_DECLARATION = (
    "I, as a miner on SN17, have obtained all licenses, rights and consents required to use, reproduce, modify, "
    "display, distribute and make available my submitted results to this subnet and its end users"
)


class Task(BaseModel):
    type: str
    id: str
    prompt: str


class Feedback(BaseModel):
    validation_failed: bool = False
    task_fidelity_score: float = 0.0
    average_fidelity_score: float = 0.0
    generations_within_the_window: int = 0
    current_duel_rating: float = 1500.0
    current_miner_reward: float = 0.0


class PullTask(bt.Synapse):
    task: Task | None = None
    validation_threshold: float = 0.6
    throttle_period: int = 0
    cooldown_until: int = 0
    cooldown_violations: int = 0


class SubmitResults(bt.Synapse):
    task: Task | None = None
    task_id: str = ""
    results: str
    data_format: str = "ply"
    data_ver: int = 0
    compression: int = 0
    submit_time: int
    signature: str
    feedback: Feedback | None = None
    cooldown_until: int = 0


def submission_message(submit_time: int, prompt: str, validator: str, miner: str) -> str:
    """The text under a submission's signature (vectors/README.md, signatures.json)."""
    return f"{LICENSE_DECLARATION}{submit_time}{prompt}{validator}{miner}"
