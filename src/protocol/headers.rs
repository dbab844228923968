//! Headers of a signed call: writing them, and checking them as an axon does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{BODY_HASH, SynapseName, TerminalInfo};
use crate::primitives::{Hotkey, UnixTime};
use crate::wallet::{HotkeyPair, Signable, Signature, verify};

/// Number of a call under one uuid: nanoseconds since 1970, strictly increasing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nonce(pub u64);

impl Nonce {
    /// The next nonce after `last` at the time `now`: an axon refuses one that is not greater than
    /// the last, however old that is.
    pub fn next(last: Option<Self>, now: UnixTime) -> Self {
        let floor = last.map_or(0, |n| n.0.saturating_add(1));
        Self(now.as_nanos().max(floor))
    }
}

/// One call that is to be signed.
#[derive(Debug, Clone, Copy)]
pub struct CallHead<'a> {
    pub name: SynapseName,
    pub axon_hotkey: Hotkey,
    pub axon_address: SocketAddr,
    pub uuid: &'a str,
    pub nonce: Nonce,
    /// Also widens the age an axon grants to a nonce it has not seen (vectors/synapse README, "Nonce").
    pub timeout: Duration,
    /// The dendrite version, 9009000 for bittensor 9.9.0.
    pub version: i64,
}

/// The signed head of one call: the headers, and the two ends as the body repeats them.
#[derive(Debug, Clone)]
pub struct SignedHead {
    pub headers: HeaderMap,
    pub dendrite: TerminalInfo,
    pub axon: TerminalInfo,
}

/// Signs a call and writes all headers of the golden captures.
pub fn sign_headers(key: &HotkeyPair, call: &CallHead<'_>) -> SignedHead {
    let CallHead { name, axon_hotkey, axon_address, uuid, nonce, timeout, version } = *call;
    let hotkey = *key.hotkey();
    let signable = Signable::Synapse {
        nonce: nonce.0,
        dendrite: &hotkey,
        axon: &axon_hotkey,
        uuid,
        body_hash: BODY_HASH,
    };
    let signature = key.sign(&signable).to_hex_0x();
    let axon_ip = axon_address.ip().to_string();
    let axon_port = axon_address.port();

    let dendrite = TerminalInfo {
        ip: Some(DENDRITE_IP.into()),
        version: Some(version),
        nonce: Some(nonce.0),
        uuid: Some(uuid.into()),
        hotkey: Some(hotkey.to_ss58()),
        signature: Some(signature.clone()),
        ..TerminalInfo::default()
    };
    let axon = TerminalInfo {
        ip: Some(axon_ip.clone()),
        port: Some(axon_port),
        hotkey: Some(axon_hotkey.to_ss58()),
        ..TerminalInfo::default()
    };

    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: &str| {
        // Every value is made here of digits, hex, base58 and dots.
        let value = HeaderValue::from_str(value).expect("a header value of plain characters");
        headers.insert(HeaderName::from_static(name), value);
    };
    put("name", name.as_str());
    put("timeout", &format!("{:?}", timeout.as_secs_f64()));
    put("bt_header_axon_ip", &axon_ip);
    put("bt_header_axon_port", &axon_port.to_string());
    put("bt_header_axon_hotkey", &axon_hotkey.to_ss58());
    put("bt_header_dendrite_ip", DENDRITE_IP);
    put("bt_header_dendrite_version", &version.to_string());
    put("bt_header_dendrite_nonce", &nonce.0.to_string());
    put("bt_header_dendrite_uuid", uuid);
    put("bt_header_dendrite_hotkey", &hotkey.to_ss58());
    put("bt_header_dendrite_signature", &signature);
    if name == SynapseName::SubmitResults {
        // Base64 of JSON dummies of the right type; they stand for the three required fields.
        put("bt_header_input_obj_results", "IiI=");
        put("bt_header_input_obj_submit_time", "MA==");
        put("bt_header_input_obj_signature", "IiI=");
    }
    put("header_size", "464");
    put("total_size", &name.total_size().to_string());
    put("computed_body_hash", BODY_HASH);
    put("accept", "*/*");
    // Axons never compress; a proxy that would is told not to, so that no reply can expand.
    put("accept-encoding", "identity");
    put("user-agent", concat!("sn17-miner/", env!("CARGO_PKG_VERSION")));
    put("content-type", "application/json");

    SignedHead { headers, dendrite, axon }
}

/// Our own address is nobody's business and nothing checks it.
const DENDRITE_IP: &str = "0.0.0.0";

/// Versions from here on have the age of a first nonce checked.
const NONCE_AGE_SINCE: i64 = 7_002_000;

/// Age granted to a first nonce beyond the call's own timeout.
const NONCE_GRACE: Duration = Duration::from_secs(4);

/// The last nonce of each caller, as an axon keeps it: per hotkey and uuid, shared by all synapses.
#[derive(Debug, Default)]
pub struct NonceBook(HashMap<(Hotkey, String), u64>);

/// An axon's refusal of a head: status and the text of its `message`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct RefusedHeaders {
    pub status: StatusCode,
    pub message: String,
}

impl RefusedHeaders {
    fn not_verified(reason: impl std::fmt::Display) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, message: format!("Not Verified with error: {reason}") }
    }

    fn internal() -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: "Internal Server Error".into() }
    }
}

/// Who called, after the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedHead {
    pub hotkey: Hotkey,
    pub uuid: String,
    pub nonce: Nonce,
}

/// Checks a head as the axon of bittensor 9.9.0 does, with one hole closed: a call without a
/// signature is refused (the reference lets it pass).
///
/// The age rule and the increasing rule are those of vectors/synapse README, "Nonce". The nonce of
/// a call moves the book only when the signature holds.
///
/// # Errors
/// The status and message an axon answers with.
pub fn verify_headers(
    headers: &HeaderMap,
    name: SynapseName,
    axon: &Hotkey,
    now: UnixTime,
    book: &mut NonceBook,
) -> Result<VerifiedHead, RefusedHeaders> {
    let text = |name: &str| -> Option<&str> {
        // Of a repeated header the last one wins.
        headers.get_all(name).iter().next_back().and_then(|v| v.to_str().ok())
    };
    let integer = |name: &str| -> Result<Option<i128>, RefusedHeaders> {
        text(name).map(|v| v.trim().parse().map_err(|_| RefusedHeaders::internal())).transpose()
    };

    let timeout = match text("timeout") {
        Some(value) => value.trim().parse::<f64>().map_err(|_| RefusedHeaders::internal())?,
        None => 0.0,
    };
    let version = integer("bt_header_dendrite_version")?;
    let nonce = integer("bt_header_dendrite_nonce")?;
    if name == SynapseName::SubmitResults {
        for (field, dummy) in [("results", "IiI="), ("submit_time", "MA=="), ("signature", "IiI=")] {
            if text(&format!("bt_header_input_obj_{field}")) != Some(dummy) {
                return Err(RefusedHeaders::internal());
            }
        }
    }

    let hotkey: Hotkey = text("bt_header_dendrite_hotkey")
        .ok_or_else(|| RefusedHeaders::not_verified("No SS58 formatted address or public key provided."))?
        .parse()
        .map_err(RefusedHeaders::not_verified)?;
    let nonce = nonce
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| *n != 0)
        .ok_or_else(|| RefusedHeaders::not_verified("Missing Nonce"))?;
    let uuid = text("bt_header_dendrite_uuid").unwrap_or("None");
    let body_hash = text("computed_body_hash").unwrap_or("None");
    let signature = text("bt_header_dendrite_signature")
        .filter(|s| !s.is_empty())
        .ok_or_else(|| RefusedHeaders::not_verified("Missing Signature"))?;

    let key = (hotkey, uuid.to_owned());
    match book.0.get(&key) {
        Some(last) if nonce <= *last => {
            return Err(RefusedHeaders::not_verified("Nonce is too old, a newer one was last processed"));
        }
        Some(_) => {}
        None if version.is_some_and(|v| v >= i128::from(NONCE_AGE_SINCE)) => {
            let granted = NONCE_GRACE.as_secs_f64() + timeout;
            let age = now.nanos_after(UnixTime::from_nanos(nonce)) as f64 / 1e9;
            if age > granted {
                return Err(RefusedHeaders::not_verified(format!(
                    "Nonce is too old: acceptable delta is {granted:.2} seconds but request was {age:.2} seconds old"
                )));
            }
        }
        None => {}
    }

    let parsed = Signature::from_hex_0x(signature).map_err(RefusedHeaders::not_verified)?;
    let signable = Signable::Synapse { nonce, dendrite: &hotkey, axon, uuid, body_hash };
    if !verify(&signable, &parsed, &hotkey) {
        return Err(RefusedHeaders::not_verified(format!(
            "Signature mismatch with {nonce}.{hotkey}.{axon}.{uuid}.{body_hash} and {signature}"
        )));
    }
    book.0.insert(key, nonce);
    if body_hash != BODY_HASH {
        return Err(RefusedHeaders::internal());
    }
    Ok(VerifiedHead { hotkey, uuid: uuid.to_owned(), nonce: Nonce(nonce) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn head(uuid: &str, nonce: u64, timeout: u64) -> (HeaderMap, Hotkey) {
        let miner = HotkeyPair::dev("miner");
        let axon = *HotkeyPair::dev("validator-0").hotkey();
        let call = CallHead {
            name: SynapseName::PullTask,
            axon_hotkey: axon,
            axon_address: "127.0.0.1:8091".parse().unwrap(),
            uuid,
            nonce: Nonce(nonce),
            timeout: Duration::from_secs(timeout),
            version: 9_009_000,
        };
        let signed = sign_headers(&miner, &call);
        (signed.headers, axon)
    }

    fn check(
        headers: &HeaderMap,
        axon: &Hotkey,
        book: &mut NonceBook,
    ) -> Result<VerifiedHead, RefusedHeaders> {
        verify_headers(headers, SynapseName::PullTask, axon, NOW, book)
    }

    #[test]
    fn what_we_sign_verifies_once() {
        let mut book = NonceBook::default();
        let (headers, axon) = head("u", NOW.as_nanos(), 12);
        assert!(check(&headers, &axon, &mut book).is_ok());
        let replay = check(&headers, &axon, &mut book).unwrap_err();
        assert!(replay.message.contains("a newer one was last processed"), "{replay}");
    }

    #[test]
    fn the_age_of_a_first_nonce_is_the_timeout_and_four_seconds() {
        let old = |tenths: u64| NOW.as_nanos() - tenths * 100_000_000;
        let (passes, axon) = head("a", old(159), 12);
        assert!(check(&passes, &axon, &mut NonceBook::default()).is_ok());
        let (fails, axon) = head("a", old(162), 12);
        let refused = check(&fails, &axon, &mut NonceBook::default()).unwrap_err();
        assert_eq!(
            refused.message,
            "Not Verified with error: Nonce is too old: acceptable delta is 16.00 seconds but request was 16.20 seconds old"
        );
    }

    #[test]
    fn a_known_uuid_has_no_age_limit_and_an_unknown_one_is_its_own() {
        let mut book = NonceBook::default();
        let hour = 3_600_000_000_000;
        let (first, axon) = head("a", NOW.as_nanos() - 1_000, 12);
        check(&first, &axon, &mut book).unwrap();
        let (ahead, _) = head("a", NOW.as_nanos() + hour, 12);
        check(&ahead, &axon, &mut book).unwrap();
        let (present, _) = head("a", NOW.as_nanos(), 12);
        assert!(check(&present, &axon, &mut book).is_err());
        let (fresh, _) = head("b", NOW.as_nanos(), 12);
        assert!(check(&fresh, &axon, &mut book).is_ok());
    }

    #[test]
    fn unsigned_altered_and_foreign_heads_are_refused() {
        let (headers, axon) = head("u", NOW.as_nanos(), 12);
        let alter = |name: &'static str, value: Option<&str>| {
            let mut headers = headers.clone();
            match value {
                Some(value) => headers.insert(name, HeaderValue::from_str(value).unwrap()),
                None => headers.remove(name),
            };
            check(&headers, &axon, &mut NonceBook::default()).unwrap_err().status.as_u16()
        };
        assert_eq!(alter("bt_header_dendrite_signature", None), 401);
        assert_eq!(alter("bt_header_dendrite_signature", Some("")), 401);
        assert_eq!(alter("bt_header_dendrite_signature", Some(&format!("0x{}", "00".repeat(64)))), 401);
        assert_eq!(alter("bt_header_dendrite_hotkey", None), 401);
        assert_eq!(alter("bt_header_dendrite_nonce", None), 401);
        assert_eq!(alter("bt_header_dendrite_nonce", Some("1.0")), 500);
        assert_eq!(alter("bt_header_dendrite_uuid", Some("v")), 401);
        assert_eq!(alter("computed_body_hash", Some("00")), 401);
        assert_eq!(alter("timeout", Some("soon")), 500);
        assert_eq!(alter("bt_header_dendrite_version", Some("9.9.0")), 500);
        let other = *HotkeyPair::dev("validator-1").hotkey();
        assert!(check(&headers, &other, &mut NonceBook::default()).is_err());
    }

    #[test]
    fn nonces_rise_even_when_the_clock_falls_back() {
        let first = Nonce::next(None, NOW);
        let second = Nonce::next(Some(first), NOW);
        let third = Nonce::next(Some(second), UnixTime::from_secs(5));
        assert!(first < second && second < third);
        assert_eq!(Nonce::next(Some(third), NOW + Duration::from_secs(1)).0, NOW.as_nanos() + 1_000_000_000);
    }
}
