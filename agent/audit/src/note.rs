//! Signed notes (C2SP `signed-note`): a text, an empty line, and signatures. Ed25519 only.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// The specification's number for Ed25519.
const ED25519: u8 = 1;
const DASH: &str = "\u{2014} ";

/// Why a note proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not in the form of a note.
    #[error("it is no signed note: {0}")]
    Form(&'static str),
    /// No signature by this key.
    #[error("nobody signed it with the key {0}")]
    Unsigned(String),
    /// A signature that does not hold.
    #[error("its signature by {0} does not hold")]
    Forged(String),
    /// Not in the form of a key.
    #[error("it is no key of the form NAME+HASH+KEY")]
    Key,
}

/// The head of a log: how many records it has, and the digest of its last line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Name of the log.
    pub origin: String,
    /// Records.
    pub count: u64,
    /// SHA-256 of the last line, in hex; empty of none.
    pub head: String,
}

/// Signs notes.
pub struct Signer {
    name: String,
    key: SigningKey,
}

/// Checks notes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    key: VerifyingKey,
}

impl Note {
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.count, self.head)
    }

    fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.lines();
        let (Some(origin), Some(count), Some(head)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Form("it has no origin, count and head"));
        };
        let count = count.parse().map_err(|_| NoteError::Form("its count is no number"))?;
        Ok(Self { origin: origin.to_owned(), count, head: head.to_owned() })
    }
}

impl Signer {
    /// With a private key of 32 bytes.
    pub fn new(name: &str, secret: &[u8; 32]) -> Self {
        Self { name: name.to_owned(), key: SigningKey::from_bytes(secret) }
    }

    /// What checks its notes.
    pub fn verifier(&self) -> Verifier {
        Verifier { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// A note with a signature.
    pub fn sign(&self, note: &Note) -> String {
        let text = note.text();
        let mut signed = self.verifier().hash().to_vec();
        signed.extend(self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n{DASH}{} {}\n", self.name, STANDARD.encode(signed))
    }
}

impl Verifier {
    /// Reads `NAME+HASH+KEY`.
    ///
    /// # Errors
    /// When it is of another form, or another kind of key.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key);
        };
        let bytes = STANDARD.decode(key).map_err(|_| NoteError::Key)?;
        let Some((&ED25519, key)) = bytes.split_first() else { return Err(NoteError::Key) };
        let key = key.try_into().map_err(|_| NoteError::Key)?;
        let key = VerifyingKey::from_bytes(key).map_err(|_| NoteError::Key)?;
        let verifier = Self { name: name.to_owned(), key };
        if hash != hex(&verifier.hash()) {
            return Err(NoteError::Key);
        }
        Ok(verifier)
    }

    fn hash(&self) -> [u8; 4] {
        let digest = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', ED25519])
            .chain_update(self.key.as_bytes())
            .finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    /// The note within a signed one.
    ///
    /// # Errors
    /// When the signature is missing or does not hold.
    pub fn open(&self, signed: &str) -> Result<Note, NoteError> {
        let (text, signatures) =
            signed.split_once("\n\n").ok_or(NoteError::Form("it has no empty line before its signatures"))?;
        let text = format!("{text}\n");
        let ours = signatures.lines().find_map(|line| {
            let (name, signature) = line.strip_prefix(DASH)?.split_once(' ')?;
            let signature = STANDARD.decode(signature).ok()?;
            (name == self.name && signature.starts_with(&self.hash())).then_some(signature)
        });
        let signature = ours.ok_or_else(|| NoteError::Unsigned(self.name.clone()))?;
        let forged = || NoteError::Forged(self.name.clone());
        let signature = Signature::from_slice(&signature[4..]).map_err(|_| forged())?;
        self.key.verify_strict(text.as_bytes(), &signature).map_err(|_| forged())?;
        Note::parse(&text)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519];
        key.extend(self.key.as_bytes());
        write!(formatter, "{}+{}+{}", self.name, hex(&self.hash()), STANDARD.encode(key))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Note, NoteError, Signer, Verifier};

    #[test]
    fn what_is_signed_is_known_and_what_is_changed_or_signed_by_others_is_not() {
        let signer = Signer::new("llmdeck/node-a", &[7; 32]);
        let verifier = Verifier::parse(&signer.verifier().to_string()).unwrap();
        let note = Note { origin: "llmdeck/node-a".into(), count: 3, head: "ab".into() };
        let signed = signer.sign(&note);
        assert!(signed.starts_with("llmdeck/node-a\n3\nab\n\n\u{2014} llmdeck/node-a "), "{signed}");
        assert_eq!(verifier.open(&signed), Ok(note.clone()));
        assert!(matches!(verifier.open(&signed.replace("\n3\n", "\n4\n")), Err(NoteError::Forged(_))));
        let other = Signer::new("llmdeck/node-a", &[8; 32]).sign(&note);
        assert!(matches!(verifier.open(&other), Err(NoteError::Unsigned(_))));
        assert_eq!(Verifier::parse("a+00000000+AQ=="), Err(NoteError::Key));
    }
}
