//! What stands in front of a GGUF file's tensors: metadata, and where each tensor is.
//! Source of the format: the GGUF specification, versions 2 and 3, little endian.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::Arc;

use crate::gguf::Strings;

/// Keys of the metadata; real files have below a hundred.
const MOST_KEYS: u64 = 1 << 16;
/// Tensors; the largest real files have some tens of thousands.
const MOST_TENSORS: u64 = 1 << 20;
/// Bytes of a key or a tensor's name.
const MOST_NAME_BYTES: u64 = 1 << 16;
/// Dimensions of a tensor, by the specification.
const MOST_DIMENSIONS: u32 = 4;
/// Lists within lists.
const MOST_DEPTH: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A file's metadata and the places of its tensors.
pub(crate) struct Header {
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorPlace>,
}

/// Where a tensor is and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorPlace {
    /// Byte of the file at which it starts.
    pub(crate) offset: u64,
    /// Outermost dimension first.
    pub(crate) shape: Vec<usize>,
    /// GGML's number of the type.
    pub(crate) ggml_type: u32,
}

enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Arc<Strings>),
    Floats(Vec<f32>),
    Integers(Vec<i64>),
    /// A list of something that no model here needs.
    Other,
}

impl Header {
    /// How many tensors there are.
    pub(crate) fn count(&self) -> usize {
        self.tensors.len()
    }

    /// A tensor that a file of so many bytes cannot hold.
    pub(crate) fn beyond(&self, bytes: u64) -> Option<&str> {
        let beyond = self.tensors.iter().find(|(_, place)| place.offset >= bytes);
        beyond.map(|(name, _)| name.as_str())
    }

    /// Reads the header; `bytes` is the file's length.
    ///
    /// # Errors
    /// What is off, in words.
    pub(crate) fn read(file: &File, bytes: u64) -> Result<Self, String> {
        Self::parse(BufReader::with_capacity(1 << 20, file), bytes)
    }

    fn parse(input: impl Read, bytes: u64) -> Result<Self, String> {
        let mut reader = Reader { input, read: 0, bytes };
        if &reader.array::<4>()? != b"GGUF" {
            return Err("is not a GGUF file: it does not begin with the letters GGUF".into());
        }
        let version = reader.u32()?;
        if !matches!(version, 2 | 3) {
            return Err(format!("is GGUF of version {version}; 2 and 3, little endian, are read"));
        }
        let tensor_count = reader.count("tensors", MOST_TENSORS)?;
        let key_count = reader.count("keys", MOST_KEYS)?;
        let mut metadata = HashMap::new();
        for _ in 0..key_count {
            let key = reader.name()?;
            let kind = reader.u32()?;
            let value = reader.value(kind).map_err(|reason| format!("{key}: {reason}"))?;
            metadata.insert(key, value);
        }
        let mut tensors = HashMap::new();
        for _ in 0..tensor_count {
            let name = reader.name()?;
            let place = reader.tensor().map_err(|reason| format!("tensor {name:?}: {reason}"))?;
            tensors.insert(name, place);
        }
        let mut header = Self { metadata, tensors };
        let alignment = header.number("general.alignment").unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(format!("general.alignment is {alignment}; it must be a power of two up to 1 MiB"));
        }
        let start = reader.read.next_multiple_of(alignment);
        for (name, place) in &mut header.tensors {
            place.offset = place
                .offset
                .checked_add(start)
                .ok_or_else(|| format!("tensor {name:?} starts beyond any file"))?;
        }
        Ok(header)
    }

    /// Where a tensor is.
    pub(crate) fn tensor(&self, name: &str) -> Option<&TensorPlace> {
        self.tensors.get(name)
    }

    /// A value that is text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A value that is true or false.
    pub(crate) fn boolean(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A value that is a whole number from zero up, of any width.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        match self.metadata.get(key)? {
            Value::Integer(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// A value with a fraction.
    pub(crate) fn float(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// A list of text.
    pub(crate) fn texts(&self, key: &str) -> Option<&Arc<Strings>> {
        match self.metadata.get(key)? {
            Value::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// A list of 32-bit floats.
    pub(crate) fn floats(&self, key: &str) -> Option<&[f32]> {
        match self.metadata.get(key)? {
            Value::Floats(floats) => Some(floats),
            _ => None,
        }
    }

    /// A list of whole numbers.
    pub(crate) fn integers(&self, key: &str) -> Option<&[i64]> {
        match self.metadata.get(key)? {
            Value::Integers(integers) => Some(integers),
            _ => None,
        }
    }
}

/// Reads forward and knows how much is left, so that no claimed size asks for more than the file has.
struct Reader<R> {
    input: R,
    read: u64,
    bytes: u64,
}

impl<R: Read> Reader<R> {
    fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.read)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), String> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "ends within its header; fetch it again".to_owned(),
            _ => error.to_string(),
        })?;
        self.read += buffer.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str, most: u64) -> Result<u64, String> {
        let count = self.u64()?;
        if count > most {
            return Err(format!("claims {count} {what}; {most} are read at most"));
        }
        Ok(count)
    }

    fn name(&mut self) -> Result<String, String> {
        let mut text = Vec::new();
        self.string(&mut text, MOST_NAME_BYTES).map(str::to_owned)
    }

    /// A string in `buffer`. Files exist whose strings end in zero bytes; these are cut off.
    fn string<'b>(&mut self, buffer: &'b mut Vec<u8>, most_bytes: u64) -> Result<&'b str, String> {
        let length = self.u64()?;
        if length > most_bytes.min(self.left()) {
            return Err(format!("claims a string of {length} bytes; {} are left", self.left()));
        }
        buffer.clear();
        buffer.resize(usize::try_from(length).map_err(|error| error.to_string())?, 0);
        self.fill(buffer)?;
        let end = buffer.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if std::str::from_utf8(&buffer[..end]).is_err() {
            *buffer = String::from_utf8_lossy(&buffer[..end]).into_owned().into_bytes();
            return std::str::from_utf8(buffer).map_err(|error| error.to_string());
        }
        std::str::from_utf8(&buffer[..end]).map_err(|error| error.to_string())
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.string(&mut Vec::new(), u64::MAX)?.to_owned()),
            9 => self.list()?,
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => Value::Integer(self.integer(kind)?),
        })
    }

    fn integer(&mut self, kind: u32) -> Result<i128, String> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            other => return Err(format!("has a value of type {other}, which GGUF does not know")),
        })
    }

    fn list(&mut self) -> Result<Value, String> {
        let kind = self.u32()?;
        let count = self.u64()?;
        // Every element has a byte at least, so no list asks for more memory than a few times the file.
        if count > self.left() {
            return Err(format!("claims a list of {count}; {} bytes are left", self.left()));
        }
        match kind {
            8 => {
                let (mut texts, mut buffer) = (Strings::default(), Vec::new());
                for _ in 0..count {
                    if !texts.push(self.string(&mut buffer, u64::MAX)?) {
                        return Err("has more than 4 GiB of text".into());
                    }
                }
                texts.shrink_to_fit();
                Ok(Value::Texts(Arc::new(texts)))
            }
            6 => (0..count)
                .map(|_| self.array().map(f32::from_le_bytes))
                .collect::<Result<_, _>>()
                .map(Value::Floats),
            0..=5 | 11 => (0..count)
                .map(|_| self.integer(kind).map(|integer| integer as i64))
                .collect::<Result<_, _>>()
                .map(Value::Integers),
            _ => self.skip(kind, count, MOST_DEPTH).map(|()| Value::Other),
        }
    }

    fn skip(&mut self, kind: u32, count: u64, depth: u32) -> Result<(), String> {
        for _ in 0..count {
            if kind == 9 {
                let deeper = depth.checked_sub(1).ok_or("has lists within lists, too deep to be real")?;
                let (kind, count) = (self.u32()?, self.u64()?);
                self.skip(kind, count, deeper)?;
            } else {
                self.value(kind)?;
            }
        }
        Ok(())
    }

    fn tensor(&mut self) -> Result<TensorPlace, String> {
        let dimensions = self.u32()?;
        if dimensions > MOST_DIMENSIONS {
            return Err(format!("has {dimensions} dimensions; GGUF knows {MOST_DIMENSIONS}"));
        }
        let mut shape = (0..dimensions)
            .map(|_| usize::try_from(self.u64()?).map_err(|error| error.to_string()))
            .collect::<Result<Vec<_>, String>>()?;
        shape.reverse();
        let ggml_type = self.u32()?;
        Ok(TensorPlace { offset: self.u64()?, shape, ggml_type })
    }
}

#[cfg(test)]
mod tests {
    use super::Header;
    use proptest::prelude::{any, prop, prop_assert, proptest};

    fn string(text: &str) -> Vec<u8> {
        [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes()].concat()
    }

    fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [string(key).as_slice(), &kind.to_le_bytes(), value].concat()
    }

    fn list(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
        [kind.to_le_bytes().as_slice(), &count.to_le_bytes(), elements].concat()
    }

    fn file() -> Vec<u8> {
        let pairs = [
            pair("general.name", 8, &string("small")),
            pair("layers", 4, &7u32.to_le_bytes()),
            pair("eps", 6, &0.5f32.to_le_bytes()),
            pair("flag", 7, &[1]),
            pair("tokens", 9, &list(8, 2, &[string("a"), string("bc\0")].concat())),
            pair("scores", 9, &list(6, 2, &[1.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat())),
            pair("kinds", 9, &list(5, 2, &[1i32.to_le_bytes(), (-1i32).to_le_bytes()].concat())),
            pair("nested", 9, &list(9, 1, &list(7, 3, &[0, 1, 1]))),
        ];
        let tensor = [
            string("weight").as_slice(),
            &2u32.to_le_bytes(),
            &3u64.to_le_bytes(),
            &5u64.to_le_bytes(),
            &8u32.to_le_bytes(),
            &64u64.to_le_bytes(),
        ]
        .concat();
        let counts = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &1u64.to_le_bytes(), &8u64.to_le_bytes()];
        [counts.concat(), pairs.concat(), tensor].concat()
    }

    fn parse(bytes: &[u8]) -> Result<Header, String> {
        Header::parse(bytes, bytes.len() as u64)
    }

    #[test]
    fn reads_what_is_written() {
        let bytes = file();
        let header = parse(&bytes).unwrap();
        assert_eq!(header.text("general.name"), Some("small"));
        assert_eq!(header.number("layers"), Some(7));
        assert_eq!(header.float("eps"), Some(0.5));
        assert_eq!(header.boolean("flag"), Some(true));
        assert_eq!(header.texts("tokens").unwrap().iter().collect::<Vec<_>>(), ["a", "bc"]);
        assert_eq!(header.floats("scores"), Some([1.5, -2.0].as_slice()));
        assert_eq!(header.integers("kinds"), Some([1, -1].as_slice()));
        let tensor = header.tensor("weight").unwrap();
        let start = (bytes.len() as u64).next_multiple_of(32);
        assert_eq!(
            (tensor.shape.as_slice(), tensor.ggml_type, tensor.offset),
            ([5, 3].as_slice(), 8, start + 64)
        );
    }

    #[test]
    fn claims_beyond_the_file_are_refused_before_memory_is_asked_for() {
        let huge = [pair("text", 8, &u64::MAX.to_le_bytes()), pair("list", 9, &list(6, u64::MAX / 2, &[]))];
        for pair in huge {
            let counts = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &0u64.to_le_bytes(), &1u64.to_le_bytes()];
            let error = parse(&[counts.concat(), pair].concat()).err().unwrap();
            assert!(error.contains("are left"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_header_is_an_error_or_a_header(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = file();
            for (place, value) in damage {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Err(reason) = parse(&bytes) {
                prop_assert!(!reason.is_empty());
            }
        }
    }
}
