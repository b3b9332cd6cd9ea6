//! Keeps memory of models that are gone from staying with the process.

#[cfg(target_os = "linux")]
mod large_apart;

#[cfg(target_os = "linux")]
pub use large_apart::Allocator;
#[cfg(not(target_os = "linux"))]
pub use std::alloc::System as Allocator;

/// Least bytes of an allocation with pages of its own, which go back to the system when it is freed.
#[cfg(target_os = "linux")]
const PAGES_OF_ITS_OWN_BYTES: usize = 64 << 10;
/// Free bytes at the end of a heap that go back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIMMED_BYTES: i32 = 1 << 20;
/// Heaps that threads share. Each keeps its own gaps, which another cannot use: with four, a model that is loaded by another thread than
/// the one before leaves its place empty, and what is resident grows from rollout to rollout. What a step of a model takes again
/// and again, it keeps.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: i32 = 1;

/// Makes freed memory go back to the system early, in one heap. To be called before threads start. glibc would raise
/// its own thresholds to 32 MiB as soon as something so large is freed, and open eight heaps a core; with another C
/// library nothing is changed.
pub fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        (nix::libc::M_MMAP_THRESHOLD, PAGES_OF_ITS_OWN_BYTES as i32),
        (nix::libc::M_TRIM_THRESHOLD, TRIMMED_BYTES),
        (nix::libc::M_ARENA_MAX, HEAPS),
    ] {
        // SAFETY: mallopt takes two numbers and may be called at any time.
        // A parameter that is refused keeps its default, which is only less frugal.
        let _ = unsafe { nix::libc::mallopt(parameter, value) };
    }
}

/// Gives whole pages of gaps between allocations back to the system, in every heap. To be called when much has gone, such as a
/// model with what it had remembered: what lies behind the gaps keeps the heap from shrinking by itself. Takes milliseconds.
pub fn give_gaps_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim may be called at any time, from any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
