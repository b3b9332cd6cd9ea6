//! What the machine can do at most, measured: how fast all threads of a pool read memory and multiply. Products of the
//! engine are held against these.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::zeroed::Zeroed;
use crate::{Isa, Pool};

/// Each figure is the best of this many tries: what disturbs a try makes it slower, never faster.
const TRIES: usize = 5;
/// How long a try of arithmetic takes, about.
const TRY: Duration = Duration::from_millis(30);
/// Pieces that each thread's share is cut into, so that one that is held up does not hold up the end.
const PIECES_A_THREAD: usize = 8;
/// Rounds in a piece of arithmetic at first.
const FIRST_ROUNDS: usize = 1 << 14;

/// Bytes a second that all threads read together, through `bytes` of memory: take several times the caches.
///
/// # Errors
/// When the system has not so much memory.
pub fn memory_read_bytes_per_s(pool: &Pool, bytes: usize) -> std::io::Result<f64> {
    let words = {
        let mut words = Zeroed::<u64>::new(bytes.div_ceil(size_of::<u64>()).max(1))?;
        // Zero pages are all one and the same until they are written.
        let piece = words.len().div_ceil(pool.threads() * PIECES_A_THREAD);
        let mut pieces: Vec<&mut [u64]> = words.chunks_mut(piece).collect();
        pool.run_each(&mut pieces, |words| words.fill(1));
        words
    };
    let piece = words.len().div_ceil(pool.threads() * PIECES_A_THREAD);
    let pieces: Vec<&[u64]> = words.chunks(piece).collect();
    let seconds = best(|| {
        pool.run(pieces.len(), |index| {
            black_box(plain::sum(pieces[index]));
        });
    });
    Ok((words.len() * size_of::<u64>()) as f64 / seconds)
}

/// Operations a second of products of 8-bit numbers summed in 32 bits, a multiplication and an addition each one.
pub fn int8_operations_per_s(pool: &Pool) -> f64 {
    match Isa::widest() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Amx => {
            operations_per_s(pool, avx512::INT8_OPERATIONS_A_ROUND, avx512::int8_rounds)
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => operations_per_s(pool, neon::INT8_OPERATIONS_A_ROUND, neon::int8_rounds),
        _ => operations_per_s(pool, plain::INT8_OPERATIONS_A_ROUND, plain::int8_rounds),
    }
}

/// The same of 32-bit floats.
pub fn f32_operations_per_s(pool: &Pool) -> f64 {
    match Isa::widest() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Amx => {
            operations_per_s(pool, avx512::F32_OPERATIONS_A_ROUND, avx512::f32_rounds)
        }
        _ => operations_per_s(pool, plain::F32_OPERATIONS_A_ROUND, plain::f32_rounds),
    }
}

/// The same of bfloat16 summed in 32 bits; `None` where the machine has no instruction for it.
pub fn bf16_operations_per_s(pool: &Pool) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if Isa::widest() == Isa::Amx {
        return Some(operations_per_s(pool, amx::BF16_OPERATIONS_A_ROUND, amx::bf16_rounds));
    }
    #[cfg(target_arch = "x86_64")]
    if avx512::has_bf16() {
        return Some(operations_per_s(pool, avx512::BF16_OPERATIONS_A_ROUND, avx512::bf16_rounds));
    }
    let _ = pool;
    None
}

fn operations_per_s(pool: &Pool, operations_a_round: usize, rounds: fn(usize)) -> f64 {
    let pieces = pool.threads() * PIECES_A_THREAD;
    let mut count = FIRST_ROUNDS;
    let once = |count: usize| {
        let began = Instant::now();
        pool.run(pieces, |_| rounds(black_box(count)));
        began.elapsed()
    };
    while once(count) < TRY {
        count *= 2;
    }
    let seconds = best(|| {
        once(count);
    });
    (pieces * count * operations_a_round) as f64 / seconds
}

fn best(mut work: impl FnMut()) -> f64 {
    let seconds = (0..TRIES).map(|_| {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::{
        bf16_operations_per_s, f32_operations_per_s, int8_operations_per_s, memory_read_bytes_per_s,
    };
    use crate::Pool;

    /// Orders of magnitude of any machine that this runs on: a loop that the compiler had thrown away would be far above.
    #[test]
    #[cfg_attr(miri, ignore = "an interpreter has no speed to speak of")]
    fn figures_are_those_of_a_machine() {
        let pool = Pool::new(2).unwrap();
        let memory = memory_read_bytes_per_s(&pool, 64 << 20).unwrap();
        assert!((1e8..1e13).contains(&memory), "{memory:e}");
        for figure in [int8_operations_per_s(&pool), f32_operations_per_s(&pool)] {
            assert!((1e7..1e14).contains(&figure), "{figure:e}");
        }
        assert!(bf16_operations_per_s(&pool).is_none_or(|figure| (1e8..1e15).contains(&figure)));
        assert!(memory_read_bytes_per_s(&pool, usize::MAX).is_err());
    }
}
