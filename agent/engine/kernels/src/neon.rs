//! What kernels for Arm share.

use std::arch::aarch64::{float32x4_t, uint16x4_t};
use std::arch::asm;

/// Four 16-bit floats. (The compiler's own conversion is not stable.)
#[inline(always)]
pub(crate) fn from_halves(halves: uint16x4_t) -> float32x4_t {
    let floats: float32x4_t;
    // SAFETY: the instruction belongs to every processor of the architecture, and touches registers only.
    unsafe {
        asm!(
            "fcvtl {floats:v}.4s, {halves:v}.4h",
            floats = out(vreg) floats,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    floats
}
