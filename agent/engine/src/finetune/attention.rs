//! Causal attention forwards and backwards over samples that lie one behind the other. Heads are kept apart, `[heads, tokens,
//! head_dim]`; scores exist for a few queries at a time.

use std::ops::Range;

use llmdeck_kernels::Pool;
use llmdeck_kernels::dense::{Into, View, ViewMut, multiply};
use llmdeck_kernels::elementwise::add;
use llmdeck_kernels::gradients::{softmax, softmax_backward};

/// Queries whose scores exist at a time.
const QUERIES: usize = 64;

/// What the heads of a layer look like.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    pub(crate) query: usize,
    pub(crate) kv: usize,
    pub(crate) dim: usize,
    /// A token sees itself and the `window - 1` before it; `None` sees all.
    pub(crate) window: Option<usize>,
    /// Which tokens are a sample.
    pub(crate) samples: &'a [Range<usize>],
    /// In all.
    pub(crate) tokens: usize,
}

impl<'a> Heads<'a> {
    fn head<'n>(&self, numbers: &'n [f32], head: usize, sample: &Range<usize>) -> &'n [f32] {
        let first = head * self.tokens + sample.start;
        &numbers[first * self.dim..][..sample.len() * self.dim]
    }

    /// One part for each query head and sample.
    fn split<'n>(&self, numbers: &'n mut [f32]) -> Vec<&'n mut [f32]> {
        let mut parts = Vec::with_capacity(self.query * self.samples.len());
        for head in numbers.chunks_exact_mut(self.tokens * self.dim) {
            let mut rest = head;
            for sample in self.samples {
                let (part, behind) = rest.split_at_mut(sample.len() * self.dim);
                parts.push(part);
                rest = behind;
            }
        }
        parts
    }

    fn place(&self, part: usize) -> (usize, &'a Range<usize>) {
        (part / self.samples.len(), &self.samples[part % self.samples.len()])
    }

    /// Keys that some of these queries see.
    fn keys(&self, queries: &Range<usize>) -> Range<usize> {
        let first = self.window.map_or(0, |window| (queries.start + 1).saturating_sub(window));
        first..queries.end
    }

    /// What each query gives to each key.
    fn probabilities(&self, q: &[f32], k: &[f32], queries: &Range<usize>, scores: &mut Vec<f32>) {
        let (keys, dim) = (self.keys(queries), self.dim);
        scores.resize(queries.len() * keys.len(), 0.0);
        let out = ViewMut::new(scores, queries.len(), keys.len(), keys.len());
        let rows =
            |numbers, range: &Range<usize>| View::new(part(numbers, range, dim), range.len(), dim, dim);
        multiply(out, Into::Replace, 1.0, rows(q, queries), rows(k, &keys).transposed());
        for (query, row) in queries.clone().zip(scores.chunks_exact_mut(keys.len())) {
            let seen = self.keys(&(query..query + 1));
            row[..seen.start - keys.start].fill(f32::NEG_INFINITY);
            row[seen.end - keys.start..].fill(f32::NEG_INFINITY);
            softmax(row);
        }
    }
}

fn part<'n>(numbers: &'n [f32], range: &Range<usize>, dim: usize) -> &'n [f32] {
    &numbers[range.start * dim..range.end * dim]
}

fn blocks(tokens: usize) -> impl Iterator<Item = Range<usize>> {
    (0..tokens).step_by(QUERIES).map(move |first| first..(first + QUERIES).min(tokens))
}

/// Writes what every query head sees, `[query heads, tokens, head_dim]`.
pub(crate) fn attend(pool: &Pool, heads: Heads<'_>, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let (dim, group) = (heads.dim, heads.query / heads.kv);
    let mut parts: Vec<(usize, &mut [f32])> = heads.split(out).into_iter().enumerate().collect();
    pool.run_each(&mut parts, |(index, out)| {
        let (head, sample) = heads.place(*index);
        let q = heads.head(q, head, sample);
        let (k, v) = (heads.head(k, head / group, sample), heads.head(v, head / group, sample));
        let mut scores = Vec::new();
        for queries in blocks(sample.len()) {
            heads.probabilities(q, k, &queries, &mut scores);
            let keys = heads.keys(&queries);
            let values = View::new(part(v, &keys, dim), keys.len(), dim, dim);
            let seen = View::new(&scores, queries.len(), keys.len(), keys.len());
            let out = ViewMut::new(&mut out[queries.start * dim..], queries.len(), dim, dim);
            multiply(out, Into::Replace, 1.0, seen, values);
        }
    });
}

/// Gradients of queries, keys and values.
pub(crate) struct HeadGradients<'a> {
    /// `[query heads, tokens, head_dim]`
    pub(crate) q: &'a mut Vec<f32>,
    /// `[kv heads, tokens, head_dim]`
    pub(crate) k: &'a mut Vec<f32>,
    /// As `k`.
    pub(crate) v: &'a mut Vec<f32>,
}

/// Backward of [`attend`]: `d_out` has what every query head's output is worth, token by token, `[tokens, query heads *
/// head_dim]`.
pub(crate) fn attend_backward(
    pool: &Pool,
    heads: Heads<'_>,
    (q, k, v): (&[f32], &[f32], &[f32]),
    d_out: &[f32],
    gradients: HeadGradients<'_>,
) {
    let (dim, group) = (heads.dim, heads.query / heads.kv);
    let (of_queries, of_keys) = (heads.query * heads.tokens * dim, heads.kv * heads.tokens * dim);
    gradients.q.resize(of_queries, 0.0);
    // Query heads that share keys run beside each other; what they say of them is added up behind.
    let (mut d_k, mut d_v) = (vec![0.0; of_queries], vec![0.0; of_queries]);
    let mut parts: Vec<_> = heads
        .split(gradients.q)
        .into_iter()
        .zip(heads.split(&mut d_k).into_iter().zip(heads.split(&mut d_v)))
        .enumerate()
        .collect();
    pool.run_each(&mut parts, |(index, (d_q, (d_k, d_v)))| {
        let (head, sample) = heads.place(*index);
        let q = heads.head(q, head, sample);
        let (k, v) = (heads.head(k, head / group, sample), heads.head(v, head / group, sample));
        let stride = heads.query * dim;
        let (mut scores, mut d_scores) = (Vec::new(), Vec::new());
        for queries in blocks(sample.len()) {
            heads.probabilities(q, k, &queries, &mut scores);
            let keys = heads.keys(&queries);
            let (rows, columns) = (queries.len(), keys.len());
            let first = (sample.start + queries.start) * stride + head * dim;
            let d_out = View::new(&d_out[first..], rows, dim, stride);
            let of_keys = |numbers| View::new(part(numbers, &keys, dim), columns, dim, dim);
            let to_keys = keys.start * dim..keys.end * dim;
            d_scores.resize(rows * columns, 0.0);
            let out = ViewMut::new(&mut d_scores, rows, columns, columns);
            multiply(out, Into::Replace, 1.0, d_out, of_keys(v).transposed());
            let out = ViewMut::new(&mut d_v[to_keys.clone()], columns, dim, dim);
            multiply(out, Into::Add, 1.0, View::new(&scores, rows, columns, columns).transposed(), d_out);
            for (gradients, row) in d_scores.chunks_exact_mut(columns).zip(scores.chunks_exact(columns)) {
                softmax_backward(row, gradients);
            }
            let d_scores = View::new(&d_scores, rows, columns, columns);
            let out = ViewMut::new(&mut d_q[queries.start * dim..], rows, dim, dim);
            multiply(out, Into::Replace, 1.0, d_scores, of_keys(k));
            let queries = View::new(part(q, &queries, dim), rows, dim, dim);
            let out = ViewMut::new(&mut d_k[to_keys], columns, dim, dim);
            multiply(out, Into::Add, 1.0, d_scores.transposed(), queries);
        }
    });
    sum_groups(pool, &d_k, group, heads.tokens * dim, of_keys, gradients.k);
    sum_groups(pool, &d_v, group, heads.tokens * dim, of_keys, gradients.v);
}

fn sum_groups(pool: &Pool, parts: &[f32], group: usize, head: usize, size: usize, sums: &mut Vec<f32>) {
    sums.resize(size, 0.0);
    let mut heads: Vec<(&mut [f32], &[f32])> =
        sums.chunks_exact_mut(head).zip(parts.chunks_exact(head * group)).collect();
    pool.run_each(&mut heads, |(sum, parts)| {
        sum.copy_from_slice(&parts[..head]);
        parts[head..].chunks_exact(head).for_each(|part| add(sum, part));
    });
}
