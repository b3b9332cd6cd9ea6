//! Products of bfloat16 with AMX: eight registers of 16 lines each. The compiler does not know them yet, so that they
//! stand in assembly.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid_count, __m512, _mm512_castsi512_ps, _mm512_load_si512, _mm512_loadu_si512,
    _mm512_mask_permutexvar_epi8, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_store_si512, _mm512_sub_ps,
};
use std::marker::PhantomData;
use std::ops::Range;

use super::ahead::Ahead;
use super::avx512::{group_words, scales_of};
use super::bfloat16::{RowTiles, Sums, Weights, multiply_plain};
use super::formats::{Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0, layout_of};
use crate::WeightFormat;
use crate::bfloat16::avx512::{rounded, side_by_side};
use crate::bfloat16_rows::TILE_ROWS;
use crate::format::{BLOCK, GROUPS};
use crate::line::{Line, PANEL_ROWS};

/// Linux hands out the registers only to processes that have asked (`Documentation/arch/x86/xstate.rst`).
const ARCH_REQ_XCOMP_PERM: nix::libc::c_ulong = 0x1023;
const XFEATURE_XTILEDATA: nix::libc::c_ulong = 18;

/// Whether this process may use the instructions, and they give what the plain products give.
pub(crate) fn works() -> bool {
    is_there() && is_allowed() && is_right()
}

/// Intel's Instruction Set Reference, `CPUID`, leaf 7: AMX-BF16 and AMX-TILE.
fn is_there() -> bool {
    const WANTED: u32 = 1 << 22 | 1 << 24;
    let most = __cpuid_count(0, 0).eax;
    most >= 7 && __cpuid_count(7, 0).edx & WANTED == WANTED
}

fn is_allowed() -> bool {
    // SAFETY: a request that changes nothing but what the process may do; threads that exist get it as well.
    unsafe { nix::libc::syscall(nix::libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// What a virtual machine names need not work.
fn is_right() -> bool {
    const BLOCKS: usize = 3;
    let mut state = 1u32;
    let mut line = || {
        let mut line = Line::default();
        for word in &mut line.0 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Two numbers between an eighth and four, of either sign.
            *word = state & 0x81ff_81ff | 0x3e00_3e00;
        }
        line
    };
    let mut rows = [[[Line::default(); TILE_ROWS]; BLOCKS]; 2];
    rows.as_flattened_mut().as_flattened_mut().fill_with(&mut line);
    let rows = [&rows[0][..], &rows[1][..]];
    let mut weights = [Weights::default(); BLOCKS];
    weights.as_flattened_mut().as_flattened_mut().fill_with(line);
    let (mut ours, mut plain) = (Sums::default(), Sums::default());
    for fresh in [true, false] {
        // SAFETY: the sums have room for all.
        unsafe { Unit::take().multiply(rows, &weights, fresh, ours.as_mut_ptr().cast(), ours[0].len()) };
        multiply_plain(rows, &weights, &mut plain);
    }
    ours == plain
}

/// The tile registers of a core, set to 16 lines of 64 bytes each.
pub(crate) struct Unit {
    /// They are those of the thread that took them.
    _of_this_thread: PhantomData<*const ()>,
}

/// As `LDTILECFG` reads it: the palette, bytes of a line by register, lines by register.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    line_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    lines: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Fetches four lines of the next block's weights, which come from further away than the rows do. All at once they would hold up the
/// loads of this block.
macro_rules! next_weights {
    ($at:literal) => {
        concat!(
            next_weights!(@line $at, 2048), next_weights!(@line $at, 2112),
            next_weights!(@line $at, 2176), next_weights!(@line $at, 2240),
        )
    };
    (@line $at:literal, $ahead:literal) => {
        concat!("prefetcht0 [{weights} + ", $at, " + ", $ahead, "]\n")
    };
}

impl Unit {
    /// Only where [`works`] has looked, or looks.
    pub(crate) fn take() -> Self {
        // SAFETY: the instructions are there, and the configuration is 64 bytes of a form that they take.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) };
        Self { _of_this_thread: PhantomData }
    }

    /// The twin of [`multiply_plain`]; `fresh` sums begin at zero.
    ///
    /// # Safety
    /// `sums` is where the first of 32 rows of 32 numbers begins, `stride` numbers from each to the next.
    pub(super) unsafe fn multiply(
        &mut self,
        rows: RowTiles<'_>,
        weights: &[Weights],
        fresh: bool,
        sums: *mut f32,
        stride: usize,
    ) {
        assert!(!weights.is_empty(), "there is nothing to multiply with");
        assert!(
            rows.iter().all(|tile| tile.len() == weights.len()),
            "tiles and weights do not fit each other"
        );
        // SAFETY: the registers are configured; each tile of rows has as many blocks, of 1,024 bytes, as there are weights, of 2,048
        // bytes; the caller has room for the sums.
        unsafe {
            asm!(
                "test {fresh:e}, {fresh:e}",
                "jz 2f",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "jmp 3f",
                "2:",
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 64]",
                "tileloadd tmm2, [{below} + {stride}]",
                "tileloadd tmm3, [{below} + {stride} + 64]",
                "3:",
                "tileloadd tmm4, [{upper} + {line}]",
                next_weights!(0),
                "tileloadd tmm6, [{weights} + {line}]",
                next_weights!(256),
                "tileloadd tmm7, [{weights} + {line} + 1024]",
                next_weights!(512),
                "tileloadd tmm5, [{lower} + {line}]",
                next_weights!(768),
                "tdpbf16ps tmm0, tmm4, tmm6",
                next_weights!(1024),
                "tdpbf16ps tmm1, tmm4, tmm7",
                next_weights!(1280),
                "tdpbf16ps tmm2, tmm5, tmm6",
                next_weights!(1536),
                "tdpbf16ps tmm3, tmm5, tmm7",
                next_weights!(1792),
                "add {upper}, 1024",
                "add {lower}, 1024",
                "add {weights}, 2048",
                "dec {blocks}",
                "jnz 3b",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                "tilestored [{below} + {stride}], tmm2",
                "tilestored [{below} + {stride} + 64], tmm3",
                fresh = in(reg) u32::from(fresh),
                sums = in(reg) sums,
                below = in(reg) sums.wrapping_add(TILE_ROWS * stride),
                stride = in(reg) stride * size_of::<f32>(),
                line = in(reg) size_of::<Line>(),
                upper = inout(reg) rows[0].as_ptr() => _,
                lower = inout(reg) rows[1].as_ptr() => _,
                weights = inout(reg) weights.as_ptr() => _,
                blocks = inout(reg) weights.len() => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: the registers are this thread's, and nothing in them is wanted.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// The weights of some blocks of a panel, as the first or the second of two; the twin of `unpack_plain`.
pub(super) fn unpack(
    format: WeightFormat,
    panel: &[Line],
    blocks: Range<usize>,
    out: &mut [Weights],
    place: usize,
) {
    // SAFETY: machines with AMX's bfloat16 have all of these.
    unsafe {
        match format {
            WeightFormat::BF16 => unpack_pairs(panel, blocks, out, place),
            WeightFormat::Q4_0 => unpack_quants::<Q4_0>(panel, blocks, out, place),
            WeightFormat::Q5_0 => unpack_quants::<Q5_0>(panel, blocks, out, place),
            WeightFormat::Q8_0 => unpack_quants::<Q8_0>(panel, blocks, out, place),
            WeightFormat::Q4K => unpack_quants::<Q4K>(panel, blocks, out, place),
            WeightFormat::Q5K => unpack_quants::<Q5K>(panel, blocks, out, place),
            WeightFormat::Q6K => unpack_quants::<Q6K>(panel, blocks, out, place),
            WeightFormat::F32 | WeightFormat::F16 => unreachable!("{format:?} has no products of bfloat16"),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn unpack_pairs(panel: &[Line], blocks: Range<usize>, out: &mut [Weights], place: usize) {
    for (block, weights) in blocks.zip(out) {
        let tile = &mut weights[place];
        for (pair, line) in tile.iter_mut().enumerate() {
            let Some(halves) = panel.get(block * BLOCK / 2 + pair) else {
                *line = Line::default();
                continue;
            };
            // SAFETY: lines are registers.
            unsafe {
                let halves = _mm512_load_si512((&raw const *halves).cast());
                _mm512_store_si512((&raw mut *line).cast(), side_by_side(halves));
            }
        }
    }
}

/// Where the numbers of eight outputs come from that are rounded together, two neighbours of each: which lane of the outputs', and
/// which byte of the outputs' words, for the first or the second half of the outputs and the first or the second two of a word's four.
struct Order {
    outputs: [[i32; PANEL_ROWS]; 2],
    bytes: [[[u8; 4 * PANEL_ROWS]; 2]; 2],
}

const ORDER: Order = {
    let mut order = Order { outputs: [[0; PANEL_ROWS]; 2], bytes: [[[0; 4 * PANEL_ROWS]; 2]; 2] };
    let mut index = 0;
    while index < 2 * 2 * PANEL_ROWS {
        let (pair, half, lane) = (index / (2 * PANEL_ROWS), index / PANEL_ROWS % 2, index % PANEL_ROWS);
        let output = half * PANEL_ROWS / 2 + lane / 2;
        order.outputs[half][lane] = output as i32;
        order.bytes[pair][half][4 * lane] = (4 * output + 2 * pair + lane % 2) as u8;
        index += 1;
    }
    order
};

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16,avx2,fma,f16c"
)]
fn unpack_quants<const F: u8>(panel: &[Line], blocks: Range<usize>, out: &mut [Weights], place: usize) {
    /// A whole number below 2^23 as the bits of a float: this much more.
    const MAGIC: f32 = 8_388_608.0;
    /// The lowest byte of each word.
    const LOWEST: u64 = 0x1111_1111_1111_1111;
    const { assert!(BLOCK == 4 * GROUPS) };
    let layout = layout_of(F);
    let magic = _mm512_set1_epi32(MAGIC.to_bits().cast_signed());
    let taken_off = _mm512_set1_ps(MAGIC + layout.offset as f32);
    // SAFETY: each of these is a register.
    let outputs = unsafe { [0, 1].map(|half| _mm512_loadu_si512(ORDER.outputs[half].as_ptr().cast())) };
    // SAFETY: as above.
    let bytes = unsafe {
        [0, 1].map(|pair: usize| {
            [0, 1].map(|half: usize| _mm512_loadu_si512(ORDER.bytes[pair][half].as_ptr().cast()))
        })
    };
    for (block, weights) in blocks.zip(out) {
        let tile = &mut weights[place];
        let unit = &panel[block / layout.unit_blocks * layout.unit_lines()..][..layout.unit_lines()];
        let (unit, block) = (unit.as_ptr(), block % layout.unit_blocks);
        // SAFETY: the unit has all its lines, and lines are registers.
        unsafe {
            let lines = unit.add(layout.scale_lines + block * layout.quant_lines);
            // Only Intel's have these tiles.
            Ahead::Early.fetch(lines, layout.quant_lines);
            let by_halves = |of_outputs: (__m512, __m512)| {
                let of_half = |half: usize| {
                    let lanes = outputs[half];
                    (_mm512_permutexvar_ps(lanes, of_outputs.0), _mm512_permutexvar_ps(lanes, of_outputs.1))
                };
                [of_half(0), of_half(1)]
            };
            let mut scales = by_halves(scales_of::<F>(unit, block, 0));
            for group in 0..GROUPS {
                if F == Q6K && group == GROUPS / 2 {
                    scales = by_halves(scales_of::<F>(unit, block, 1));
                }
                let words = group_words::<F>(lines, group);
                let numbers = |pair: usize, half: usize| -> __m512 {
                    let quants = _mm512_mask_permutexvar_epi8(magic, LOWEST, bytes[pair][half], words);
                    let quants = _mm512_sub_ps(_mm512_castsi512_ps(quants), taken_off);
                    let (scale, minimum) = scales[half];
                    let scaled = _mm512_mul_ps(quants, scale);
                    if F == Q4K || F == Q5K { _mm512_sub_ps(scaled, minimum) } else { scaled }
                };
                for pair in 0..2 {
                    let line = &raw mut tile[2 * group + pair];
                    _mm512_store_si512(line.cast(), rounded(numbers(pair, 0), numbers(pair, 1)));
                }
            }
        }
    }
}
