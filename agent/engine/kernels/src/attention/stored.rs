use super::vector::Vector;

/// How numbers of a cache are stored, as the kernel reads them.
pub(super) trait Stored {
    /// Whether each token's numbers have a scale of their own.
    const SCALED: bool;

    /// Sixteen numbers of `words`, from number `at` on, which is a multiple of 16.
    fn load<V: Vector>(words: &[u16], at: usize) -> V;
}

pub(super) struct Halves;
pub(super) struct Bf16;
pub(super) struct Bytes;

impl Stored for Halves {
    const SCALED: bool = false;

    #[inline(always)]
    fn load<V: Vector>(words: &[u16], at: usize) -> V {
        V::load_halves(&words[at..])
    }
}

impl Stored for Bf16 {
    const SCALED: bool = false;

    #[inline(always)]
    fn load<V: Vector>(words: &[u16], at: usize) -> V {
        V::load_bf16(&words[at..])
    }
}

impl Stored for Bytes {
    const SCALED: bool = true;

    #[inline(always)]
    fn load<V: Vector>(words: &[u16], at: usize) -> V {
        V::load_bytes(&words[at / 2..])
    }
}
