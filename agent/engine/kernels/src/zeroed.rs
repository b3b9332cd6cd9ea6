use std::alloc::{Layout, alloc_zeroed};
use std::io::{Error, ErrorKind};

use crate::line::Line;

/// What may be all zero bits.
///
/// # Safety
/// Zero bits are a valid value.
pub(crate) unsafe trait Zeroable {}

// SAFETY: whole numbers, and an array of them.
unsafe impl Zeroable for u16 {}
// SAFETY: as above.
unsafe impl Zeroable for u64 {}
// SAFETY: as above.
unsafe impl Zeroable for Line {}

/// Values from the system's zero pages: memory is touched for the first time by the thread that fills it.
///
/// # Errors
/// When the system has not so much; a size from a file or a setting must not end the process.
pub(crate) fn zeroed<T: Zeroable>(count: usize) -> Result<Vec<T>, Error> {
    let refused = || {
        let message = format!("{} MiB of memory cannot be had", count.saturating_mul(size_of::<T>()) >> 20);
        Error::new(ErrorKind::OutOfMemory, message)
    };
    if count == 0 {
        return Ok(Vec::new());
    }
    let layout = Layout::array::<T>(count).map_err(|_| refused())?;
    // SAFETY: the layout is of `count` values and not empty.
    let first = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if first.is_null() {
        return Err(refused());
    }
    // SAFETY: zero bits are a valid value; the vector frees with the same layout.
    Ok(unsafe { Vec::from_raw_parts(first, count, count) })
}

#[cfg(test)]
mod tests {
    use super::zeroed;

    #[test]
    fn what_cannot_be_had_is_refused() {
        assert_eq!(zeroed::<u16>(3).unwrap(), [0, 0, 0]);
        for count in [1 << 60, usize::MAX] {
            assert!(zeroed::<u16>(count).unwrap_err().to_string().contains("MiB of memory"));
        }
    }
}
