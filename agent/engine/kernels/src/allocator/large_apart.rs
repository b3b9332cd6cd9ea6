use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::ptr::null_mut;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};

use super::PAGES_OF_ITS_OWN_BYTES;

/// What the smallest pages are aligned to, and so all.
const PAGE_ALIGNMENT: usize = 4 << 10;

/// The C library's allocator for what is small; pages straight from the system, and back, for what is large. The C library itself
/// puts what is large into gaps between small allocations where it can, and there it stays for its life: the heap grows for the small
/// ones that come then.
pub struct Allocator;

/// Whether an allocation has pages of its own. It is asked again when it is freed, and must be told the same.
const fn is_large(bytes: usize, alignment: usize) -> bool {
    bytes >= PAGES_OF_ITS_OWN_BYTES && alignment <= PAGE_ALIGNMENT
}

// SAFETY: nothing here panics. A layout says by itself where its memory comes from, so it goes back to there; pages are aligned and
// as large as asked for or larger.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout.size(), layout.align()) {
            return pages(layout.size());
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout.size(), layout.align()) {
            return pages(layout.size());
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if is_large(layout.size(), layout.align()) {
            // SAFETY: these are the pages of this layout, and the caller has done with them. It fails only where the system can
            // hold no more mappings, and then they stay.
            let _ = unsafe { munmap(memory.cast(), layout.size()) };
            return;
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        match (is_large(layout.size(), layout.align()), is_large(bytes, layout.align())) {
            // SAFETY: as the caller promises.
            (false, false) => unsafe { System.realloc(memory, layout, bytes) },
            // SAFETY: these are the pages of this layout, whose place the caller gives up.
            (true, true) => unsafe {
                mremap(memory.cast(), layout.size(), bytes, MremapFlags::MAYMOVE)
                    .map_or(null_mut(), <*mut c_void>::cast)
            },
            // SAFETY: as the caller promises; the copy ends with the shorter one.
            (_, _) => unsafe {
                let moved = self.alloc(Layout::from_size_align_unchecked(bytes, layout.align()));
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(memory, bytes.min(layout.size()));
                    self.dealloc(memory, layout);
                }
                moved
            },
        }
    }
}

/// Pages of zeros; null when the system has no more.
fn pages(bytes: usize) -> *mut u8 {
    // SAFETY: the system picks the place, so nothing that exists is replaced.
    let pages =
        unsafe { mmap_anonymous(null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
    pages.map_or(null_mut(), <*mut c_void>::cast)
}

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout};

    use super::{Allocator, PAGES_OF_ITS_OWN_BYTES};

    /// Sizes around the border, as a vector that grows and shrinks has them.
    const SIZES: [usize; 7] = [
        100,
        PAGES_OF_ITS_OWN_BYTES - 1,
        PAGES_OF_ITS_OWN_BYTES,
        PAGES_OF_ITS_OWN_BYTES + 1,
        300_001,
        70_000,
        7,
    ];

    #[test]
    #[cfg_attr(miri, ignore = "an interpreter's pages are not whole when they have moved")]
    fn what_is_in_memory_stays_when_it_grows_and_shrinks() {
        for alignment in [1, 64, 4 << 10, 2 << 20] {
            let mut layout = Layout::from_size_align(SIZES[0], alignment).unwrap();
            // SAFETY: every access is within the layout of its moment.
            unsafe {
                let mut memory = Allocator.alloc(layout);
                memory.write_bytes(0xa5, layout.size());
                for size in SIZES {
                    memory = Allocator.realloc(memory, layout, size);
                    assert!(!memory.is_null() && memory.addr().is_multiple_of(alignment));
                    let kept = size.min(layout.size());
                    let all = std::slice::from_raw_parts(memory, kept);
                    assert!(all.iter().all(|&byte| byte == 0xa5), "{alignment}: {} to {size}", layout.size());
                    memory.write_bytes(0xa5, size);
                    layout = Layout::from_size_align(size, alignment).unwrap();
                }
                Allocator.dealloc(memory, layout);
            }
        }
    }

    #[test]
    fn zeroed_memory_is_zero() {
        for size in SIZES {
            let layout = Layout::from_size_align(size, 16).unwrap();
            // SAFETY: every access is within the layout.
            unsafe {
                let memory = Allocator.alloc_zeroed(layout);
                assert!(std::slice::from_raw_parts(memory, size).iter().all(|&byte| byte == 0));
                memory.write_bytes(0xff, size);
                Allocator.dealloc(memory, layout);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "an interpreter ends where a system refuses")]
    fn what_cannot_be_had_is_null() {
        for size in [1 << 60, isize::MAX as usize - 64] {
            let layout = Layout::from_size_align(size, 8).unwrap();
            // SAFETY: nothing is accessed.
            unsafe { assert!(Allocator.alloc(layout).is_null()) };
        }
    }
}
