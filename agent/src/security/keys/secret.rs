//! What a key looks like: `ldk_` (so that scanners of leaked secrets know it), its public id, and 256 random bits.

use std::fmt;

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const MARK: &str = "ldk_";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// A key in full. It is shown once and never kept; its words in a log are its id only.
pub struct Secret {
    id: String,
    secret: String,
}

impl Secret {
    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> std::io::Result<Self> {
        let mut bytes = [0; ID_BYTES + SECRET_BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(std::io::Error::other)?;
        let (id, secret) = bytes.split_at(ID_BYTES);
        Ok(Self { id: hex(id), secret: hex(secret) })
    }

    /// Takes one apart; `None` for what cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(MARK)?.split_once('_')?;
        let is_hex = |text: &str, bytes: usize| {
            text.len() == 2 * bytes && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        (is_hex(id, ID_BYTES) && is_hex(secret, SECRET_BYTES))
            .then(|| Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// The part that may be known.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is kept of it. It has 256 random bits, so that a slow hash would add nothing.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.secret).into()
    }

    /// Whether it has this digest, in the same time whatever it has.
    pub fn has(&self, sha256: &[u8; 32]) -> bool {
        self.sha256().ct_eq(sha256).into()
    }

    /// The whole, for its owner.
    pub fn reveal(&self) -> String {
        format!("{MARK}{}_{}", self.id, self.secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{MARK}{}_…", self.id)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_key_is_known_again_and_another_is_not() {
        let (key, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        let again = Secret::parse(&key.reveal()).unwrap();
        assert_eq!(again.id(), key.id());
        assert!(again.has(&key.sha256()) && !again.has(&other.sha256()));
        assert!(!format!("{key:?}").contains(&key.secret));
    }

    #[test]
    fn what_is_no_key_is_not_taken_for_one() {
        for text in ["", "sk-123", "ldk_", "ldk_00_00", "ldk_zzzzzzzzzzzz_0", &"ldk_".repeat(1_000)] {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }
}
