//! Causal attention of ragged sequences over keys and values in blocks, with the softmax computed online (Milakov and
//! Gimelshein 2018; Dao et al. 2022). A row's result does not depend on the rows beside it.

mod bfloat16;
mod kernel;
mod softmax;
mod store;
mod stored;
mod unpack;
mod vector;

pub use store::{BLOCK_TOKENS, CacheFormat, KeyValueStore};
pub(crate) use store::{byte_of, scale_of};

use crate::format::BLOCK;
use crate::matmul::bfloat16::SIDE;
use crate::{Isa, Pool, Rows};

/// New tokens of one sequence, whose keys and values are in the store already.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Blocks of the sequence, in order. Those that lie before the window are not looked at.
    pub blocks: &'a [u32],
    /// Position of the first new token in the sequence.
    pub position: usize,
    /// New tokens.
    pub count: usize,
    /// Row of the first new token among the queries.
    pub row: usize,
    /// How many of the first new tokens ask for bfloat16.
    pub bfloat16_tokens: usize,
}

impl Span<'_> {
    /// New tokens that ask for bfloat16.
    fn asking(&self) -> usize {
        self.bfloat16_tokens.min(self.count)
    }
}

/// The shape of a layer's attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads, a multiple of the key and value heads.
    pub query: usize,
    /// A token sees itself and the `window - 1` before it; `None` sees all.
    pub window: Option<usize>,
}

/// Queries in rows of `stride` numbers that begin with `[query heads, head_dim]`, rotated and scaled.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// All rows.
    pub rows: &'a [f32],
    /// Numbers from one row to the next.
    pub stride: usize,
}

/// What is attended to, and who does.
#[derive(Clone, Copy)]
struct Attention<'a> {
    store: &'a KeyValueStore,
    heads: Heads,
    queries: Queries<'a>,
}

/// Products below which one thread is quicker than several.
const LEAST_SHARED_NUMBERS: usize = 1 << 16;
/// Query rows that one task computes together: as many as the registers have room for.
const MOST_TILE: usize = 8;

fn tile_of(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Amx => MOST_TILE,
        _ => MOST_TILE / 2,
    }
}

/// Writes `[rows, query heads * head_dim]` to `out` and rounds them. Of rows that ask for bfloat16, which are those that the spans say,
/// floats are kept only where that is wanted.
///
/// # Panics
/// When shapes do not fit, other rows ask, or a block is missing: those are bugs of the caller.
pub fn attend(
    pool: &Pool,
    store: &KeyValueStore,
    heads: Heads,
    queries: Queries<'_>,
    spans: &[Span<'_>],
    keep_floats: bool,
    out: &mut Rows,
) {
    attend_with(Isa::widest(), pool, Attention { store, heads, queries }, spans, keep_floats, out);
}

/// A few of a span's query rows that share a head of keys.
#[derive(Clone, Copy)]
struct Task<'a> {
    span: Span<'a>,
    kv_head: usize,
    /// First of the rows, counted token by token, query head by query head.
    first: usize,
    /// A power of two, but for rows that ask for bfloat16.
    count: usize,
    /// Of rows that ask for bfloat16: how many do before the span.
    asking_before: Option<usize>,
}

fn attend_with(
    isa: Isa,
    pool: &Pool,
    of: Attention<'_>,
    spans: &[Span<'_>],
    keep_floats: bool,
    out: &mut Rows,
) {
    let Attention { store, heads, queries } = of;
    let (dim, width) = (store.head_dim(), heads.query * store.head_dim());
    let group = heads.query / store.kv_heads();
    let rows = spans.iter().map(|span| span.row + span.count).max().unwrap_or(0);
    assert!(out.count() >= rows && out.columns() == width, "the output is too small");
    assert!(queries.stride >= width && queries.rows.len() >= rows * queries.stride, "queries are missing");
    assert!(group * store.kv_heads() == heads.query, "query heads do not share the key heads evenly");
    let asking = spans.iter().map(|span| span.row..span.row + span.asking()).filter(|rows| !rows.is_empty());
    assert!(asking.eq(out.bfloat16.asking().iter().cloned()), "other rows ask for bfloat16");
    let tasks = tasks(isa, pool, store.kv_heads(), group, spans);
    // A head's numbers are whole blocks, or else blocks have numbers of two.
    let round_at_once = !keep_floats && dim.is_multiple_of(BLOCK);
    let (floats, blocks) = out.floats_and_blocks();
    // A few numbers are not worth waking a thread for.
    let numbers: usize =
        spans.iter().map(|span| span.count * (span.position + span.count)).sum::<usize>() * width;
    let turns = if numbers < LEAST_SHARED_NUMBERS { 1 } else { pool.threads() * 8 };
    let tasks_a_turn = tasks.len().div_ceil(turns).max(1);
    let run = |task: &Task<'_>| {
        let place = |index: usize| {
            let (token, head) = ((task.first + index) / group, (task.first + index) % group);
            (token, task.kv_head * group + head)
        };
        let put = |index: usize, numbers: &[f32]| {
            let (token, head) = place(index);
            let at = (task.span.row + token) * width + head * dim;
            // SAFETY: the place lies within `rows * width` numbers, which the output has; no other task has this row and
            // head.
            unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr(), floats.at(at), dim) };
        };
        match task.asking_before {
            Some(before) if round_at_once => bfloat16::run(isa, of, *task, |index, numbers| {
                let (token, head) = place(index);
                // SAFETY: no other task has this row and head.
                unsafe { blocks.round(before + token, head * dim / BLOCK, numbers) };
            }),
            Some(_) => bfloat16::run(isa, of, *task, put),
            None => kernel::run(isa, of, *task, put),
        }
    };
    // Those that see most come last: begin with them, so that none is left to wait for.
    let turns = tasks.len().div_ceil(tasks_a_turn);
    pool.run(turns, |turn| {
        tasks.iter().skip((turns - 1 - turn) * tasks_a_turn).take(tasks_a_turn).for_each(run);
    });
    out.round(pool, |row| !(round_at_once && row.asks_for_bfloat16()));
}

fn tasks<'a>(isa: Isa, pool: &Pool, kv_heads: usize, group: usize, spans: &[Span<'a>]) -> Vec<Task<'a>> {
    let mut tasks = Vec::new();
    let all: usize = spans.iter().map(|span| span.count * kv_heads * group).sum();
    let tile = tile_of(isa);
    let tile = if all / tile >= pool.threads() { tile } else { 1 };
    let asking: usize = spans.iter().map(|span| span.asking() * kv_heads * group).sum();
    let most_asking = (asking / (pool.threads() * 4)).next_multiple_of(SIDE).clamp(SIDE, bfloat16::MOST_ROWS);
    let mut asking_before = 0;
    for span in spans {
        let seen = (span.position + span.count).div_ceil(BLOCK_TOKENS);
        assert!(span.blocks.len() >= seen, "a sequence has fewer blocks than tokens");
        for kv_head in 0..kv_heads {
            let asking = span.asking() * group;
            for first in (0..asking).step_by(most_asking) {
                let (count, asking_before) = (most_asking.min(asking - first), Some(asking_before));
                tasks.push(Task { span: *span, kv_head, first, count, asking_before });
            }
            let (mut first, units) = (asking, span.count * group);
            while first < units {
                let count = 1 << tile.min(units - first).ilog2();
                tasks.push(Task { span: *span, kv_head, first, count, asking_before: None });
                first += count;
            }
        }
        asking_before += span.asking();
    }
    tasks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::{Attention, BLOCK_TOKENS, CacheFormat, Heads, KeyValueStore, Queries, Span, attend_with};
    use crate::sizes::most;
    use crate::{Isa, Pool, Rows};

    struct Case {
        store: KeyValueStore,
        tables: Vec<Vec<u32>>,
        /// Keys and values by sequence and position, as the store rounds them.
        tokens: Vec<Vec<(Vec<f32>, Vec<f32>)>>,
    }

    fn case(
        format: CacheFormat,
        lengths: &[usize],
        kv_heads: usize,
        head_dim: usize,
        rng: &mut StdRng,
    ) -> Case {
        let blocks: usize = lengths.iter().map(|length| length.div_ceil(BLOCK_TOKENS)).sum();
        let mut store = KeyValueStore::new(format, blocks + 1, kv_heads, head_dim).unwrap();
        // What an earlier sequence left must not matter.
        let pool = Pool::new(2).unwrap();
        let poison = vec![f32::NAN; 2 * kv_heads * head_dim * BLOCK_TOKENS];
        for block in 0..=blocks as u32 {
            let places: Vec<_> = (0..BLOCK_TOKENS).map(|slot| (block, slot)).collect();
            store.write(&pool, &places, &poison, 2 * kv_heads * head_dim, 0);
        }
        let mut next = blocks as u32;
        let (mut tables, mut tokens) = (Vec::new(), Vec::new());
        for length in lengths {
            let table: Vec<u32> = (0..length.div_ceil(BLOCK_TOKENS))
                .map(|_| {
                    next -= 1;
                    next + 1
                })
                .collect();
            let mut random =
                || (0..kv_heads * head_dim).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<_>>();
            let all: Vec<_> = (0..*length).map(|_| (random(), random())).collect();
            let places: Vec<_> = (0..*length)
                .map(|position| (table[position / BLOCK_TOKENS], position % BLOCK_TOKENS))
                .collect();
            let rows: Vec<f32> =
                all.iter().flat_map(|(keys, values)| [&[0.5][..], keys, values].concat()).collect();
            store.write(&pool, &places, &rows, 1 + 2 * kv_heads * head_dim, 1);
            tables.push(table);
            tokens.push(all);
        }
        Case { store, tables, tokens }
    }

    fn exact(
        case: &Case,
        sequence: usize,
        position: usize,
        head: (usize, usize),
        query: &[f32],
        window: Option<usize>,
    ) -> Vec<f32> {
        let (kv_head, dim) = head;
        let of = |all: &[f32]| all[kv_head * dim..][..dim].to_vec();
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let seen = &case.tokens[sequence][first..=position];
        let scores: Vec<f64> = seen
            .iter()
            .map(|(key, _)| of(key).iter().zip(query).map(|(k, q)| f64::from(k * q)).sum())
            .collect();
        let peak = scores.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = scores.iter().map(|score| (score - peak).exp()).sum();
        let mut out = vec![0.0f64; dim];
        for (score, (_, value)) in scores.iter().zip(seen) {
            for (out, value) in out.iter_mut().zip(of(value)) {
                *out += (score - peak).exp() / total * f64::from(value);
            }
        }
        out.into_iter().map(|number| number as f32).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn it_is_softmax_attention_over_what_may_be_seen(
            sequences in prop::collection::vec((1..2 * most(35), 1..most(30), 0..most(30)), 1..most(4)), kv_heads in 1usize..3,
            group in 1..most(5), dim in 1..most(8), window in prop::option::of(1..most(40)),
            format in prop::sample::select(vec![CacheFormat::F16, CacheFormat::Bf16, CacheFormat::Int8]),
            seed in any::<u64>(),
        ) {
            let head_dim = dim * 8;
            let mut rng = StdRng::seed_from_u64(seed);
            let lengths: Vec<usize> = sequences.iter().map(|(length, ..)| *length).collect();
            let case = case(format, &lengths, kv_heads, head_dim, &mut rng);
            let query_heads = kv_heads * group;
            let stride = query_heads * head_dim + 3;
            let mut spans = Vec::new();
            let mut row = 0;
            for ((length, count, asking), blocks) in sequences.iter().zip(&case.tables) {
                let count = (*count).min(*length);
                spans.push(Span { blocks, position: length - count, count, row, bfloat16_tokens: *asking });
                row += count;
            }
            let rows: Vec<f32> = (0..row * stride).map(|_| rng.random_range(-1.0..1.0)).collect();
            let queries = Queries { rows: &rows, stride };
            let heads = Heads { query: query_heads, window };
            let width = query_heads * head_dim;
            let of = Attention { store: &case.store, heads, queries };
            let attended = |isa, threads, spans: &[Span<'_>], keep_floats| {
                let mut out = Rows::default();
                out.reshape(row, width);
                let asking: Vec<_> = spans.iter().map(|span| span.row..span.row + span.asking()).collect();
                out.ask_for_bfloat16(&asking);
                attend_with(isa, &Pool::new(threads).unwrap(), of, spans, keep_floats, &mut out);
                out
            };
            let run = |isa, threads, spans: &[Span<'_>]| attended(isa, threads, spans, true).floats().to_vec();
            let plain = run(Isa::Plain, 1, &spans);
            // What is rounded at once is what is rounded afterwards.
            let (kept, rounded) = (attended(Isa::Plain, 1, &spans, true), attended(Isa::widest(), 3, &spans, false));
            prop_assert_eq!(&rounded.words, &kept.words);
            for tile in 0..kept.bfloat16.count().div_ceil(16) {
                let depth = 0..width.div_ceil(32);
                prop_assert_eq!(rounded.bfloat16.tile(tile, depth.clone()), kept.bfloat16.tile(tile, depth));
            }
            for isa in Isa::available() {
                prop_assert_eq!(&run(isa, 3, &spans), &plain, "{:?}", isa);
            }
            // One token at a time gives the same bits as all together.
            let single: Vec<Span<'_>> = spans.iter().flat_map(|span| {
                (0..span.count).map(|token| Span {
                    position: span.position + token, count: 1, row: span.row + token,
                    bfloat16_tokens: span.bfloat16_tokens.saturating_sub(token), ..*span
                })
            }).collect();
            prop_assert_eq!(&run(Isa::widest(), 3, &single), &plain);
            for (sequence, span) in spans.iter().enumerate() {
                for token in 0..span.count {
                    for head in 0..query_heads {
                        let query = &rows[(span.row + token) * stride + head * head_dim..][..head_dim];
                        let exact = exact(&case, sequence, span.position + token, (head / group, head_dim), query, window);
                        let ours = &plain[(span.row + token) * width + head * head_dim..][..head_dim];
                        for (ours, exact) in ours.iter().zip(exact) {
                            let apart = if format == CacheFormat::F16 && token >= span.bfloat16_tokens { 5e-3 } else { 3e-2 };
                            prop_assert!((ours - exact).abs() < apart, "{} {} {:?}", ours, exact, format);
                        }
                    }
                }
            }
        }
    }
}
