//! Keys whose secrets are published, so that nobody earns or spends with them by accident.

use crate::primitives::Hotkey;

/// The example wallet's keys and every key of the golden vectors, by address. A test derives the
/// list again from the vectors.
const THROWAWAY: [&str; 14] = [
    // wallets.example: hotkey, coldkey
    "5DZTNLeUPhDQ2dhS95g7gAjwGro1A7kMMnnVaTRYp7PmEHFv",
    "5EhsQtcq4K9cYj1VoAYWxdVLD6SPREpBJoTbK9JKs2fy18Cd",
    // vectors: wallets, signatures.json
    "5EHgWw2Af1pnoc7f1A8bfmM97W3DAYW8xr82RfhLL9oAabAe",
    "5HTixpFJfFQKkpNpFpDccGW829bCVArvdEPADpH6Pu4YYkZz",
    "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV",
    "5D9hvGwZsGsAYHxfbXX6y6gZh44qy26ZCF1pgjN9PK2fRN35",
    "5EtaiguVmKZ9Vewv7HkS86hWTS8Lf4twTSADg29PH5rM5Wng",
    "5DtDLm5rQHShDqojQpsvcN8tRXHVFaecfDoRet1SU6BFD9Fi",
    "5G49Q5XJyvZ2DC8HfyL5btswLvHZmTXEwUykFCga8dzdUpTp",
    "5GpkGfFg16Zt8D2rTQ2ikgCfzgQPeMhN26EeodvSqs1eBCPP",
    "5DqrYQvokrzYkioJSFc6RWd2gnBibZSsKALyXZV3XJ1V8rAv",
    // vectors: synapse
    "5G1iGHy2b9raTbSUKzESDCwMESrERezgZqMBqdQ68nPY6Gmz",
    "5DtmaniiqJj45hfgBr8igNKQeSkxgDUYxPoawoaPsukT5MGp",
    "5EbvT6Ts2fKSaYPeuXBD6r9muwqkTNUBZVJWzoRQGUQWaYyU",
];

/// Whether everybody has, or may have, the secret of this key. Such a key is refused on public
/// networks.
///
/// Keys of the development network other than the example wallet's are not listed: they are made by
/// name ([`super::HotkeyPair::dev`]) and never come from a key file.
pub fn is_throwaway(hotkey: &Hotkey) -> bool {
    THROWAWAY.contains(&hotkey.to_ss58().as_str())
}
