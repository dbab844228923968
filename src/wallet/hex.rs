//! Hexadecimal into buffers the caller owns, so that the caller decides what is wiped.

/// A text is not the hexadecimal expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HexFault {
    #[error("it holds a character that is not a hexadecimal digit")]
    NotHex,
    #[error("it has an odd number of digits")]
    OddDigits,
    #[error("it is {0} bytes long")]
    Length(usize),
}

/// Decodes `digits`, either case, which must fill `out` exactly.
pub(super) fn decode_exactly(digits: &str, out: &mut [u8]) -> Result<(), HexFault> {
    let digits = digits.as_bytes();
    if digits.iter().any(|digit| nibble(*digit).is_none()) {
        return Err(HexFault::NotHex);
    }
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(HexFault::OddDigits);
    }
    if pairs.len() != out.len() {
        return Err(HexFault::Length(pairs.len()));
    }
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = nibble(*high).ok_or(HexFault::NotHex)? << 4 | nibble(*low).ok_or(HexFault::NotHex)?;
    }
    Ok(())
}

/// Lower case, without `0x`.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_case_decodes_and_nothing_else_does() {
        let mut out = [0; 2];
        assert_eq!(decode_exactly("00fF", &mut out), Ok(()));
        assert_eq!((out, encode(&out).as_str()), ([0, 255], "00ff"));
        assert_eq!(decode_exactly("00f", &mut out), Err(HexFault::OddDigits));
        assert_eq!(decode_exactly("00", &mut out), Err(HexFault::Length(1)));
        assert_eq!(decode_exactly("00é", &mut out), Err(HexFault::NotHex));
        assert_eq!(decode_exactly("0X00", &mut out), Err(HexFault::NotHex));
    }
}
