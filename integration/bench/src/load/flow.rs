//! What arrived of one flow: every number is remembered, so that a doubled one is told from a late one.

/// Numbers above this are no datagram of ours; the bitmap stays below 16 MiB.
const MOST: u64 = 1 << 27;

/// Arrivals of one flow.
#[derive(Default)]
pub(crate) struct Flow {
    seen: Vec<u64>,
    highest: Option<u64>,
    /// Different numbers that arrived.
    pub(crate) arrived: u64,
    pub(crate) doubled: u64,
    /// Arrived after a higher number had.
    pub(crate) reordered: u64,
}

impl Flow {
    pub(crate) fn take(&mut self, number: u64) {
        if number >= MOST {
            return;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.seen.len() {
            self.seen.resize((word + 1).next_power_of_two(), 0);
        }
        if self.seen[word] & bit != 0 {
            self.doubled += 1;
            return;
        }
        self.seen[word] |= bit;
        self.arrived += 1;
        if self.highest.is_some_and(|highest| number < highest) {
            self.reordered += 1;
        } else {
            self.highest = Some(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_late_and_missing_numbers_are_told_apart() {
        let mut flow = Flow::default();
        for number in [0, 1, 3, 2, 3, 6, 1000, u64::MAX] {
            flow.take(number);
        }
        assert_eq!((flow.arrived, flow.doubled, flow.reordered), (6, 1, 1));
    }
}
