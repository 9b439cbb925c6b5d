//! How often one source may start a handshake while many want to: a bucket for each address that was proven.
//!
//! The limiter's cookie shows that a sender is answered at its address, and then lets it through without end; these
//! buckets end it (WireGuard white paper §5.3). An IPv6 source is its /64, whose holder can use every address in it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

/// Initiations of one source per second: what the kernel's WireGuard allows.
const PER_SECOND: u32 = 20;
/// Sources remembered, about 50 bytes each; the oldest is forgotten for the next.
const MAX_SOURCES: usize = 4_096;

/// The buckets of all sources, for [`Local::initiator`](crate::Local::initiator).
#[derive(Debug, Default)]
pub struct Shares {
    /// What a source has taken and not got back yet.
    taken: BTreeMap<IpAddr, u32>,
    /// Oldest first.
    order: VecDeque<IpAddr>,
}

impl Shares {
    /// Takes one handshake from the bucket of `address`; `false` if it is empty.
    pub(crate) fn take(&mut self, address: IpAddr) -> bool {
        let source = source_of(address);
        if !self.taken.contains_key(&source) {
            self.make_room();
            self.order.push_back(source);
        }
        let taken = self.taken.entry(source).or_default();
        let may = *taken < PER_SECOND;
        *taken += u32::from(may);
        may
    }

    /// Gives every source the next second's share; to be called once a second. Who has its whole share is forgotten.
    pub fn refill(&mut self) {
        self.taken.retain(|_, taken| {
            *taken = taken.saturating_sub(PER_SECOND);
            *taken > 0
        });
        self.order.retain(|source| self.taken.contains_key(source));
    }

    fn make_room(&mut self) {
        if self.order.len() == MAX_SOURCES
            && let Some(oldest) = self.order.pop_front()
        {
            self.taken.remove(&oldest);
        }
    }
}

fn source_of(address: IpAddr) -> IpAddr {
    const NETWORK: u128 = !(u64::MAX as u128);
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & NETWORK).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(shares: &mut Shares, address: &str) -> usize {
        let address = address.parse().unwrap();
        (0..100).filter(|_| shares.take(address)).count()
    }

    #[test]
    fn a_source_has_its_share_each_second_whatever_others_take() {
        let mut shares = Shares::default();
        assert_eq!(takes(&mut shares, "192.0.2.1"), 20);
        assert_eq!(takes(&mut shares, "192.0.2.2"), 20);
        assert_eq!(takes(&mut shares, "192.0.2.1"), 0);
        shares.refill();
        assert_eq!(takes(&mut shares, "192.0.2.1"), 20);
    }

    #[test]
    fn a_network_of_64_bits_is_one_source_and_so_is_a_mapped_address() {
        let mut shares = Shares::default();
        assert_eq!(takes(&mut shares, "2001:db8::1"), 20);
        assert_eq!(takes(&mut shares, "2001:db8::ffff:0:0:2"), 0);
        assert_eq!(takes(&mut shares, "2001:db8:0:1::1"), 20);
        assert_eq!(takes(&mut shares, "192.0.2.1"), 20);
        assert_eq!(takes(&mut shares, "::ffff:192.0.2.1"), 0);
    }

    #[test]
    fn no_more_sources_are_remembered_than_there_is_room_for_and_the_oldest_goes_first() {
        let mut shares = Shares::default();
        for number in 0..=MAX_SOURCES as u32 {
            shares.take(std::net::Ipv4Addr::from(number).into());
        }
        assert_eq!(
            (shares.taken.len(), shares.order.len()),
            (MAX_SOURCES, MAX_SOURCES)
        );
        assert!(!shares.taken.contains_key(&IpAddr::from([0, 0, 0, 0])));
        shares.refill();
        assert_eq!((shares.taken.len(), shares.order.len()), (0, 0));
    }
}
