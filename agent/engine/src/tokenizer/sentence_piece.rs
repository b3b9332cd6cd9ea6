//! SentencePiece BPE as GGUF files describe it (`llama`): of all neighbours, those are joined first whose joined piece
//! scores highest. Source of the algorithm: Kudo and Richardson 2018, and the `bpe_model` of their implementation.
//!
//! Built in a few milliseconds from a vocabulary of hundreds of thousands, which stays in one piece of memory: a list
//! of merges, which other tokenizers need, would be several times larger and take longer to make than a small model
//! takes to load.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use hashbrown::{DefaultHashBuilder, HashTable};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper};

use crate::gguf::{Header, Strings};
use crate::tokenizer::{TYPE_BYTE, TYPE_CONTROL, TYPE_UNKNOWN, TYPE_USER_DEFINED};

/// What stands for a space in a piece.
const SPACE: char = '▁';

pub(super) struct SentencePiece {
    pieces: Arc<Strings>,
    scores: Vec<f32>,
    kinds: Vec<Kind>,
    ids: Index,
    /// Finds control and user-defined tokens in text; its patterns are `marked` in order.
    marks: AhoCorasick,
    marked: Vec<u32>,
    bytes: Option<Box<[u32; 256]>>,
    unknown: Option<u32>,
    /// Text, and what follows a control token, begins as if a space stood before it.
    adds_space: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Control,
    UserDefined,
    Unknown,
    Byte(u8),
}

/// Ids by piece.
struct Index {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Index {
    fn new(pieces: &Strings) -> Self {
        let mut index =
            Self { table: HashTable::with_capacity(pieces.len()), hasher: DefaultHashBuilder::default() };
        for (id, piece) in (0u32..).zip(pieces.iter()) {
            let hash = index.hasher.hash_one(piece);
            let name = |id: &u32| pieces.get(*id as usize).unwrap_or_default();
            let hasher = &index.hasher;
            if index.table.find(hash, |other| name(other) == piece).is_none() {
                index.table.insert_unique(hash, id, |other| hasher.hash_one(name(other)));
            }
        }
        index
    }

    fn get(&self, pieces: &Strings, piece: &str) -> Option<u32> {
        let found =
            self.table.find(self.hasher.hash_one(piece), |id| pieces.get(*id as usize) == Some(piece));
        found.copied()
    }
}

impl SentencePiece {
    /// Reads pieces, scores and types.
    ///
    /// # Errors
    /// When one is missing or of another length.
    pub(super) fn from_gguf(header: &Header) -> Result<Self, String> {
        let pieces = header.texts("tokenizer.ggml.tokens").ok_or("tokenizer.ggml.tokens is missing")?;
        let scores = header.floats("tokenizer.ggml.scores").ok_or("tokenizer.ggml.scores is missing")?;
        let kinds = header.integers("tokenizer.ggml.token_type").unwrap_or_default();
        let unknown = header.number("tokenizer.ggml.unknown_token_id").and_then(|id| u32::try_from(id).ok());
        let adds_space = header.boolean("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        Self::new(Arc::clone(pieces), scores.to_vec(), kinds, unknown, adds_space)
    }

    fn new(
        pieces: Arc<Strings>,
        scores: Vec<f32>,
        kinds: &[i64],
        unknown: Option<u32>,
        adds_space: bool,
    ) -> Result<Self, String> {
        if scores.len() != pieces.len() {
            return Err(format!("{} scores for {} tokens", scores.len(), pieces.len()));
        }
        let kinds: Vec<Kind> = pieces
            .iter()
            .enumerate()
            .map(|(id, piece)| Kind::new(kinds.get(id).copied().unwrap_or_default(), piece))
            .collect();
        let ids = Index::new(&pieces);
        let marked: Vec<u32> = (0u32..)
            .zip(pieces.iter().zip(&kinds))
            .filter(|(_, (piece, kind))| {
                !piece.is_empty() && matches!(kind, Kind::Control | Kind::UserDefined)
            })
            .map(|(id, _)| id)
            .collect();
        let marks = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            // The smaller machine: the tokens may be thousands, and text is short.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(marked.iter().filter_map(|id| pieces.get(*id as usize)))
            .map_err(|error| format!("special tokens: {error}"))?;
        let mut bytes = Box::new([0u32; 256]);
        let mut known = 0;
        for (id, kind) in (0u32..).zip(&kinds) {
            if let Kind::Byte(byte) = kind {
                bytes[usize::from(*byte)] = id;
                known += 1;
            }
        }
        let bytes = (known == 256).then_some(bytes);
        Ok(Self { pieces, scores, kinds, ids, marks, marked, bytes, unknown, adds_space })
    }

    /// The same as a list of merges, for others than us.
    pub(super) fn as_library(&self) -> Result<tokenizers::Tokenizer, String> {
        let vocabulary: Vocab = self.pieces.iter().map(str::to_owned).zip(0u32..).collect();
        let joinable = |id: &u32| matches!(self.kinds[*id as usize], Kind::Text | Kind::UserDefined);
        let known = |piece: &str| self.ids.get(&self.pieces, piece).is_some();
        let mut by_score: Vec<u32> = (0u32..).take(self.pieces.len()).filter(joinable).collect();
        by_score.sort_by(|one, other| {
            self.scores[*other as usize].total_cmp(&self.scores[*one as usize]).then(one.cmp(other))
        });
        let mut merges: Merges = Vec::new();
        for piece in by_score.iter().filter_map(|id| self.pieces.get(*id as usize)) {
            let cuts = piece.char_indices().skip(1).map(|(cut, _)| piece.split_at(cut));
            let cuts = cuts.filter(|(left, right)| known(left) && known(right));
            merges.extend(cuts.map(|(left, right)| (left.to_owned(), right.to_owned())));
        }
        let mut model = BPE::builder().vocab_and_merges(vocabulary, merges).fuse_unk(true);
        if let Some(unknown) = self.unknown.and_then(|id| self.name(id)) {
            model = model.unk_token(unknown.to_owned());
        }
        let words = |error: tokenizers::Error| error.to_string();
        let model = model.byte_fallback(self.bytes.is_some()).build().map_err(words)?;
        let mut library = tokenizers::Tokenizer::new(model);
        let space = SPACE.to_string();
        let spaced: NormalizerWrapper = Replace::new(" ", space.as_str()).map_err(words)?.into();
        let before: Option<NormalizerWrapper> = self.adds_space.then(|| Prepend::new(space.clone()).into());
        let normalizer = Normalizers::new(before.into_iter().chain([spaced]).collect());
        library.with_normalizer(Some(normalizer)).map_err(words)?;
        let mut decoders: Vec<DecoderWrapper> = vec![
            Replace::new(space, " ").map_err(words)?.into(),
            ByteFallback::new().into(),
            Fuse::new().into(),
        ];
        if self.adds_space {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        library.with_decoder(Some(Decoders::new(decoders)));
        let marks = |kind: Kind, special: bool| -> Vec<AddedToken> {
            let marks = self.marked.iter().filter(|id| self.kinds[**id as usize] == kind);
            let names = marks.filter_map(|id| self.name(*id));
            names.map(|name| AddedToken::from(name, special).normalized(false)).collect()
        };
        library.add_special_tokens(marks(Kind::Control, true)).map_err(words)?;
        library.add_tokens(marks(Kind::UserDefined, false)).map_err(words)?;
        Ok(library)
    }

    /// Text to tokens; control and user-defined tokens are found by their names.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 1);
        let (mut at, mut begins) = (0, true);
        for mark in self.marks.find_iter(text) {
            self.encode_plain(&text[at..mark.start()], begins, &mut out);
            let id = self.marked[mark.pattern().as_usize()];
            out.push(id);
            begins = self.kinds[id as usize] == Kind::Control;
            at = mark.end();
        }
        self.encode_plain(&text[at..], begins, &mut out);
        out
    }

    /// The same without anything put before it, and without looking for control tokens.
    pub(super) fn encode_inner(&self, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        self.encode_plain(text, false, &mut out);
        out
    }

    fn encode_plain(&self, text: &str, begins: bool, out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let mut spaced = String::with_capacity(text.len() + text.len() / 2);
        if begins && self.adds_space {
            spaced.push(SPACE);
        }
        spaced.extend(text.chars().map(|letter| if letter == ' ' { SPACE } else { letter }));
        for symbol in self.joined(&spaced) {
            self.push_piece(symbol, out);
        }
    }

    /// The text in pieces, joined as far as the vocabulary goes.
    fn joined<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, letter))| Symbol {
                start,
                end: start + letter.len_utf8(),
                before: index.checked_sub(1),
                after: index + 1,
            })
            .collect();
        let mut queue = BinaryHeap::new();
        for left in 0..symbols.len().saturating_sub(1) {
            queue.extend(self.join(text, &symbols, left, left + 1));
        }
        while let Some(join) = queue.pop() {
            let (left, right) = (symbols[join.left], symbols[join.right]);
            // One of the two was joined with another meanwhile.
            if left.is_joined()
                || right.is_joined()
                || left.after != join.right
                || right.end - left.start != join.bytes
            {
                continue;
            }
            symbols[join.left].end = right.end;
            symbols[join.left].after = right.after;
            symbols[join.right].end = symbols[join.right].start;
            if right.after < symbols.len() {
                symbols[right.after].before = Some(join.left);
                queue.extend(self.join(text, &symbols, join.left, right.after));
            }
            if let Some(before) = left.before {
                queue.extend(self.join(text, &symbols, before, join.left));
            }
        }
        symbols
            .iter()
            .filter(|symbol| !symbol.is_joined())
            .map(|symbol| &text[symbol.start..symbol.end])
            .collect()
    }

    fn join(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Join> {
        let (start, end) = (symbols[left].start, symbols[right].end);
        let id = self.ids.get(&self.pieces, &text[start..end])?;
        let joinable = matches!(self.kinds[id as usize], Kind::Text | Kind::UserDefined);
        joinable.then(|| Join { score: self.scores[id as usize], left, right, bytes: end - start })
    }

    fn push_piece(&self, piece: &str, out: &mut Vec<u32>) {
        match (self.ids.get(&self.pieces, piece), &self.bytes) {
            (Some(id), _) => out.push(id),
            (None, Some(bytes)) => out.extend(piece.bytes().map(|byte| bytes[usize::from(byte)])),
            // Neighbours that are unknown are one unknown.
            (None, None) => out.extend(self.unknown.filter(|unknown| out.last() != Some(unknown))),
        }
    }

    /// Tokens to text, control tokens left out; bytes that are no text become replacement characters.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for id in ids {
            self.push_bytes(*id, &mut bytes);
        }
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// The bytes that a token adds to a text; `None` for control tokens.
    pub(super) fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.push_bytes(id, &mut bytes);
        (!bytes.is_empty()).then_some(bytes)
    }

    fn push_bytes(&self, id: u32, out: &mut Vec<u8>) {
        match self.kinds.get(id as usize) {
            Some(Kind::Byte(byte)) => out.push(*byte),
            Some(Kind::Text | Kind::UserDefined) => {
                let piece = self.pieces.get(id as usize).unwrap_or_default();
                let mut parts = piece.split(SPACE);
                out.extend(parts.next().unwrap_or_default().bytes());
                for part in parts {
                    out.push(b' ');
                    out.extend(part.bytes());
                }
            }
            Some(Kind::Control | Kind::Unknown) | None => {}
        }
    }

    /// A token by its name in the vocabulary.
    pub(super) fn name(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize)
    }

    /// The id of a token by its name.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.ids.get(&self.pieces, name)
    }
}

impl Kind {
    fn new(kind: i64, piece: &str) -> Self {
        match kind {
            TYPE_CONTROL => Self::Control,
            TYPE_USER_DEFINED => Self::UserDefined,
            TYPE_UNKNOWN => Self::Unknown,
            TYPE_BYTE => piece
                .strip_prefix("<0x")
                .and_then(|rest| rest.strip_suffix('>'))
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .map_or(Self::Text, Self::Byte),
            _ => Self::Text,
        }
    }
}

/// A stretch of the text; empty once it has become part of the one before it.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    before: Option<usize>,
    after: usize,
}

impl Symbol {
    fn is_joined(self) -> bool {
        self.start == self.end
    }
}

/// Two neighbours that would be a piece.
struct Join {
    score: f32,
    left: usize,
    right: usize,
    bytes: usize,
}

impl Ord for Join {
    /// The highest score first, of equal ones the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Join {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Join {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::{prop, prop_assert_eq, proptest};

    use super::SentencePiece;
    use crate::gguf::Strings;

    /// A vocabulary in which longer pieces are made of shorter ones; its scores fall as SentencePiece's do.
    const PIECES: [&str; 24] = [
        "<unk>", "<s>", "<mark>", "a", "b", "c", "▁", "é", "ab", "ca", "▁a", "bc", "abc", "▁ab", "aa", "▁▁",
        "aaa", "bca", "éa", "▁abc", "cab", "bb", "bbb", "abab",
    ];

    fn kinds() -> Vec<i64> {
        PIECES
            .iter()
            .map(|piece| match *piece {
                "<unk>" => 2,
                "<s>" => 3,
                "<mark>" => 4,
                _ => 1,
            })
            .chain(std::iter::repeat_n(6, 256))
            .collect()
    }

    fn all_pieces() -> Vec<String> {
        let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
        PIECES.iter().map(|piece| (*piece).to_owned()).chain(bytes).collect()
    }

    fn ours(adds_space: bool) -> SentencePiece {
        let pieces = all_pieces();
        let scores = (0..pieces.len()).map(|id| -(id as f32)).collect();
        let strings = pieces.iter().map(String::as_str).collect::<Strings>();
        SentencePiece::new(Arc::new(strings), scores, &kinds(), Some(0), adds_space).unwrap()
    }

    #[test]
    fn marks_are_found_and_spaces_stand_before_what_begins() {
        let names = |tokenizer: &SentencePiece, text: &str| -> Vec<String> {
            tokenizer.encode(text).iter().map(|id| tokenizer.name(*id).unwrap().to_owned()).collect()
        };
        assert_eq!(names(&ours(false), "<s>abc<mark>ab"), ["<s>", "abc", "<mark>", "ab"]);
        assert_eq!(names(&ours(true), "<s>abc<mark>ab"), ["<s>", "▁abc", "<mark>", "ab"]);
        assert_eq!(ours(false).decode(&ours(false).encode("<s> abc<mark>")), " abc<mark>");
    }

    proptest! {
        #[test]
        fn cuts_as_another_implementation_does(
            parts in prop::collection::vec("[abcé x日]{1,9}|<mark>|<s>", 0..8),
        ) {
            let text = parts.concat();
            let ours = ours(false);
            let library = ours.as_library().unwrap();
            let theirs = library.encode(text.as_str(), false).unwrap().get_ids().to_vec();
            prop_assert_eq!(ours.encode(&text), theirs.clone());
            prop_assert_eq!(ours.decode(&theirs), library.decode(&theirs, true).unwrap());
        }

        #[test]
        fn a_space_stands_before_text_there_too(text in "[abc é]{1,40}") {
            let ours = ours(true);
            let library = ours.as_library().unwrap();
            prop_assert_eq!(ours.encode(&text), library.encode(text.as_str(), false).unwrap().get_ids().to_vec());
        }

        #[test]
        fn text_comes_back(text in "[abc é~日\u{1F980}]{0,40}") {
            let tokenizer = ours(false);
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text);
        }
    }
}
