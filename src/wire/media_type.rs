//! Content types (RFC 9110, as far as needed). Never here: which mode of CloudEvents follows from one.

use super::Fault;

/// A content type, as far as it decides how bytes are read.
pub struct MediaType {
    /// Lower case, without parameters.
    pub essence: String,
}

impl MediaType {
    /// Refuses a charset that is not UTF-8; other parameters mean nothing to JSON.
    pub fn parse(text: &str, what: &str) -> Result<Self, Fault> {
        let mut parts = text.split(';');
        let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        for parameter in parts {
            let Some((name, value)) = parameter.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            let is_utf8 = value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("us-ascii");
            if name.trim().eq_ignore_ascii_case("charset") && !is_utf8 {
                return Err(Fault::malformed(format!("{what}: only UTF-8 is read")));
            }
        }
        Ok(Self { essence })
    }

    pub fn is_json(&self) -> bool {
        self.essence == "application/json" || self.essence == "text/json" || self.essence.ends_with("+json")
    }
}
