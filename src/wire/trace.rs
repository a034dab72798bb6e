//! W3C `traceparent`. Carried through, never made: the service starts no trace of its own here.

/// W3C trace context. Another version than 00 is read as far as 00 goes and carried on as 00, as its rules
/// ask; a broken one is no reason to lose a security event, so it is dropped.
pub fn traceparent(text: &str) -> Option<String> {
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let mut parts = text.splitn(5, '-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let more = parts.next();
    let well_formed = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    if !well_formed || zero(trace) || zero(parent) || version == "ff" || (version == "00" && more.is_some()) {
        return None;
    }
    Some(format!("00-{trace}-{parent}-{flags}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn traceparents() {
        let later = TRACE.replacen("00", "cc", 1);
        let longer = format!("{later}-more-to-come");
        for taken in [TRACE, &later, &longer] {
            assert_eq!(traceparent(taken).as_deref(), Some(TRACE));
        }
        for dropped in [
            "",
            "00",
            &TRACE[1..],
            &format!("{TRACE}-x"),
            &TRACE.to_uppercase(),
            &TRACE.replacen("00", "ff", 1),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é",
        ] {
            assert_eq!(traceparent(dropped), None, "{dropped}");
        }
    }
}
