//! Memory that ends where a page begins that cannot be read.

use std::ffi::c_void;
use std::ops::Deref;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// Whole pages on any machine.
const PAGES_BYTES: usize = 64 << 10;

/// Words whose last one is the last of its page, with none behind it: a kernel that goes beyond them ends the process.
pub(crate) struct Fenced<T> {
    map: *mut c_void,
    map_bytes: usize,
    first: *mut T,
    count: usize,
}

impl<T: Copy> Fenced<T> {
    pub(crate) fn of(values: &[T]) -> Self {
        let bytes = size_of_val(values);
        let used = bytes.next_multiple_of(PAGES_BYTES);
        let map_bytes = used + PAGES_BYTES;
        // SAFETY: new pages, of which the last is made unreadable, and values are copied into the others.
        unsafe {
            let all = ProtFlags::READ | ProtFlags::WRITE;
            let map = mmap_anonymous(std::ptr::null_mut(), map_bytes, all, MapFlags::PRIVATE).unwrap();
            mprotect(map.byte_add(used), PAGES_BYTES, MprotectFlags::empty()).unwrap();
            let first = map.byte_add(used - bytes).cast::<T>();
            first.copy_from_nonoverlapping(values.as_ptr(), values.len());
            Self { map, map_bytes, first, count: values.len() }
        }
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.first
    }
}

impl<T> Deref for Fenced<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: so many values were put there, and the map lives as long as this.
        unsafe { std::slice::from_raw_parts(self.first, self.count) }
    }
}

impl<T> Drop for Fenced<T> {
    fn drop(&mut self) {
        // SAFETY: it is this map, and nobody has a reference to what is in it.
        let _ = unsafe { munmap(self.map, self.map_bytes) };
    }
}
