//! Products of whole tiles, in registers alone.

use std::arch::asm;

use crate::matmul::amx::Unit;

/// Tiles of sums beside each other: an instruction takes three times as long as until the next may begin.
const CHAINS: usize = 4;

pub(super) const BF16_OPERATIONS_A_ROUND: usize = 2 * 16 * 16 * 32 * CHAINS;

/// Only where the machine has AMX, and it works.
pub(super) fn bf16_rounds(rounds: usize) {
    let unit = Unit::take();
    // SAFETY: the registers are configured, and nothing else is touched.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tilezero tmm4",
            "tilezero tmm5",
            "test {rounds}, {rounds}",
            "jz 3f",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "tdpbf16ps tmm1, tmm4, tmm5",
            "tdpbf16ps tmm2, tmm4, tmm5",
            "tdpbf16ps tmm3, tmm4, tmm5",
            "dec {rounds}",
            "jnz 2b",
            "3:",
            rounds = inout(reg) rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
            options(nomem, nostack),
        );
    }
    drop(unit);
}
