use std::ops::Range;

use super::Product;
use crate::line::PANEL_ROWS;
use crate::{Pool, Rows};

/// Products of numbers below which one thread is quicker than several.
const LEAST_SHARED_PRODUCTS: usize = 1 << 18;
/// Most panels of a portion.
const MOST_PANELS: usize = 64;

/// What each task multiplies: a product, and some of its panels, in pairs.
pub(super) struct Portions<'a> {
    portions: Vec<(Product<'a>, Range<usize>)>,
    /// Whether there is too little to share.
    few: bool,
}

/// Cuts products into many panels at first, so that rows are read a few times only, and then into fewer and fewer, so that no thread
/// waits long for a slow one.
pub(super) fn portions<'a>(pool: &Pool, rows: &Rows, products: &[Product<'a>]) -> Portions<'a> {
    let mut left: usize = products.iter().map(|product| product.matrix.panels()).sum();
    let few = rows.count() * left * PANEL_ROWS * rows.columns() < LEAST_SHARED_PRODUCTS;
    let mut portions = Vec::new();
    for product in products {
        let (panels, mut first) = (product.matrix.panels(), 0);
        while first < panels {
            let share = (left / (2 * pool.threads())).next_multiple_of(2).clamp(2, MOST_PANELS);
            let portion = first..(first + share).min(panels);
            (first, left) = (portion.end, left - portion.len());
            portions.push((*product, portion));
        }
    }
    Portions { portions, few }
}

impl<'a> Portions<'a> {
    /// Calls `work` with each, on any thread.
    pub(super) fn run(&self, pool: &Pool, work: impl Fn(Product<'a>, Range<usize>) + Sync) {
        let each = |(product, panels): &(Product<'a>, Range<usize>)| work(*product, panels.clone());
        if self.few {
            self.portions.iter().for_each(each);
        } else {
            pool.run(self.portions.len(), |index| each(&self.portions[index]));
        }
    }
}
