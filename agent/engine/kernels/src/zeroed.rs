use std::io::{Error, ErrorKind};
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::line::Line;

/// What may be all zero bits.
///
/// # Safety
/// Any bits are a valid value, and the alignment is at most a page's.
pub(crate) unsafe trait Zeroable: Copy {
    /// All zero bits.
    const ZERO: Self;
}

// SAFETY: a whole number.
unsafe impl Zeroable for u16 {
    const ZERO: Self = 0;
}
// SAFETY: as above.
unsafe impl Zeroable for u64 {
    const ZERO: Self = 0;
}
// SAFETY: whole numbers.
unsafe impl Zeroable for Line {
    const ZERO: Self = Self([0; 16]);
}

/// Below this the allocator is quicker: what gives pages back interrupts all threads.
const LEAST_MAPPED_BYTES: usize = 1 << 20;

/// Values that begin as zero. Many of them have pages of their own, straight from the system: they are touched for the
/// first time by the thread that fills them, and go back to the system, all of them, when they are dropped. An allocator
/// would keep what it once had.
pub(crate) struct Zeroed<T>(Storage<T>);

enum Storage<T> {
    Few(Vec<T>),
    Mapped { map: MmapMut, count: usize },
}

impl<T: Zeroable> Zeroed<T> {
    /// So many of them.
    ///
    /// # Errors
    /// When the system has not so much memory; a size from a file or a setting must not end the process.
    pub(crate) fn new(count: usize) -> Result<Self, Error> {
        let bytes = count.saturating_mul(size_of::<T>());
        if bytes < LEAST_MAPPED_BYTES {
            return Ok(Self(Storage::Few(vec![T::ZERO; count])));
        }
        let refused = || {
            let message = format!("{} MiB of memory cannot be had", bytes >> 20);
            Error::new(ErrorKind::OutOfMemory, message)
        };
        if isize::try_from(bytes).is_err() {
            return Err(refused());
        }
        let map = MmapMut::map_anon(bytes).map_err(|_| refused())?;
        Ok(Self(Storage::Mapped { map, count }))
    }
}

impl<T: Zeroable> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Storage::Few(values) => values,
            // SAFETY: the map has `count` values' bytes, begins with a page, and any bits are a valid value.
            Storage::Mapped { map, count } => unsafe {
                std::slice::from_raw_parts(map.as_ptr().cast(), *count)
            },
        }
    }
}

impl<T: Zeroable> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Storage::Few(values) => values,
            // SAFETY: as above, and the map is borrowed alone.
            Storage::Mapped { map, count } => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), *count)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Zeroed;

    #[test]
    fn few_and_many_begin_as_zero_and_can_be_written() {
        assert_eq!(&*Zeroed::<u16>::new(3).unwrap(), [0, 0, 0]);
        assert!(Zeroed::<u64>::new(0).unwrap().is_empty());
        let mut many = Zeroed::<u64>::new(1 << 18).unwrap();
        many[(1 << 18) - 1] = 7;
        assert_eq!((many.len(), many.iter().sum::<u64>()), (1 << 18, 7));
    }

    #[test]
    #[cfg_attr(miri, ignore = "an interpreter ends where a system refuses")]
    fn what_cannot_be_had_is_refused() {
        for count in [1 << 60, usize::MAX] {
            assert!(Zeroed::<u16>::new(count).err().unwrap().to_string().contains("MiB of memory"));
        }
    }
}
