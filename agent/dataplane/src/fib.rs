//! Longest-prefix match: prefixes flattened into disjoint ranges, looked up by one binary search.

use std::net::IpAddr;

use wattle_model::Prefix;

/// A map from prefixes to values; an address finds the value of the longest prefix that holds it.
#[derive(Debug, Clone)]
pub struct PrefixMap<T> {
    prefixes: Vec<Prefix>,
    /// One for each of `prefixes`.
    values: Vec<T>,
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self {
            prefixes: Vec::new(),
            values: Vec::new(),
            v4: Ranges::default(),
            v6: Ranges::default(),
        }
    }
}

impl<T> PrefixMap<T> {
    /// The map of these prefixes; of equal ones the last counts.
    pub fn new(entries: impl IntoIterator<Item = (Prefix, T)>) -> Self {
        let mut prefixes = Vec::new();
        let mut values = Vec::new();
        for (prefix, value) in entries {
            prefixes.push((prefix, values.len() as u32));
            values.push(value);
        }
        let given = prefixes.iter().map(|(prefix, _)| *prefix).collect();
        // Outer before inner, and of equal ones the last given innermost: the sweep then only looks at the top.
        prefixes.sort_by_key(|(prefix, index)| (prefix.address(), prefix.length(), *index));
        let family = |want_v6: bool| {
            prefixes
                .iter()
                .filter(move |(prefix, _)| prefix.is_ipv6() == want_v6)
        };
        let v4 = Ranges::sweep(family(false).map(|(prefix, index)| match prefix.address() {
            IpAddr::V4(v4) => (
                u32::from(v4),
                u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0),
                *index,
            ),
            IpAddr::V6(_) => unreachable!("filtered by family"),
        }));
        let v6 = Ranges::sweep(family(true).map(|(prefix, index)| match prefix.address() {
            IpAddr::V6(v6) => (
                u128::from(v6),
                u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0),
                *index,
            ),
            IpAddr::V4(_) => unreachable!("filtered by family"),
        }));
        Self {
            prefixes: given,
            values,
            v4,
            v6,
        }
    }

    /// The value of the longest prefix that holds `address`.
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        let index = match address {
            IpAddr::V4(v4) => self.v4.lookup(u32::from(v4)),
            IpAddr::V6(v6) => self.v6.lookup(u128::from(v6)),
        }?;
        self.values.get(index as usize)
    }

    /// The prefixes in the order in which they were given, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &T)> {
        self.prefixes.iter().copied().zip(&self.values)
    }

    /// How many prefixes were given.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no prefix was given.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// Where each range begins, and which value it has; a range ends where the next begins.
#[derive(Debug, Clone)]
struct Ranges<A> {
    starts: Vec<A>,
    values: Vec<Option<u32>>,
}

impl<A> Default for Ranges<A> {
    fn default() -> Self {
        Self {
            starts: Vec::new(),
            values: Vec::new(),
        }
    }
}

/// An address as a number.
trait Address: Copy + Ord + std::ops::BitOr<Output = Self> {
    fn successor(self) -> Option<Self>;
}

impl Address for u32 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Address for u128 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl<A: Address> Ranges<A> {
    /// Flattens prefixes `(first address, mask of host bits, value)`, sorted so that outer ones come before inner ones.
    fn sweep(prefixes: impl Iterator<Item = (A, A, u32)>) -> Self {
        let mut ranges = Self::default();
        let mut open: Vec<(A, u32)> = Vec::new();
        for (first, host_bits, value) in prefixes {
            ranges.leave(&mut open, Some(first));
            ranges.begin(first, Some(value));
            open.push((first | host_bits, value));
        }
        ranges.leave(&mut open, None);
        ranges
    }

    /// Ends the prefixes that lie before `next`; what surrounds each goes on behind it.
    fn leave(&mut self, open: &mut Vec<(A, u32)>, next: Option<A>) {
        while let Some((last, _)) = open.last().copied() {
            if next.is_some_and(|next| next <= last) {
                return;
            }
            open.pop();
            if let Some(after) = last.successor() {
                self.begin(after, open.last().map(|(_, value)| *value));
            }
        }
    }

    fn begin(&mut self, start: A, value: Option<u32>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.values.pop();
        }
        self.starts.push(start);
        self.values.push(value);
    }

    fn lookup(&self, address: A) -> Option<u32> {
        let after = self.starts.partition_point(|start| *start <= address);
        *self.values.get(after.checked_sub(1)?)?
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn linear(entries: &[(Prefix, usize)], address: IpAddr) -> Option<usize> {
        let holding = entries
            .iter()
            .filter(|(prefix, _)| prefix.contains(address));
        holding
            .max_by_key(|(prefix, index)| (prefix.length(), *index))
            .map(|(_, index)| *index)
    }

    #[test]
    fn what_was_given_can_be_listed() {
        let given: [(Prefix, u8); 3] = [
            ("10.0.0.0/8".parse().unwrap(), 1),
            ("10.1.0.0/16".parse().unwrap(), 2),
            ("fd00::/8".parse().unwrap(), 3),
        ];
        let map = PrefixMap::new(given);
        let listed: Vec<_> = map.iter().map(|(prefix, value)| (prefix, *value)).collect();
        assert_eq!(listed, given);
    }

    #[test]
    fn the_default_route_and_the_last_address_are_found() {
        let map = PrefixMap::new([
            ("0.0.0.0/0".parse().unwrap(), 1),
            ("255.255.255.255/32".parse().unwrap(), 2),
            ("::/0".parse().unwrap(), 3),
        ]);
        assert_eq!(map.lookup("255.255.255.255".parse().unwrap()), Some(&2));
        assert_eq!(map.lookup("255.255.255.254".parse().unwrap()), Some(&1));
        assert_eq!(map.lookup("ffff::1".parse().unwrap()), Some(&3));
        assert_eq!(
            PrefixMap::<u8>::default().lookup("1.1.1.1".parse().unwrap()),
            None
        );
    }

    proptest! {
        #[test]
        fn lookup_is_a_linear_scan(
            v4 in proptest::collection::vec((0_u32..64, 24_u8..=32), 0..40),
            v6 in proptest::collection::vec((0_u128..64, 120_u8..=128), 0..40),
        ) {
            // Few distinct addresses, so that prefixes nest, touch and repeat.
            let prefixes = v4.iter().map(|(bits, length)| Prefix::new(Ipv4Addr::from(bits * 3).into(), *length))
                .chain(v6.iter().map(|(bits, length)| Prefix::new(Ipv6Addr::from(bits * 3).into(), *length)));
            let entries: Vec<_> = prefixes.map(Option::unwrap).enumerate().map(|(index, prefix)| (prefix, index)).collect();
            let map = PrefixMap::new(entries.iter().copied());
            for bits in 0_u32..600 {
                for address in [IpAddr::from(Ipv4Addr::from(bits)), Ipv6Addr::from(u128::from(bits)).into()] {
                    prop_assert_eq!(map.lookup(address).copied(), linear(&entries, address), "{}", address);
                }
            }
        }
    }
}
