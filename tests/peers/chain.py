"""A stranger reads our development chain with the real bittensor 9.9.0 and tells what it saw.

stdout: one JSON report with the metagraph, the registrations asked about, and the block it asked for last. Exit
status 0 if all calls went through; whether the answers are right is for the caller to say.
"""

import argparse

import peer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="of the chain, ws://")
    parser.add_argument("--netuid", type=int, default=17)
    parser.add_argument("--hotkey", action="append", default=[], help="is it registered, and with which uid?")
    parser.add_argument("--times", type=int, default=1, help="read everything so often, on one connection")
    return parser.parse_args()


options = arguments()
peer.quiet_bittensor()

import bittensor as bt  # noqa: E402


def read(subtensor: bt.Subtensor) -> dict:
    metagraph = subtensor.metagraph(netuid=options.netuid)
    # The newer call, which this SDK makes only when asked for single fields.
    selected = subtensor.get_metagraph_info(options.netuid, field_indices=[0, 5, 7, 30, 36, 52, 66, 69])
    seen = {
        "block": int(metagraph.block),
        "n": int(metagraph.n),
        "name": metagraph.name,
        "symbol": metagraph.symbol,
        "hotkeys": metagraph.hotkeys,
        "coldkeys": metagraph.coldkeys,
        "axons": [
            {"ip": axon.ip, "port": axon.port, "ip_type": axon.ip_type, "version": axon.version, "hotkey": axon.hotkey}
            for axon in metagraph.axons
        ],
        "serving": [axon.is_serving for axon in metagraph.axons],
        "S": [float(stake) for stake in metagraph.S],
        "alpha_stake": [float(stake) for stake in metagraph.alpha_stake],
        "permit": [bool(permit) for permit in metagraph.validator_permit],
        "active": [bool(active) for active in metagraph.active],
        "incentive": [float(incentive) for incentive in metagraph.I],
        "emission": [float(emission) for emission in metagraph.E],
        "last_update": [int(block) for block in metagraph.last_update],
        "block_at_registration": list(metagraph.block_at_registration),
        "owner_hotkey": metagraph.owner_hotkey,
        "immunity_period": metagraph.hparams.immunity_period,
        "selected": {
            "block": selected.block,
            "num_uids": selected.num_uids,
            "immunity_period": selected.immunity_period,
            "owner_hotkey": selected.owner_hotkey,
            "hotkeys": selected.hotkeys,
            "block_at_registration": list(selected.block_at_registration),
            "total_stake_rao": [stake.rao for stake in selected.total_stake],
            "unasked": selected.axons,
        },
        "current_block": subtensor.get_current_block(),
    }
    return {
        "spec_version": subtensor.substrate.runtime.runtime_version,
        "registered": [subtensor.is_hotkey_registered(key, netuid=options.netuid) for key in options.hotkey],
        "uids": [subtensor.get_uid_for_hotkey_on_subnet(key, options.netuid) for key in options.hotkey],
        "metagraph": seen,
    }


def main() -> None:
    subtensor = bt.subtensor(network=options.url)
    peer.say({"network": subtensor.network, "reads": [read(subtensor) for _ in range(options.times)]})


main()
