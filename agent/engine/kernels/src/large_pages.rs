//! Large pages for what is read from end to end, again and again: a processor looks up one place of 2 MiB, and not 512 of 4 KiB.

use std::sync::OnceLock;

const LARGE_PAGE_BYTES: usize = 2 << 20;
/// What the system's administrator says of large pages: the choice in brackets.
const CHOICE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

static ARE_WANTED: OnceLock<bool> = OnceLock::new();

/// Has the system move the `part`th stretch of 2 MiB of these values into one page, which takes it a millisecond or some; others may read
/// them meanwhile. It is better done behind a load than while the pages are first written: a host that has to find the memory for its
/// guest makes them slow to come. False when there is no such stretch. Where the system has no large pages, or shall not use
/// any, all is as before, only slower to read.
pub(crate) fn gather<T>(values: &[T], part: usize) -> bool {
    let values = values.as_ptr_range();
    let first = (values.start as usize).next_multiple_of(LARGE_PAGE_BYTES) + part * LARGE_PAGE_BYTES;
    if first + LARGE_PAGE_BYTES > values.end as usize {
        return false;
    }
    if are_wanted() {
        collapse(first);
    }
    true
}

fn are_wanted() -> bool {
    *ARE_WANTED
        .get_or_init(|| std::fs::read_to_string(CHOICE).is_ok_and(|choice| !choice.contains("[never]")))
}

/// Whether it has moved.
#[cfg(all(target_os = "linux", not(miri)))]
fn collapse(first: usize) -> bool {
    use nix::libc::{MADV_COLLAPSE, madvise};
    // SAFETY: the stretch is of a slice that the caller borrows, and its contents stay. A system from before Linux 6.1 refuses.
    unsafe { madvise(std::ptr::with_exposed_provenance_mut(first), LARGE_PAGE_BYTES, MADV_COLLAPSE) == 0 }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn collapse(_first: usize) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::{LARGE_PAGE_BYTES, are_wanted, collapse, gather};
    use crate::zeroed::Zeroed;

    const WORDS: usize = LARGE_PAGE_BYTES / size_of::<u64>();

    fn written() -> Zeroed<u64> {
        let mut values = Zeroed::new(4 * WORDS).unwrap();
        values.iter_mut().zip(0..).for_each(|(value, index)| *value = index);
        values
    }

    /// Of the mapping that holds the address, as the system lists it.
    fn kib_in_large_pages(address: usize) -> usize {
        let holds_it = |line: &str| {
            let (first, end) = line.split_once(' ')?.0.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            Some((number(first)?..number(end)?).contains(&address))
        };
        let mappings = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut of_it = mappings.lines().skip_while(|line| holds_it(line) != Some(true));
        let size = of_it.find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
        size.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "nothing moves there, and megabytes take minutes")]
    fn every_stretch_moves_and_nothing_changes() {
        let (others, values) = (written(), written());
        let stretch = (others.as_ptr() as usize).next_multiple_of(LARGE_PAGE_BYTES);
        let can_move = are_wanted() && collapse(stretch);
        let parts = (0..).take_while(|part| gather(&values, *part)).count();
        assert!((3..=4).contains(&parts), "{parts}");
        assert!(values.iter().copied().eq(0..4 * WORDS as u64));
        if can_move {
            assert!(kib_in_large_pages(values.as_ptr() as usize) >= LARGE_PAGE_BYTES >> 10);
        }
    }

    #[test]
    fn what_is_small_has_no_stretch() {
        assert!(!gather(&[0_u64; 64], 0));
        assert!(!gather::<u64>(&[], 0));
    }
}
