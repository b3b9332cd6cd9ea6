//! The bytes of single tokens of tokenizers that the tokenizers crate runs.

use tokenizers::DecoderWrapper;

/// The bytes that a token adds to an answer; `None` for special tokens and ids without a token.
pub(super) fn bytes(tokenizer: &tokenizers::Tokenizer, id: u32) -> Option<Vec<u8>> {
    let added = tokenizer.get_added_vocabulary();
    let name = tokenizer.id_to_token(id)?;
    if added.is_special_token(&name) {
        return None;
    }
    if added.get_vocab().contains_key(&name) {
        return Some(name.into_bytes());
    }
    if is_byte_level(tokenizer) {
        return name.chars().map(byte_of).collect();
    }
    let byte = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
        Some(byte) => Some(vec![byte]),
        None => Some(name.replace('▁', " ").into_bytes()),
    }
}

fn is_byte_level(tokenizer: &tokenizers::Tokenizer) -> bool {
    match tokenizer.get_decoder() {
        Some(DecoderWrapper::ByteLevel(_)) => true,
        Some(DecoderWrapper::Sequence(sequence)) => {
            sequence.get_decoders().iter().any(|decoder| matches!(decoder, DecoderWrapper::ByteLevel(_)))
        }
        _ => false,
    }
}

/// Byte-level vocabularies write bytes that print as themselves, and the others as letters from U+0100 on, in order
/// (Radford et al. 2019, `bytes_to_unicode`).
fn byte_of(letter: char) -> Option<u8> {
    let code = u32::from(letter);
    let prints = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u8::try_from(code) {
        Ok(byte) => prints(&byte).then_some(byte),
        Err(_) => (0..=u8::MAX).filter(|byte| !prints(byte)).nth(usize::try_from(code - 0x100).ok()?),
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::byte_of;

    #[test]
    fn every_byte_has_its_letter() {
        let mut bytes: Vec<u8> =
            ByteLevel::alphabet().into_iter().map(|letter| byte_of(letter).unwrap()).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(
            (byte_of('a'), byte_of('Ġ'), byte_of('Ċ'), byte_of('日')),
            (Some(b'a'), Some(b' '), Some(b'\n'), None)
        );
    }
}
