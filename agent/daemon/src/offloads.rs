//! The kernel's offloads by name: which the operator forbids, which are in use.

use serde::{Deserialize, Serialize};
use wattle_host::Offload;

/// An offload of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OffloadName {
    /// Virtio-net headers on the TUN device; the next two need them.
    Vnet,
    /// TCP super-packets on the TUN device; the next one needs them.
    Tso,
    /// UDP super-packets on the TUN device.
    Uso,
    /// Several datagrams in one send (`UDP_SEGMENT`).
    Gso,
    /// Several datagrams in one receive (`UDP_GRO`).
    Gro,
}

impl OffloadName {
    /// Every offload.
    pub const ALL: [Self; 5] = [Self::Vnet, Self::Tso, Self::Uso, Self::Gso, Self::Gro];

    /// The name in settings, reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vnet => "vnet",
            Self::Tso => "tso",
            Self::Uso => "uso",
            Self::Gso => "gso",
            Self::Gro => "gro",
        }
    }
}

/// Which offloads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offloads {
    /// Those of the device.
    pub(crate) tun: Offload,
    /// Whether datagrams are sent together.
    pub(crate) gso: bool,
    /// Whether datagrams are received together.
    pub(crate) gro: bool,
}

impl Default for Offloads {
    fn default() -> Self {
        Self::without(&OffloadName::ALL)
    }
}

impl Offloads {
    /// All that may be asked of the kernel when these are forbidden.
    pub(crate) fn without(forbidden: &[OffloadName]) -> Self {
        let may = |name| !forbidden.contains(&name);
        let tun = match [OffloadName::Vnet, OffloadName::Tso, OffloadName::Uso].map(may) {
            [false, _, _] => Offload::None,
            [true, false, _] => Offload::Header,
            [true, true, false] => Offload::Tcp,
            [true, true, true] => Offload::TcpUdp,
        };
        Self {
            tun,
            gso: may(OffloadName::Gso),
            gro: may(OffloadName::Gro),
        }
    }

    /// Whether there is an offload.
    pub(crate) fn has(self, name: OffloadName) -> bool {
        match name {
            OffloadName::Vnet => self.tun >= Offload::Header,
            OffloadName::Tso => self.tun >= Offload::Tcp,
            OffloadName::Uso => self.tun >= Offload::TcpUdp,
            OffloadName::Gso => self.gso,
            OffloadName::Gro => self.gro,
        }
    }

    /// The names of those that there are.
    pub(crate) fn names(self) -> Vec<String> {
        let names = OffloadName::ALL.into_iter().filter(|name| self.has(*name));
        names.map(|name| name.name().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_forbidden_offload_goes_with_it() {
        use OffloadName::{Gro, Gso, Tso, Uso, Vnet};
        for (forbidden, left) in [
            (&[][..], &["vnet", "tso", "uso", "gso", "gro"][..]),
            (&[Uso], &["vnet", "tso", "gso", "gro"]),
            (&[Tso], &["vnet", "gso", "gro"]),
            (&[Vnet], &["gso", "gro"]),
            (&[Gso, Uso], &["vnet", "tso", "gro"]),
            (&[Gro, Gro], &["vnet", "tso", "uso", "gso"]),
            (&OffloadName::ALL, &[]),
        ] {
            assert_eq!(Offloads::without(forbidden).names(), left, "{forbidden:?}");
        }
    }
}
