//! How large a property's examples are.

/// An eighth of it where the tests are interpreted, a thousand times as slowly.
pub(crate) const fn most(size: usize) -> usize {
    if cfg!(miri) { size.div_ceil(8) + 1 } else { size }
}
