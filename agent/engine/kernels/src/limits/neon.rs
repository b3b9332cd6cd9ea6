//! Products of four bytes, in registers alone.

use std::arch::asm;

/// Sums beside each other: an instruction takes three to four cycles, and up to four begin in each.
const CHAINS: usize = 16;

pub(super) const INT8_OPERATIONS_A_ROUND: usize = 2 * 16 * CHAINS;

/// Only where the machine has the products.
pub(super) fn int8_rounds(rounds: usize) {
    #[target_feature(enable = "neon,dotprod")]
    fn int8(rounds: usize) {
        // SAFETY: the instructions are enabled, and touch registers only.
        unsafe {
            asm!(
                "cbz {rounds}, 3f",
                "2:",
                "sdot v0.4s, v16.16b, v17.16b",
                "sdot v1.4s, v16.16b, v17.16b",
                "sdot v2.4s, v16.16b, v17.16b",
                "sdot v3.4s, v16.16b, v17.16b",
                "sdot v4.4s, v16.16b, v17.16b",
                "sdot v5.4s, v16.16b, v17.16b",
                "sdot v6.4s, v16.16b, v17.16b",
                "sdot v7.4s, v16.16b, v17.16b",
                "sdot v8.4s, v16.16b, v17.16b",
                "sdot v9.4s, v16.16b, v17.16b",
                "sdot v10.4s, v16.16b, v17.16b",
                "sdot v11.4s, v16.16b, v17.16b",
                "sdot v12.4s, v16.16b, v17.16b",
                "sdot v13.4s, v16.16b, v17.16b",
                "sdot v14.4s, v16.16b, v17.16b",
                "sdot v15.4s, v16.16b, v17.16b",
                "subs {rounds}, {rounds}, 1",
                "b.ne 2b",
                "3:",
                rounds = inout(reg) rounds => _,
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _,
                out("v7") _, out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _,
                out("v13") _, out("v14") _, out("v15") _, out("v16") _, out("v17") _,
                options(nomem, nostack),
            );
        }
    }
    // SAFETY: the caller has looked for the instructions.
    unsafe { int8(rounds) }
}
