//! A set of page-granular address ranges.

use std::collections::BTreeMap;

/// Disjoint half-open ranges that never touch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    /// Start to end.
    map: BTreeMap<u64, u64>,
}

impl Ranges {
    pub(crate) fn contains(&self, at: u64) -> bool {
        self.map
            .range(..=at)
            .next_back()
            .is_some_and(|(_, &end)| at < end)
    }

    /// Whether any address of `start..end` is in the set.
    pub(crate) fn touches(&self, start: u64, end: u64) -> bool {
        self.contains(start) || self.map.range(start..end).next().is_some()
    }

    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if let Some((&before, &before_end)) = self.map.range(..=start).next_back()
            && before_end >= start
        {
            start = before;
            end = end.max(before_end);
        }
        while let Some((&next, &next_end)) = self.map.range(start..=end).next() {
            self.map.remove(&next);
            end = end.max(next_end);
        }
        self.map.insert(start, end);
    }

    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        if let Some((&before, &before_end)) = self.map.range(..start).next_back()
            && before_end > start
        {
            self.map.insert(before, start);
            if before_end > end {
                self.map.insert(end, before_end);
            }
        }
        while let Some((&next, &next_end)) = self.map.range(start..end).next() {
            self.map.remove(&next);
            if next_end > end {
                self.map.insert(end, next_end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_agrees_with_a_bitmap() {
        let mut set = Ranges::default();
        let mut bits = [false; 64];
        let mut seed = 1_u64;
        for _ in 0..4000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let start = seed >> 58;
            let end = (start + 1 + (seed >> 40 & 15)).min(64);
            let on = seed >> 33 & 1 == 1;
            if on {
                set.insert(start, end);
            } else {
                set.remove(start, end);
            }
            bits[start as usize..end as usize].fill(on);
            for (at, &bit) in bits.iter().enumerate() {
                assert_eq!(set.contains(at as u64), bit);
            }
            assert_eq!(
                set.touches(start, end),
                bits[start as usize..end as usize].contains(&true)
            );
        }
    }
}
